"""HighwayEM: unrolled highway expectation-maximization as a layer that owns its initial means.

Shape suffixes: B images, H rows, W columns, N = H·W positions, C channels, K components.
"""

import itertools
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hemnet.em.functional import normalize_means
from hemnet.em.options import Assignment, Engine, Gradient, Normalization, check_options
from hemnet.em.result import EMResult
from hemnet.em.unrolling import unroll

Means = Literal["moving_average", "learned"]


class HighwayEM(nn.Module):
    """(B, C, H, W) features to their reconstruction of the same shape, dtype and memory format.

    Each image is fitted by a mixture of K Gaussians, `iterations` steps of `hemnet.em.unroll` from the
    shared initial means, and every position is replaced by its expectation under the fit. No residual
    connection, no convolution: those belong to the head around it.

    Initial means are drawn from torch's global generator: standard normal for normalize="none", as if
    they were features of unit variance per channel, which at the default variance gives logits that
    differ by about 1 between components, so no two start alike; random directions for "l2". Then

    - "moving_average": they are the float32 buffer `means`, whatever the layer is cast to. Once per
      optimizer step it moves to momentum·means + (1 - momentum)·average of the final means over all
      images that passed through in training mode since the last step, over micro-batches and over the
      ranks of the default process group. A second pass over the same images (activation
      checkpointing) does not change that average; images with a non-finite mean are left out of it.
    - "learned": they are the parameter `means`, trained through the iterations.

    The step is noticed by a hook on all torch optimizers of the process. Any optimizer's step moves the
    layers that ran in training mode since the step before, and no others, so unrelated models in one
    process do not disturb each other. In a distributed run each such layer costs one all-reduce of
    K·C + 1 numbers; as with the gradients under DDP, all ranks must have run the same layers between
    two steps. Statistics not yet used stay behind when a layer is copied or pickled.

    With normalize="none" the means of an image stay apart only along directions in which its features
    have a variance above `variance`; where there is none they merge into the image's mean, by the factor
    h + (1 - h)·λ/variance per iteration for a direction of variance λ. Lower `variance` if they merge.

    Args:
        channels: C.
        num_components: K.
        iterations, highway_scale, assignment, variance, normalize, gradient, engine: as in
            `hemnet.em.unroll`, but the highway scale is one number or `iterations` numbers. EMANet is
            highway_scale=0, assignment="dot", variance=1, normalize="l2", gradient="detached".
        means: "moving_average" or "learned".
        momentum: share of the old means that a step keeps, in [0, 1].

    Raises:
        ValueError: if an option is out of range, or the means are to be learned without a gradient.
    """

    means: Tensor

    def __init__(
        self,
        channels: int,
        num_components: int = 64,
        iterations: int = 3,
        highway_scale: float | Sequence[float] = 0.5,
        *,
        assignment: Assignment = "gaussian",
        variance: float | None = None,
        normalize: Normalization = "none",
        gradient: Gradient = "unrolled",
        engine: Engine = "auto",
        means: Means = "moving_average",
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_options(
            iterations,
            highway_scale,
            variance,
            assignment=assignment,
            normalize=normalize,
            gradient=gradient,
            engine=engine,
            acceleration="none",
            tolerance=None,
        )
        _check_layer_options(channels, num_components, means, gradient, momentum)
        self.channels = channels
        self.num_components = num_components
        self.iterations = iterations
        self.highway_scale = tuple(highway_scale) if isinstance(highway_scale, Sequence) else highway_scale
        self.assignment: Assignment = assignment
        self.variance = variance
        self.normalize: Normalization = normalize
        self.gradient: Gradient = gradient
        self.engine: Engine = engine
        self.momentum = momentum
        means_KC = torch.empty(num_components, channels, dtype=torch.float32)
        if means == "learned":
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

    def run(self, x_BCHW: Tensor) -> EMResult:
        """Fit each image and return the whole result, for probes and plots; positions are row by row.

        Raises:
            ValueError: if the features are not floating (B, C, H, W) with this layer's C.
        """
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.channels:
            raise ValueError(
                f"the features have shape {tuple(x_BCHW.shape)}; HighwayEM(channels={self.channels}) takes "
                f"(B, {self.channels}, H, W): set channels to the width of the layer before"
            )
        # A copy, so that an optimizer step between the forward and the backward pass of this layer (two
        # models trained in turn) does not overwrite what the backward pass needs.
        start_KC = normalize_means(self.means.clone(), self.normalize)
        return unroll(
            x_BCHW.flatten(2).mT,
            start_KC.unsqueeze(0),
            iterations=self.iterations,
            highway_scale=self.highway_scale,
            assignment=self.assignment,
            variance=self.variance,
            normalize=self.normalize,
            gradient=self.gradient,
            engine=self.engine,
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Reconstruct (B, C, H, W) features; in training mode also note the final means for their update."""
        result = self.run(x_BCHW)
        if self.training and self._averages:
            self._note(result.means.detach())
        channels_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
        return result.reconstruction.mT.unflatten(2, x_BCHW.shape[2:]).contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )

    def extra_repr(self) -> str:
        """Give the options in the order of the constructor."""
        means = f"'moving_average', momentum={self.momentum}" if self._averages else "'learned'"
        return (
            f"{self.channels}, num_components={self.num_components}, iterations={self.iterations}, "
            f"highway_scale={self.highway_scale}, assignment={self.assignment!r}, variance={self.variance}, "
            f"normalize={self.normalize!r}, gradient={self.gradient!r}, engine={self.engine!r}, means={means}"
        )

    @property
    def _averages(self) -> bool:
        return "means" in self._buffers

    def _join_moving_averages(self) -> None:
        # The sum of the final means of all images since the last step, flat, and at the end their number:
        # one tensor, so that one addition and one collective keep the two in step. Not a buffer, because
        # DDP copies the buffers of rank 0 over the others at each forward pass.
        self._pending = torch.zeros(self.means.numel() + 1, dtype=torch.float32, device=self.means.device)
        self._has_pending = False
        _moving_averages[next(_serial_numbers)] = self
        _install_hook()

    def _note(self, means_BKC: Tensor) -> None:
        finite_B = means_BKC.isfinite().all(dim=2).all(dim=1)
        total_KC = torch.where(finite_B[:, None, None], means_BKC, 0.0).sum(dim=0)
        self._pending.add_(torch.cat([total_KC.flatten(), finite_B.sum().unsqueeze(0)]))
        self._has_pending = True

    @torch.no_grad()
    def _commit(self) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._pending)
        count = self._pending[-1]
        mean_KC = (self._pending[:-1] / count.clamp(min=1)).view_as(self.means)
        moved_KC = normalize_means(self.momentum * self.means + (1 - self.momentum) * mean_KC, self.normalize)
        self.means.copy_(torch.where(count > 0, moved_KC, self.means))
        self._pending.zero_()
        self._has_pending = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HighwayEM":
        # Every move and cast of a module comes through here. The average is to follow moves, not casts:
        # at momentum 0.9 bfloat16 would round most of each update away.
        if not self._averages:
            return super()._apply(fn, recurse)
        before_KC = self.means
        super()._apply(fn, recurse)
        device = self.means.device
        if self.means.dtype != before_KC.dtype:
            self.means = before_KC.to(device)
        if self._pending.device != device:
            # A layer built on the meta device has nothing to carry over.
            self._pending = (
                torch.zeros_like(self._pending, device=device)
                if self._pending.is_meta
                else self._pending.to(device)
            )
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._averages:
            self._join_moving_averages()


# All layers whose means are moving averages, in order of creation, which is the same on all ranks.
_moving_averages: "weakref.WeakValueDictionary[int, HighwayEM]" = weakref.WeakValueDictionary()
_serial_numbers = itertools.count()


@cache
def _install_hook() -> None:
    register_optimizer_step_post_hook(_commit_all)


def _commit_all(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    for layer in list(_moving_averages.values()):
        if layer._has_pending:
            layer._commit()


def _check_layer_options(
    channels: int, num_components: int, means: str, gradient: str, momentum: float
) -> None:
    if channels < 1 or num_components < 1:
        raise ValueError(
            f"channels is {channels} and num_components {num_components}; both must be 1 or more"
        )
    if means not in ("moving_average", "learned"):
        raise ValueError(f"means is {means!r}; it must be one of 'moving_average', 'learned'")
    if means == "learned" and gradient == "detached":
        raise ValueError(
            "means='learned' with gradient='detached' would never train: no gradient reaches the means. "
            "Use means='moving_average', or gradient='unrolled'"
        )
    if not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum is {momentum!r}; it must be in [0, 1], the share of the old means that stays"
        )
