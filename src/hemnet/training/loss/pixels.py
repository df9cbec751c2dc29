"""Losses that are means over pixels: cross-entropy over all valid ones or over the hard ones, and focal loss.

Shapes: B images, K classes, H and W pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from hemnet.training.loss.base import Loss, PixelSum
from hemnet.training.loss.class_weights import ClassWeights, Rule


def _cross_entropy(
    logits_BKHW: Tensor,
    target_BHW: Tensor,
    ignore_index: int,
    reduction: str,
    weights_K: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy, float32 or wider: (B, H, W), or () for reduction "sum"."""
    logits, target = logits_BKHW.to(torch.promote_types(logits_BKHW.dtype, torch.float32)), target_BHW
    if torch.are_deterministic_algorithms_enabled():
        # On CUDA, only the loss of a flat list of pixels has a deterministic implementation.
        logits, target = logits.permute(0, 2, 3, 1).flatten(0, 2), target.flatten()
    weight = None if weights_K is None else weights_K.to(logits.dtype)
    loss = F.cross_entropy(
        logits, target, weight, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing,
    )  # fmt: skip
    return loss if reduction == "sum" else loss.view_as(target_BHW)


def cross_entropy_sum(logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int = 255) -> PixelSum:
    """Return the cross-entropy summed over the valid pixels of the batch, and their number."""
    total = _cross_entropy(logits_BKHW, target_BHW.long(), ignore_index, "sum")
    return PixelSum(total, (target_BHW != ignore_index).sum())


class PixelLoss(Loss):
    """A loss that is a mean over pixels; its two sums are those of `PixelSum`."""

    def value(self, *sums: Tensor) -> Tensor:
        """Return the mean over the pixels; 0 with zero gradients if there are none."""
        return PixelSum(*sums).mean()


class _Weighted(PixelLoss):
    """A mean over pixels in which a pixel has the weight of its true class."""

    def __init__(self, factor: float, class_weights: Sequence[float] | Rule | None) -> None:
        super().__init__(factor)
        self.class_weights = None if class_weights is None else ClassWeights(class_weights)

    @property
    def weights_K(self) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.weights_K

    def _weight(self, target_BHW: Tensor, ignore_index: int) -> Tensor:
        """Return the number of valid pixels, or the sum of their weights."""
        valid_BHW = target_BHW != ignore_index
        return valid_BHW.sum() if self.weights_K is None else self.weights_K[target_BHW[valid_BHW]].sum()


class CrossEntropy(_Weighted):
    """Cross-entropy, the mean over the valid pixels; torch's, as of the pixels of all ranks in one batch.

    Args:
        class_weights: a number per class, or a rule of `ClassWeights`; None weighs pixels alike. The mean is
            weighted, Σ w_y·loss / Σ w_y.
        label_smoothing: the share of the target's probability that is spread evenly over all classes, in
            [0, 1).

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> logits_BKHW, target_BHW = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 255]]])
        >>> CrossEntropy()(logits_BKHW, target_BHW)  # log 2 in either of the two pixels that count
        tensor(0.6931)
        >>> round(float(CrossEntropy(class_weights=[1.0, 3.0])(logits_BKHW, target_BHW)), 4)
        0.6931
    """

    def __init__(
        self,
        factor: float = 1.0,
        class_weights: Sequence[float] | Rule | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(factor, class_weights)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}: give a number in [0, 1)")
        self.label_smoothing = label_smoothing

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> PixelSum:
        """Return the loss summed over the valid pixels, and their number or weight."""
        total = _cross_entropy(
            logits_BKHW, target_BHW, ignore_index, "sum", self.weights_K, self.label_smoothing
        )
        return PixelSum(total, self._weight(target_BHW, ignore_index))


class Focal(_Weighted):
    """Focal loss, the mean of -(1 - p)^γ log p over the valid pixels, p being the true class's probability.

    Source: Lin et al. (ICCV 2017), equation 5, with softmax probabilities; its α are the class weights.

    Args:
        gamma: γ >= 0; 0 is cross-entropy.
        class_weights: as in `CrossEntropy`.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        factor: float = 1.0,
        gamma: float = 2.0,
        class_weights: Sequence[float] | Rule | None = None,
    ) -> None:
        super().__init__(factor, class_weights)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma is {gamma}: give a number of 0 or more")
        self.gamma = gamma

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> PixelSum:
        """Return the loss summed over the valid pixels, and their number or weight."""
        loss_BHW = _cross_entropy(logits_BKHW, target_BHW, ignore_index, "none")
        # Below this, 1 - p has no bits that mean anything, and a power below 1 would have an infinite slope.
        wrong_BHW = (-torch.expm1(-loss_BHW)).clamp(min=torch.finfo(loss_BHW.dtype).tiny ** 0.5)
        focal_BHW = wrong_BHW**self.gamma * loss_BHW
        if self.weights_K is not None:
            known_BHW = torch.where(target_BHW == ignore_index, 0, target_BHW)
            focal_BHW = focal_BHW * self.weights_K[known_BHW]
        return PixelSum(focal_BHW.sum(), self._weight(target_BHW, ignore_index))


class HardPixels(PixelLoss):
    """Online hard example mining: the mean of the cross-entropy over the hard pixels only.

    Source: Shrivastava et al. (CVPR 2016), applied to pixels as is usual in segmentation. Each rank chooses
    among the pixels of its own batch; the loss is the mean over the chosen pixels of all ranks.

    Args:
        threshold: a pixel is hard if the probability of its true class is below this, in (0, 1].
        at_least: the hardest pixels that count in any case, as a share of the batch's valid pixels, in (0,
            1].

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, threshold: float = 0.7, at_least: float = 1 / 16, factor: float = 1.0) -> None:
        super().__init__(factor)
        if not (0 < threshold <= 1 and 0 < at_least <= 1):
            raise ValueError(f"threshold is {threshold} and at_least {at_least}; both must be in (0, 1]")
        self.threshold, self.at_least = threshold, at_least

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> PixelSum:
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
