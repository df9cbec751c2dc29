"""What residual networks compute: the strided ones against a reference, the dilated against the strided."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemnet.nets import ResNet


@cache
def reference_state(depth: int, stem: str = "standard") -> dict[str, Tensor]:
    """Random weights in float64, with norms that have statistics, scales and shifts of their own."""
    generator = torch.Generator().manual_seed(depth)
    torch.manual_seed(depth)
    network = ResNet(depth, stem=stem, width=4).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_(0, 0.1, generator=generator)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.state_dict()


def loaded(depth: int, stem: str = "standard", **options) -> ResNet:
    network = ResNet(depth, stem=stem, width=4, **options).double().eval()
    network.load_state_dict(reference_state(depth, stem))
    return network


def image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def strided_forward(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """An undilated ResNet v1.5 in eval mode as functions of a checkpoint: an independent reference."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{leaf}"][:, None, None]
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    if "conv1.weight" in state:
        x = conv("conv1", x, 2)
    else:
        x = conv("conv1.0", x, 2)
        x = conv("conv1.3", norm("conv1.1", x).clamp(min=0))
        x = conv("conv1.6", norm("conv1.4", x).clamp(min=0))
    x = F.max_pool2d(norm("bn1", x).clamp(min=0), 3, 2, 1)
    maps = []
    for stage in (1, 2, 3, 4):
        for b in range(sum(f"layer{stage}.{b}.bn1.weight" in state for b in range(23))):
            block = f"layer{stage}.{b}"
            stride = 2 if stage > 1 and b == 0 else 1
            last = 3 if f"{block}.conv3.weight" in state else 2
            y = x
            for j in range(1, last + 1):
                # "v1.5": the stride is on the first 3x3 convolution, also in a bottleneck.
                strided = j == (2 if last == 3 else 1)
                y = norm(f"{block}.bn{j}", conv(f"{block}.conv{j}", y, stride if strided else 1))
                y = y.clamp(min=0) if j < last else y
            if f"{block}.downsample.0.weight" in state:
                x = norm(f"{block}.downsample.1", conv(f"{block}.downsample.0", x, stride))
            x = (x + y).clamp(min=0)
        maps.append(x)
    return maps


def assert_same(actual: Tensor, expected: Tensor) -> None:
    # Float64 sums in another order: a few hundred layers and terms of 1e-16 of the map's largest value.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("depth", "stem"), [(18, "standard"), (34, "standard"), (50, "deep"), (101, "standard")]
)
def test_strided_network_computes_the_reference(depth, stem):
    x = image(65, 71)
    with torch.no_grad():
        for actual, expected in zip(
            loaded(depth, stem, output_stride=32)(x),
            strided_forward(reference_state(depth, stem), x),
            strict=True,
        ):
            assert_same(actual, expected)


@pytest.mark.parametrize("multi_grid", [None, [1, 2, 4], [2, 1]])
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_dilated_maps_hold_the_strided_ones(depth, output_stride, multi_grid):
    """The atrous algorithm: what a stride would have skipped is computed too, and nothing else changes.

    Zero padding grows with the dilation, so this holds to the border, for odd sizes as well.
    """
    x = image(65, 97)
    with torch.no_grad():
        dilated = loaded(depth, output_stride=output_stride, multi_grid=multi_grid)(x)
        strided = loaded(depth, output_stride=32, multi_grid=multi_grid)(x)
    for dense, sparse, stride in zip(dilated, strided, (4, 8, 16, 32), strict=True):
        step = stride // min(stride, output_stride)
        assert_same(dense[..., ::step, ::step], sparse)
    # Without this, equal maps of one position each would pass.
    assert strided[-1].shape[-2:] == (3, 4)


def test_features_are_not_overwritten_by_later_stages():
    """The in-place activations work on tensors of their own: each stage again, alone, gives its map."""
    network, x = loaded(18), image(32, 32)
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    y = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for stage, feature in zip(stages, network(x), strict=True):
        y = stage(y.clone())
        assert torch.equal(feature, y)


@pytest.mark.parametrize("depth", [18, 50])
def test_every_block_starts_as_its_shortcut(depth):
    """A new network's residual branches give exactly 0, so a map passes a block without a stride as it is."""
    network = ResNet(depth, width=4).double()
    for feature, stage in zip(network(image(32, 32)), (network.layer1, network.layer2), strict=False):
        assert feature.any()
        assert torch.equal(stage[1](feature), feature)
