"""Dilated residual networks with the parameter names of the usual ImageNet checkpoints.

Shapes: B images, C channels, H and W positions of the image, h and w of a feature map.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from hemnet.nets.activation_checkpointing import stage_maps
from hemnet.nets.weights import load_pretrained

Depth = Literal[18, 34, 50, 101]
STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Stride and dilation of the four stages for each output stride. A stage that would exceed the output stride
# keeps the size of its map and dilates its kernels instead (Yu and Koltun, 2016).
STAGE_GEOMETRY: dict[int, tuple[tuple[int, int], ...]] = {
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}

# Dilations of a block before and after its stride. They differ if a dilation replaces the stride: the later
# convolutions then sample a grid twice as wide.
Dilations = tuple[int, int]


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded to keep the size of its input at stride 1."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, figure 5 left)."""

    expansion = 1

    def __init__(
        self, c_in: int, width: int, stride: int, dilations: Dilations, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, width, 3, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, h, w) to (B, width, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions and a shortcut: the "v1.5" layout of current checkpoints."""

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int, dilations: Dilations, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, h, w) to (B, 4 width, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """A residual network that returns the feature maps of its four stages.

    Networks that differ only in output stride compute the same function: with the same weights, in eval mode,
    every second (or fourth) position of a dilated network's map equals the map of the strided network.

    Args:
        depth: 18, 34, 50 or 101 layers.
        output_stride: image size over the size of the last feature map: 8, 16 or 32.
        stem: ``standard``, one 7x7 convolution; ``deep``, three 3x3 convolutions ("ResNet-C/D" stem).
        multi_grid: factors on the dilations of the last stage's blocks, repeated as often as needed
            (Chen et al., 2017); null keeps the blocks alike.
        width: channels of the first stage, 64 in the published networks; smaller for small machines.
        activation_checkpointing: in training, keep only the input of each block and run the block again in
            the backward pass, uncompiled: less memory, more time, the same numbers (see `recompute`).
        weights: null for random initial weights, or the path or URL of a checkpoint (see
            :func:`hemnet.nets.weights.load_pretrained`).

    Raises:
        ValueError: depth, output stride, stem, multi_grid or width is not accepted.
        hemnet.errors.HemnetError: the weights cannot be loaded or do not fit.
    """

    def __init__(
        self,
        depth: Depth = 50,
        output_stride: Literal[8, 16, 32] = 8,
        stem: Literal["standard", "deep"] = "standard",
        multi_grid: Sequence[int] | None = None,
        width: int = 64,
        activation_checkpointing: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        _validate(depth, output_stride, stem, multi_grid, width)
        self._c_in = width if stem == "standard" else 2 * width
        self.conv1 = _conv(3, width, 7, stride=2) if stem == "standard" else _deep_stem(width)
        self.bn1 = nn.BatchNorm2d(self._c_in)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block = BasicBlock if depth < 50 else Bottleneck
        grids = ((1,), (1,), (1,), tuple(multi_grid or (1,)))
        stages = zip(STAGE_BLOCKS[depth], STAGE_GEOMETRY[output_stride], grids, strict=True)
        incoming_dilation = 1
        layers: list[nn.Module] = []
        for i, (count, (stride, dilation), grid) in enumerate(stages):
            dilations = [(dilation * grid[b % len(grid)],) * 2 for b in range(count)]
            # Before its stride, the first block of a stage still samples the grid of the previous stage.
            dilations[0] = (incoming_dilation * grid[0], dilation * grid[0])
            layers.append(self._stage(block, width * 2**i, stride, dilations))
            incoming_dilation = dilation
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.activation_checkpointing = activation_checkpointing
        self.output_stride = output_stride
        self.channels: tuple[int, ...] = tuple(width * 2**i * block.expansion for i in range(4))
        self._initialize()
        if weights is not None:
            load_pretrained(self, weights)

    def _stage(
        self, block: type[BasicBlock] | type[Bottleneck], width: int, stride: int, dilations: list[Dilations]
    ) -> nn.Sequential:
        blocks: list[nn.Module] = []
        for i, block_dilations in enumerate(dilations):
            c_out, step = width * block.expansion, stride if i == 0 else 1
            shortcut = None
            if step != 1 or self._c_in != c_out:
                shortcut = nn.Sequential(_conv(self._c_in, c_out, 1, step), nn.BatchNorm2d(c_out))
            blocks.append(block(self._c_in, width, step, block_dilations, shortcut))
            self._c_in = c_out
        return nn.Sequential(*blocks)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Every block starts as its shortcut (Goyal et al., 2017). Deep features are then as local as the
        # stem's at first, so that a head can group positions by appearance from random weights on.
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the four stages' maps, (B, channels[i], h_i, w_i), for normalised images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image_BCHW))))
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return stage_maps(stages, x, self.activation_checkpointing and self.training)


def _deep_stem(width: int) -> nn.Sequential:
    """Return three 3x3 convolutions; the indices 0, 1, 3, 4, 6 are those of published checkpoints."""
    return nn.Sequential(
        _conv(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        _conv(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        _conv(width, 2 * width, 3),
    )  # fmt: skip


def _validate(
    depth: int, output_stride: int, stem: str, multi_grid: Sequence[int] | None, width: int
) -> None:
    """Raise a ValueError that names the argument and what it may be."""
    for name, value, options in (
        ("depth", depth, list(STAGE_BLOCKS)),
        ("output_stride", output_stride, list(STAGE_GEOMETRY)),
        ("stem", stem, ["standard", "deep"]),
    ):
        if value not in options:
            raise ValueError(f"ResNet {name} is {value!r}: use one of {options}")
    if multi_grid is not None and (not multi_grid or min(multi_grid) < 1):
        raise ValueError(f"ResNet multi_grid is {list(multi_grid)}: give positive factors, such as [1, 2, 4]")
    if width < 1:
        raise ValueError(f"ResNet width is {width!r}: give the channels of the first stage, 1 or more")
