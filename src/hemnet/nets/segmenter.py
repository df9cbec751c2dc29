"""The network: backbone, head, and an optional auxiliary head on the stage before the last.

Shapes: B images, K classes, H and W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmenterOutput(NamedTuple):
    """Logits at the asked-for resolution.

    ``logits`` is (B, K, H, W), float32 at least; ``auxiliary`` the same from the auxiliary head, in training
    and where there is one, else None.
    """

    logits: Tensor
    auxiliary: Tensor | None = None


class Segmenter(nn.Module):
    """A backbone and the heads that read its feature maps.

    Args:
        backbone: maps images to a tuple of feature maps.
        head: maps that tuple to logits at the resolution of its last map.
        auxiliary: another head, for deep supervision while training; never run in eval mode.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary

    def forward(self, image_BCHW: Tensor, size: tuple[int, int] | None = None) -> SegmenterOutput:
        """Return logits for normalised images (B, 3, H, W), at ``size`` or else at the images' own size."""
        size = size or (image_BCHW.shape[-2], image_BCHW.shape[-1])
        features = self.backbone(image_BCHW)
        logits = _upsample(self.head(features), size)
        if self.auxiliary is None or not self.training:
            return SegmenterOutput(logits)
        return SegmenterOutput(logits, _upsample(self.auxiliary(features), size))


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    # In float32 at least: a half-precision interpolation would round the logits that decide the argmax.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
