"""The initial means of an EM layer: a parameter, or a moving average that is the same on all ranks.

Shape suffixes: B images, C channels, K components.
"""

import itertools
import logging
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, Self, Union, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hemnet.em.functional import normalize_means
from hemnet.em.options import Normalization, as_count, check_name
from hemnet.em.transforms import all_examples, is_batched, outside_transforms

Means = Literal["moving_average", "learned"]
# A process group, that of all ranks, or None: average over no ranks.
Group = Union["dist.ProcessGroup", Literal["default"], None]
# Training passes without an update after which a warning says so. Gradient accumulation takes fewer.
PASSES_UNTIL_WARNING = 100

_log = logging.getLogger("hemnet.em")


class InitialMeans(nn.Module):
    """A module that owns initial means, `means` (K, C), float32; `HighwayEM` says what becomes of them.

    Args:
        num_components: K.
        channels: C.
        kind: "moving_average" (a buffer) or "learned" (a parameter).
        normalize: what the means are subject to.
        momentum: share of the old means that a step keeps, in [0, 1].
        process_group: the ranks over which a moving average is taken.

    Attributes:
        pending: (K·C + 1,) float32, the sum of the final means of all images since the last step, flat, and
            at the end their number. To drop the images noted since some moment, restore the value of then.
            Exists only if `averages`.

    Raises:
        ValueError: if a number or a name is out of range.
    """

    means: Tensor

    def __init__(
        self,
        num_components: int,
        channels: int,
        kind: Means,
        normalize: Normalization,
        momentum: float,
        process_group: Group = "default",
    ) -> None:
        super().__init__()
        check_name("means", kind, get_args(Means))
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"momentum is {momentum!r}; it must be in [0, 1], the share of the old means that stays"
            )
        if isinstance(process_group, str):
            check_name("process_group", process_group, ("default",), "None, or a process group")
        self.num_components = as_count("num_components", num_components, 1)
        self.channels = as_count("channels", channels, 1)
        self.process_group = process_group
        self.normalize: Normalization = normalize
        self.momentum = momentum
        means_KC = torch.empty(self.num_components, self.channels, dtype=torch.float32)
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

    def note(self, means_BKC: Tensor, counted_B: Tensor | None = None) -> None:
        """Count the final means of a batch in the next update, if there is to be one.

        A pass without gradients is no training (`torch.optim.swa_utils.update_bn` makes such passes). Nor do
        the passes of an ensemble under `torch.func.vmap` count, whose means are not those of this module.
        """
        if not self.averages or not torch.is_grad_enabled() or is_batched(self.means):
            return
        means_BKC = all_examples(means_BKC)
        with outside_transforms():
            finite_B = means_BKC.isfinite().all(dim=2).all(dim=1)
            if counted_B is not None:
                finite_B = finite_B & counted_B
            total_KC = torch.where(finite_B[:, None, None], means_BKC, 0.0).sum(dim=0)
            if self.pending.device != self.means.device:
                self._forget()  # made on the meta device and given weights by load_state_dict(assign=True)
            self.pending.add_(torch.cat([total_KC.flatten(), finite_B.sum().unsqueeze(0)]))
        self._has_pending = True
        if not torch.compiler.is_compiling():
            self._count_pass()

    @torch.no_grad()
    def update(self) -> None:
        """Move the means by the passes since the last update; a step of any optimizer of torch calls this.

        Call it after each step of an update that is not torch's. In a distributed run all ranks of the
        process group must call it together, each after a pass in training mode.
        """
        if not self.averages:
            return
        if self.process_group is not None and dist.is_available() and dist.is_initialized():
            dist.all_reduce(
                self.pending, group=None if self.process_group == "default" else self.process_group
            )
        count = self.pending[-1]
        mean_KC = (self.pending[:-1] / count.clamp(min=1)).view_as(self.means)
        kept = self.kept()
        moved_KC = normalize_means(kept * self.means + (1 - kept) * mean_KC, self.normalize)
        self.means.copy_(torch.where(count > 0, moved_KC, self.means))
        self.pending.zero_()
        self._has_pending, self._passes = False, 0

    def kept(self) -> float | Tensor:
        """The share of the old means that an update keeps, a number or (1,)."""
        return self.momentum

    @property
    def averages(self) -> bool:
        """Whether the means are a moving average."""
        return "means" in self._buffers

    def _join_moving_averages(self) -> None:
        # One tensor, so that one addition and one collective keep the two in step. Not a buffer, because
        # DDP copies the buffers of rank 0 over the others at each forward pass.
        self._forget()
        _moving_averages[next(_serial_numbers)] = self
        _install_hook()

    def _forget(self) -> None:
        self.pending = torch.zeros(self.means.numel() + 1, dtype=self.means.dtype, device=self.means.device)
        self._has_pending, self._passes = False, 0

    def _count_pass(self) -> None:
        self._passes += 1
        if self._passes == PASSES_UNTIL_WARNING:
            _log.warning(
                "the means of a HighwayEM have not moved in %d passes in training mode, since no optimizer "
                "of torch took a step: call its update() after each step of your own", self._passes,
            )  # fmt: skip

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
            module.update()
