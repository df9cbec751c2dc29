"""The heads that EM heads are compared with; signatures as in ``nets.heads``.

Shapes: B images, C channels, N = h·w positions of a feature map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemnet.nets.heads import FCNHead, conv_bn_relu


class NonLocalBlock(nn.Module):
    """x + BN(conv(softmax(q·k / sqrt(d)) v)): embedded-Gaussian attention of all positions to all.

    Source: Wang et al., Non-local Neural Networks (CVPR 2018). The last normalisation starts at zero, so
    the block starts as the identity. Time grows with N², and so does memory where torch has no fused
    attention for the device.

    Args:
        channels: C of input and output.
        inner: d, channels of queries, keys and values.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.query_key_value = nn.Conv2d(channels, 3 * inner, 1)
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        # With an axis for attention heads, here one: ONNX translates attention in this form only.
        q, k, v = (part.flatten(2).mT[:, None] for part in self.query_key_value(x_BChw).chunk(3, dim=1))
        attended_BNd = F.scaled_dot_product_attention(q, k, v)[:, 0]
        return x_BChw + self.bn(self.out(attended_BNd.mT.unflatten(2, x_BChw.shape[2:])))


class NonLocalHead(FCNHead):
    """The FCN head with a non-local block as its context; otherwise the same as ``EMHead``.

    Args:
        in_channels: channels of each feature map of the backbone.
        num_classes: logits to produce.
        channels: channels of the block's input and output; half of them inside.
        dropout: probability of dropping a channel before the classifier.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__(in_channels, num_classes, channels=channels, dropout=dropout)
        self.context = NonLocalBlock(channels, channels // 2)


class PSPHead(nn.Module):
    """Pyramid pooling over the whole image and its 2x2, 3x3 and 6x6 parts.

    Source: Zhao et al., Pyramid Scene Parsing Network (CVPR 2017).

    Args:
        in_channels: channels of each feature map of the backbone; the last one is read.
        num_classes: logits to produce.
        channels: channels of each pooled branch and after the fusion.
        bins: parts per side, one branch each.
        dropout: probability of dropping a channel before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        deepest = in_channels[-1]
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), conv_bn_relu(deepest, channels, 1)) for size in bins
        )
        self.fuse = conv_bn_relu(deepest + len(bins) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, h, w) of the last feature map, (B, C, h, w)."""
        x = features[-1]
        pooled = [_resize(branch(x), x) for branch in self.branches]
        return self.classifier(self.dropout(self.fuse(torch.cat([x, *pooled], dim=1))))


class DeepLabV3PlusHead(nn.Module):
    """Atrous spatial pyramid pooling, and a decoder that refines it with the first stage's map.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution (ECCV 2018), with plain
    convolutions as in its ResNet-101 experiments.

    Args:
        in_channels: channels of each feature map of the backbone; the first and the last are read.
        num_classes: logits to produce.
        channels: channels of each branch and of the decoder.
        low_channels: channels that the first stage's map is reduced to.
        dilations: of the 3x3 branches: (6, 12, 18) at output stride 16, (12, 24, 36) at 8.
        dropout: probability of dropping a channel before the classifier.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        low_channels: int = 48,
        dilations: Sequence[int] = (12, 24, 36),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        deepest = in_channels[-1]
        self.pointwise = conv_bn_relu(deepest, channels, 1)
        self.atrous = nn.ModuleList(conv_bn_relu(deepest, channels, dilation=rate) for rate in dilations)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn_relu(deepest, channels, 1))
        self.project = conv_bn_relu((2 + len(dilations)) * channels, channels, 1)
        self.low = conv_bn_relu(in_channels[0], low_channels, 1)
        self.decode = nn.Sequential(
            conv_bn_relu(channels + low_channels, channels), conv_bn_relu(channels, channels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, h, w) at the resolution of the first feature map."""
        first, last = features[0], features[-1]
        branches = [self.pointwise(last), *(branch(last) for branch in self.atrous)]
        pyramid = self.project(torch.cat([*branches, _resize(self.whole(last), last)], dim=1))
        decoded = self.decode(torch.cat([_resize(pyramid, first), self.low(first)], dim=1))
        return self.classifier(self.dropout(decoded))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
