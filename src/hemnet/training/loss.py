"""Losses: cross-entropy over all valid pixels, or over the hard ones.

A loss is a callable that returns a `PixelSum`, as `cross_entropy_sum` does.

Shapes: B images, K classes, H and W pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class PixelSum(NamedTuple):
    """A loss summed over pixels, ``total`` (), and the number of those pixels, ``pixels`` () int64.

    Sums rather than means, since batches differ in how many pixels count: only sums can be combined exactly.
    """

    total: Tensor
    pixels: Tensor

    def mean(self) -> Tensor:
        """Return the mean over the pixels; 0 with zero gradients if there are none."""
        return self.total / self.pixels.clamp(min=1)


def _cross_entropy(logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """Return the cross-entropy, float32 or wider: (B, H, W), or () for reduction "sum"."""
    logits = logits_BKHW.to(torch.promote_types(logits_BKHW.dtype, torch.float32))
    if not torch.are_deterministic_algorithms_enabled():
        return F.cross_entropy(logits, target_BHW, ignore_index=ignore_index, reduction=reduction)
    # On CUDA, only the loss of a flat list of pixels has a deterministic implementation.
    pixels, target = logits.permute(0, 2, 3, 1).flatten(0, 2), target_BHW.flatten()
    loss = F.cross_entropy(pixels, target, ignore_index=ignore_index, reduction=reduction)
    return loss if reduction == "sum" else loss.view_as(target_BHW)


def cross_entropy_sum(logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int = 255) -> PixelSum:
    """Return the cross-entropy summed over the valid pixels of the batch, and their number."""
    total = _cross_entropy(logits_BKHW, target_BHW, ignore_index, "sum")
    return PixelSum(total, (target_BHW != ignore_index).sum())


@dataclass(frozen=True)
class HardPixels:
    """Online hard example mining: only hard pixels count in the loss.

    Source: Shrivastava et al. (CVPR 2016), applied to pixels as is usual in segmentation. Each rank chooses
    among the pixels of its own batch; the loss is the mean over the chosen pixels of all ranks.

    Attributes:
        threshold: a pixel is hard if the probability of its true class is below this, in (0, 1].
        at_least: the hardest pixels that count in any case, as a share of the batch's valid pixels, in (0,
            1].

    Raises:
        ValueError: a number is out of range.
    """

    threshold: float = 0.7
    at_least: float = 1 / 16

    def __post_init__(self) -> None:
        if not (0 < self.threshold <= 1 and 0 < self.at_least <= 1):
            raise ValueError(
                f"threshold is {self.threshold} and at_least {self.at_least}; both must be in (0, 1]"
            )

    def __call__(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int = 255) -> PixelSum:
        """Return the cross-entropy summed over the hard pixels of the batch, and their number."""
        loss_BHW = _cross_entropy(logits_BKHW, target_BHW, ignore_index, "none")
        valid = loss_BHW[target_BHW != ignore_index]
        if not len(valid):
            return cross_entropy_sum(logits_BKHW, target_BHW, ignore_index)
        # The loss of a pixel is minus the logarithm of the probability of its true class.
        count = math.ceil(self.at_least * len(valid))
        limit = valid.detach().topk(count).values[-1].clamp(max=-math.log(self.threshold))
        hard = ~(valid < limit)  # not >=, so that a loss of NaN counts as hard
        return PixelSum(valid[hard].sum(), hard.sum())
