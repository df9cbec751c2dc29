"""The initial means of an EM layer: a parameter, or a moving average that is the same on all ranks.

Shape suffixes: B images, C channels, K components.
"""

import itertools
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hemnet.em.functional import normalize_means
from hemnet.em.options import Normalization

Means = Literal["moving_average", "learned"]


class InitialMeans(nn.Module):
    """A module that owns initial means, `means` (K, C), float32; `HighwayEM` says what becomes of them.

    Args:
        num_components: K.
        channels: C.
        kind: "moving_average" (a buffer) or "learned" (a parameter).
        normalize: what the means are subject to.
        momentum: share of the old means that a step keeps, in [0, 1].

    Attributes:
        pending: (K·C + 1,) float32, the sum of the final means of all images since the last step, flat, and
            at the end their number; set to what it was before, it forgets the images since. There only
            where `averages`.

    Raises:
        ValueError: if a number or a name is out of range.
    """

    means: Tensor

    def __init__(
        self, num_components: int, channels: int, kind: Means, normalize: Normalization, momentum: float
    ) -> None:
        super().__init__()
        if channels < 1 or num_components < 1:
            raise ValueError(
                f"channels is {channels} and num_components {num_components}; both must be 1 or more"
            )
        if kind not in ("moving_average", "learned"):
            raise ValueError(f"means is {kind!r}; it must be one of 'moving_average', 'learned'")
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"momentum is {momentum!r}; it must be in [0, 1], the share of the old means that stays"
            )
        self.num_components = num_components
        self.channels = channels
        self.normalize: Normalization = normalize
        self.momentum = momentum
        means_KC = torch.empty(num_components, channels, dtype=torch.float32)
        if kind == "learned":
            self.means = nn.Parameter(means_KC)
        else:
            self.register_buffer("means", means_KC)
            self._join_moving_averages()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial means anew from torch's global generator."""
        with torch.no_grad():
            self.means.normal_()
            self.means.copy_(normalize_means(self.means, self.normalize))

    def start(self) -> Tensor:
        """The means to start from, (1, K, C)."""
        # A copy, so that an optimizer step between the forward and the backward pass of this layer (two
        # models trained in turn) does not overwrite what the backward pass needs.
        return normalize_means(self.means.clone(), self.normalize).unsqueeze(0)

    def note(self, means_BKC: Tensor) -> None:
        """Count the final means of a batch in the next update, if there is to be one."""
        if not self.averages:
            return
        finite_B = means_BKC.isfinite().all(dim=2).all(dim=1)
        total_KC = torch.where(finite_B[:, None, None], means_BKC, 0.0).sum(dim=0)
        self.pending.add_(torch.cat([total_KC.flatten(), finite_B.sum().unsqueeze(0)]))
        self._has_pending = True

    @property
    def averages(self) -> bool:
        """Whether the means are a moving average."""
        return "means" in self._buffers

    def _join_moving_averages(self) -> None:
        # One tensor, so that one addition and one collective keep the two in step. Not a buffer, because
        # DDP copies the buffers of rank 0 over the others at each forward pass.
        self.pending = torch.zeros(self.means.numel() + 1, dtype=torch.float32, device=self.means.device)
        self._has_pending = False
        _moving_averages[next(_serial_numbers)] = self
        _install_hook()

    @torch.no_grad()
    def _commit(self) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.pending)
        count = self.pending[-1]
        mean_KC = (self.pending[:-1] / count.clamp(min=1)).view_as(self.means)
        moved_KC = normalize_means(self.momentum * self.means + (1 - self.momentum) * mean_KC, self.normalize)
        self.means.copy_(torch.where(count > 0, moved_KC, self.means))
        self.pending.zero_()
        self._has_pending = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Every move and cast of a module comes through here. The average is to follow moves, not casts:
        # at momentum 0.9 bfloat16 would round most of each update away.
        if not self.averages:
            return super()._apply(fn, recurse)
        before_KC = self.means
        super()._apply(fn, recurse)
        device = self.means.device
        if self.means.dtype != before_KC.dtype:
            self.means = before_KC.to(device)
        if self.pending.device != device:
            # A layer built on the meta device has nothing to carry over.
            self.pending = (
                torch.zeros_like(self.pending, device=device)
                if self.pending.is_meta
                else self.pending.to(device)
            )
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.averages:
            self._join_moving_averages()


# All modules whose means are moving averages, in order of creation, which is the same on all ranks.
_moving_averages: "weakref.WeakValueDictionary[int, InitialMeans]" = weakref.WeakValueDictionary()
_serial_numbers = itertools.count()


@cache
def _install_hook() -> None:
    register_optimizer_step_post_hook(_commit_all)


def _commit_all(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    for module in list(_moving_averages.values()):
        if module._has_pending:
            module._commit()
