"""The segmenter: what it returns in training and evaluation, at which size and precision."""

import pytest
import torch
from torch import Tensor, nn

from hemnet.nets import EMHead, FCNHead, ResNet, Segmenter

CLASSES = 3


def segmenter(auxiliary: bool = True) -> Segmenter:
    torch.manual_seed(0)
    backbone = ResNet(18, 8, width=4)
    head = EMHead(backbone.channels, CLASSES, channels=8, num_components=4)
    return Segmenter(
        backbone, head, FCNHead(backbone.channels, CLASSES, channels=8, stage=2) if auxiliary else None
    )


def images(height: int = 33, width: int = 40) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


class Refuses(nn.Module):
    def forward(self, features: object) -> Tensor:
        raise AssertionError("the auxiliary head ran")


def test_auxiliary_logits_come_in_training():
    output = segmenter().train()(images())
    assert output.logits.shape == output.auxiliary.shape == (2, CLASSES, 33, 40)
    assert not torch.equal(output.logits, output.auxiliary)


def test_auxiliary_head_does_not_run_in_evaluation():
    network = segmenter().eval()
    network.auxiliary = Refuses()
    assert network(images()).auxiliary is None
    with pytest.raises(AssertionError, match="auxiliary"):
        network.train()(images())


@pytest.mark.parametrize("training", [True, False])
def test_without_an_auxiliary_head_there_is_none(training):
    assert segmenter(auxiliary=False).train(training)(images()).auxiliary is None


def test_size_is_that_of_the_logits():
    network = segmenter().train()
    output = network(images(), size=(20, 31))
    assert output.logits.shape == output.auxiliary.shape == (2, CLASSES, 20, 31)


def test_logits_are_the_head_s_interpolated():
    network = segmenter().eval()
    logits = network.head(network.backbone(images(32, 32)))
    assert logits.shape[-2:] == (4, 4)
    torch.testing.assert_close(network(images(32, 32), size=(4, 4)).logits, logits, rtol=0, atol=0)
    # Twice the size: pixel 1 lies a quarter of the way from position 0 to position 1, pixel 2 at 3/4.
    wide = network(images(32, 32), size=(4, 8)).logits
    between = (0.75 * logits[..., 0] + 0.25 * logits[..., 1], 0.25 * logits[..., 0] + 0.75 * logits[..., 1])
    # Three float32 operations on each side.
    torch.testing.assert_close(wide[..., 1], between[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(wide[..., 2], between[1], rtol=1e-6, atol=1e-6)


def test_logits_are_float32_and_interpolated_in_float32_under_autocast():
    network = segmenter().train()
    heads: list[Tensor] = []
    for head in (network.head, network.auxiliary):
        head.register_forward_hook(lambda module, inputs, logits: heads.append(logits))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images())
    assert [logits.dtype for logits in heads] == [torch.bfloat16] * 2
    for logits in output:
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        # Interpolated in bfloat16, every value would survive the rounding.
        assert not torch.equal(logits, logits.bfloat16().float())


def test_one_backward_pass_trains_backbone_and_both_heads():
    network = segmenter().train()
    output = network(images())
    (output.logits.square().mean() + output.auxiliary.square().mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert network.backbone.conv1.weight.grad.abs().sum() > 0


def test_evaluation_does_not_mix_the_images_of_a_batch():
    network, batch = segmenter().eval(), images()
    together = network(batch).logits
    for i in range(2):
        # Batched convolutions may sum in another order: float32 roundings through some 20 layers.
        torch.testing.assert_close(network(batch[i : i + 1]).logits[0], together[i], rtol=1e-4, atol=1e-4)


class Cells(nn.Module):
    """A backbone and head that say where their cells are: a position in pixels, as logits of two classes."""

    output_stride = 16

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor]:
        rows, columns = (-(-side // 16) for side in image_BCHW.shape[-2:])
        centres = [16 * torch.arange(n, dtype=torch.float64) + 7.5 for n in (rows, columns)]
        return (torch.stack(torch.meshgrid(*centres, indexing="ij"))[None],)


class Last(nn.Module):
    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return features[-1]


@pytest.mark.parametrize("height", [96, 90, 81])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_cell_stands_for_the_same_pixels_whatever_the_size(height: int, factor: int) -> None:
    """23 rows of 16 pixels are not stretched over 360: each pixel keeps its place among the cells."""
    image = torch.zeros(1, 3, height, 64)
    network = Segmenter(Cells(), Last())
    found = network(image, size=(height * factor, 64 * factor)).logits[0, 0, :, 0]
    expected = (torch.arange(height * factor, dtype=torch.float64) + 0.5) / factor - 0.5
    inside = slice(8 * factor, (height // 16 * 16 - 8) * factor)  # between the first and the last whole cell
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-6)
    if factor == 1:
        torch.testing.assert_close(network(image).logits[0, 0, :, 0], found)


@pytest.mark.parametrize("size", [(33, 40), (40, 50), (7, 90), (100, 33), (64, 61)])
def test_any_size_is_reached_from_an_image_that_is_filled_up(size: tuple[int, int]) -> None:
    network = segmenter(auxiliary=False).eval()
    for shape in ((33, 40), (31, 61), (40, 33)):
        assert network(images(*shape), size=size).logits.shape[-2:] == size


def test_a_backbone_without_a_stride_is_given_the_image_as_it_is() -> None:
    class Plain(nn.Module):
        def forward(self, image_BCHW: Tensor) -> tuple[Tensor]:
            assert image_BCHW.shape[-2:] == (33, 40)
            return (image_BCHW,)

    assert Segmenter(Plain(), Last())(images()).logits.shape[-2:] == (33, 40)


class TellsInside(nn.Module):
    """A head that keeps what it is told of padding."""

    mask_padding = True

    def forward(self, features: tuple[Tensor, ...], inside_B1hw: Tensor | None = None) -> Tensor:
        self.told = inside_B1hw
        return features[-1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [16, None])
def test_a_head_is_told_which_part_of_each_cell_is_of_the_image(training: bool, stride: int | None) -> None:
    """By counting pixels: padding of a crop on the left, labels aside, and that of the segmenter below."""
    backbone, head = Cells(), TellsInside()
    backbone.output_stride = stride or 1
    network = Segmenter(backbone, head).train(training)
    inside_BHW = torch.ones(2, 40 if stride else 48, 64, dtype=torch.bool)
    inside_BHW[1, :, :24] = False
    network(torch.zeros(2, 3, *inside_BHW.shape[1:]), inside_BHW=inside_BHW)
    expected = torch.zeros(2, 1, 3, 4)
    for b in range(2):
        for i in range(3):
            for j in range(4):
                cell = inside_BHW[b, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16]
                expected[b, 0, i, j] = int(cell.sum()) / 256
    assert torch.equal(head.told, expected)
    assert 0 < expected[1, 0, 0, 1] < 1


def test_padding_to_the_stride_is_told_without_a_crop_s_and_nothing_where_there_is_none() -> None:
    network = Segmenter(Cells(), head := TellsInside()).eval()
    network(torch.zeros(1, 3, 40, 64))
    assert head.told[0, 0, :, 0].tolist() == [1, 1, 0.5]
    network(torch.zeros(1, 3, 48, 64))
    assert head.told is None


def test_a_head_without_the_option_is_told_nothing() -> None:
    network = segmenter()
    assert not network.head.mask_padding  # as in runs older than the option
    network(images(), inside_BHW=torch.zeros(2, 33, 40, dtype=torch.bool))
