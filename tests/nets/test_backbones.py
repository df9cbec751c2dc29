"""Residual networks: names and shapes of published checkpoints, sizes, dilations, errors."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hemnet.nets import ResNet

DEPTHS = [18, 34, 50, 101]
BLOCKS = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def norm_entries(prefix: str, channels: int) -> Shapes:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.{leaf}", (channels,)
    yield f"{prefix}.num_batches_tracked", ()


def stem_entries(stem: str) -> Shapes:
    if stem == "standard":
        yield "conv1.weight", (64, 3, 7, 7)
        yield from norm_entries("bn1", 64)
        return
    for index, c_out, c_in in ((0, 64, 3), (3, 64, 64), (6, 128, 64)):
        yield f"conv1.{index}.weight", (c_out, c_in, 3, 3)
    yield from norm_entries("conv1.1", 64)
    yield from norm_entries("conv1.4", 64)
    yield from norm_entries("bn1", 128)


def published_entries(depth: int, stem: str) -> Shapes:
    """Names and shapes of an ImageNet checkpoint without its classifier, written from He et al.'s table 1."""
    yield from stem_entries(stem)
    c_in = 64 if stem == "standard" else 128
    for stage, count in enumerate(BLOCKS[depth]):
        width = 64 * 2**stage
        c_out = width if depth < 50 else 4 * width
        for b in range(count):
            block = f"layer{stage + 1}.{b}"
            if depth < 50:
                convolutions = [(c_in, width, 3), (width, width, 3)]
            else:
                convolutions = [(c_in, width, 1), (width, width, 3), (width, c_out, 1)]
            for j, (before, after, kernel) in enumerate(convolutions, start=1):
                yield f"{block}.conv{j}.weight", (after, before, kernel, kernel)
                yield from norm_entries(f"{block}.bn{j}", after)
            if b == 0 and (c_in != c_out or stage > 0):
                yield f"{block}.downsample.0.weight", (c_out, c_in, 1, 1)
                yield from norm_entries(f"{block}.downsample.1", c_out)
            c_in = c_out


def meta(depth: int, **options) -> ResNet:
    """A network of full width without memory for it."""
    with torch.device("meta"):
        return ResNet(depth, **options)


# --- names, shapes, sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["standard", "deep"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_state_has_the_names_and_shapes_of_published_checkpoints(depth, stem):
    own = {name: tuple(tensor.shape) for name, tensor in meta(depth, stem=stem).state_dict().items()}
    assert own == dict(published_entries(depth, stem))


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)]
)
def test_number_of_parameters_is_the_published_one(depth, count):
    assert sum(parameter.numel() for parameter in meta(depth).parameters()) == count


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("depth", DEPTHS)
def test_names_and_shapes_do_not_depend_on_the_output_stride(depth, output_stride):
    dilated = meta(depth, output_stride=output_stride, multi_grid=[1, 2, 4]).state_dict()
    assert {k: v.shape for k, v in dilated.items()} == {
        k: v.shape for k, v in meta(depth).state_dict().items()
    }


@pytest.mark.parametrize("size", [(64, 96), (65, 71), (33, 50)])
@pytest.mark.parametrize("stem", ["standard", "deep"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("depth", DEPTHS)
def test_map_sizes_are_the_image_over_the_stride_rounded_up(depth, output_stride, stem, size):
    network = meta(depth, output_stride=output_stride, stem=stem, width=8).eval()
    maps = network(torch.empty(1, 3, *size, device="meta"))
    expansion = 1 if depth < 50 else 4
    assert network.channels == tuple(8 * 2**i * expansion for i in range(4))
    for feature, channels, stride in zip(maps, network.channels, (4, 8, 16, 32), strict=True):
        step = min(stride, output_stride)
        assert feature.shape == (1, channels, math.ceil(size[0] / step), math.ceil(size[1] / step))


# --- dilations ----------------------------------------------------------------------------------------------


def dilations(network: ResNet, stage: int) -> list[list[int]]:
    """Dilation of each 3x3 convolution, block by block."""
    return [
        [m.dilation[0] for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for block in getattr(network, f"layer{stage}")
    ]


def test_dilations_of_the_published_output_stride_8():
    bottleneck, basic = meta(50, output_stride=8), meta(18, output_stride=8)
    assert dilations(bottleneck, 2) == [[1]] * 4
    assert dilations(bottleneck, 3) == [[1]] + [[2]] * 5
    assert dilations(bottleneck, 4) == [[2], [4], [4]]
    # A basic block's second convolution already comes after the stride that the dilation stands for.
    assert dilations(basic, 3) == [[1, 2], [2, 2]]
    assert dilations(basic, 4) == [[2, 4], [4, 4]]


@pytest.mark.parametrize(
    ("output_stride", "expected"), [(8, [[2], [8], [16]]), (16, [[1], [4], [8]]), (32, [[1], [2], [4]])]
)
def test_multi_grid_multiplies_the_dilations_of_the_last_stage_alone(output_stride, expected):
    network = meta(50, output_stride=output_stride, multi_grid=[1, 2, 4])
    assert dilations(network, 4) == expected
    assert dilations(network, 3) == dilations(meta(50, output_stride=output_stride), 3)


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, r"depth is 20: use one of \[18, 34, 50, 101\]"),
        ({"output_stride": 4}, r"output_stride is 4: use one of \[8, 16, 32\]"),
        ({"stem": "wide"}, r"stem is 'wide': use one of \['standard', 'deep'\]"),
        ({"multi_grid": []}, r"multi_grid is \[\]: give positive factors"),
        ({"multi_grid": [1, 0]}, r"multi_grid is \[1, 0\]"),
        ({"width": 0}, "width is 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**options)
