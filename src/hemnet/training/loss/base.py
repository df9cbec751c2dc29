"""What a loss is: sums over pixels, and a function of those sums; and its value over all ranks.

Batches differ in how many pixels count, so a mean of means would be wrong: it weighs a pixel more where
fewer count. Sums can be added up exactly, also those of Dice, whose value is no sum.

Shapes: B images, K classes, H and W pixels, R ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hemnet.processes.ranks import distributed

Sums = tuple[Tensor, ...]


class PixelSum(NamedTuple):
    """A loss summed over pixels, ``total`` (), and their number or weight, ``pixels`` ()."""

    total: Tensor
    pixels: Tensor

    def mean(self) -> Tensor:
        """Return the mean over the pixels; 0 with zero gradients if there are none."""
        return self.total / torch.where(self.pixels > 0, self.pixels, 1)


class Loss(nn.Module, ABC):
    """A loss that is a function of sums over pixels, and so has a value over the batches of all ranks.

    A loss of your own defines `sums` and `value`. It may hold buffers, but no parameters.

    Args:
        factor: by which it is multiplied where several losses are added, >= 0.

    Raises:
        ValueError: the factor is negative or not finite.
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        if not 0 <= factor < float("inf"):
            raise ValueError(f"factor is {factor}: give a number of 0 or more")
        self.factor = factor

    @abstractmethod
    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> Sums:
        """Return sums over the valid pixels of this process's batch, tensors of any shape.

        Args:
            logits_BKHW: (B, K, H, W), floating point.
            target_BHW: (B, H, W) int64, classes or ``ignore_index``.
            ignore_index: the label of pixels that do not count.
        """

    @abstractmethod
    def value(self, *sums: Tensor) -> Tensor:
        """Return the loss, a scalar, from the sums over all pixels that count; 0 if there are none."""

    def forward(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int = 255) -> Tensor:
        """Return the loss of this process's batch, a scalar."""
        return self.value(*self.sums(logits_BKHW, target_BHW.long(), ignore_index))


class Evaluated(NamedTuple):
    """The losses of one output of the network.

    part: this rank's part of their sum, to be differentiated, see `over_ranks`. value: their sum over the
    batches of all ranks. terms: each by its name over the batches of all ranks, without its factor.
    """

    part: Tensor
    value: Tensor
    terms: dict[str, Tensor]


class LossSum(nn.ModuleDict):
    """Losses by name, which are added, each times its factor."""

    def evaluate(self, outputs: Sequence[Tensor], target_BHW: Tensor, ignore_index: int) -> list[Evaluated]:
        """Return the losses of each output, logits (B, K, H, W); every rank must call this."""
        losses = [cast(Loss, loss) for loss in self.values()]
        target_BHW = target_BHW.long()  # masks travel to the device as uint8, an eighth of the bytes
        sums = [loss.sums(logits, target_BHW, ignore_index) for logits in outputs for loss in losses]
        parts, values = over_ranks(losses * len(outputs), sums)
        found = []
        for i in range(0, len(sums), len(losses)):
            own, whole = parts[i : i + len(losses)], values[i : i + len(losses)]
            terms = dict(zip(self, whole, strict=True))
            found.append(Evaluated(_scaled_sum(losses, own), _scaled_sum(losses, whole), terms))
        return found


def _scaled_sum(losses: Sequence[Loss], values: Sequence[Tensor]) -> Tensor:
    first, *others = (
        value if loss.factor == 1 else loss.factor * value for loss, value in zip(losses, values, strict=True)
    )
    return sum(others, first)


def over_ranks(losses: Sequence[Loss], sums: Sequence[Sums]) -> tuple[list[Tensor], list[Tensor]]:
    """Return this rank's part of each loss, to be differentiated, and the loss over the pixels of all ranks.

    With S_r the sums of rank r and L = f(Σ_r S_r) the loss, the part of rank r is R·f'(Σ_r S_r)·S_r, the
    factor f' being a constant. DDP averages the gradients of the parts over the ranks; that is the gradient
    of L. One process alone has f(S) as its part.

    Every rank must call this, with losses whose sums have the same shapes.
    """
    if not distributed():
        values = [loss.value(*own) for loss, own in zip(losses, sums, strict=True)]
        return values, values
    flat = [part for own in sums for part in own]
    # float64 represents any number of pixels exactly.
    everyone = torch.cat([part.detach().double().flatten() for part in flat])
    dist.all_reduce(everyone)
    totals = iter(everyone.split([part.numel() for part in flat]))
    parts: list[Tensor] = []
    values = []
    for loss, own in zip(losses, sums, strict=True):
        whole = [next(totals).view(part.shape).requires_grad_() for part in own]
        with torch.enable_grad():
            value = loss.value(*whole)
        slopes = torch.autograd.grad(value, whole, allow_unused=True)
        values.append(value.detach())
        parts.append(dist.get_world_size() * _along(own, whole, slopes))
    return parts, values


def _along(own: Sums, whole: Sequence[Tensor], slopes: Sequence[Tensor | None]) -> Tensor:
    """Return Σ slope·own over the sums that a loss depends on.

    Where a sum of any rank is not finite, slopes may not be finite on any rank. They are replaced by 1: then
    the part is finite on the ranks whose own sums are, which tells whose images are to blame. The averaged
    gradient is not finite all the same.
    """
    finite = torch.stack([total.isfinite().all() for total in whole]).all()
    terms = [
        (torch.where(finite, slope, 1).to(part.dtype) * part).sum()
        for part, slope in zip(own, slopes, strict=True)
        if slope is not None and part.is_floating_point()
    ]
    return sum(terms[1:], terms[0])
