"""HighwayEM: unrolled highway expectation-maximization as a layer that owns its initial means.

Shape suffixes: B images, P dimensions of positions (H rows and W columns), N positions in all, C channels,
K components, T iterations.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hemnet.em.gradient.choose import Gradient, choose_mode
from hemnet.em.gradient.modes import GradientMode
from hemnet.em.highway import LearnScale, check_scale, continued, initial_logits, learned, per_iteration
from hemnet.em.initial_means import Group, InitialMeans, Means
from hemnet.em.layout import ChannelDim, from_positions, to_positions, weights_of
from hemnet.em.learning import (
    LearnVariance,
    check_correction,
    check_learning,
    initial_log_variance,
    with_parameters,
)
from hemnet.em.options import (
    Acceleration,
    Assignment,
    Engine,
    Normalization,
    Options,
    as_count,
    check_shapes,
    temperature,
)
from hemnet.em.result import EMResult, GradientFlow
from hemnet.em.transforms import outside_graph
from hemnet.em.unrolling import unroll_with


def _option(name: str) -> property:
    def read(layer: "HighwayEM") -> Any:
        return getattr(layer.options, name)

    def write(layer: "HighwayEM", value: Any) -> None:
        layer.options = replace(layer.options, **{name: value})

    return property(read, write, doc=f"`Options.{name}`.")


class HighwayEM(InitialMeans):
    """(B, C, H, W) features to their reconstruction of the same shape, dtype and memory format.

    Positions may have any number of dimensions, one or more: (B, C, L), (B, C, H, W), (B, C, D, H, W). With
    channel_dim=-1 channels come last, as in the tokens (B, N, C) of a transformer.

    Each image is fitted by K means, `iterations` steps of `hemnet.em.unroll` from the shared initial
    means, and every position is replaced by the mix of means that its responsibilities make. No
    residual connection, no convolution: those belong to the head around it.

    The defaults are the layer of Song, Kim and Shim (AAAI 2021): the scaled dot product of its Eq. 8 with
    σ² = sqrt(C), h = 0.5 (step size η = 1 - h), T = 3, moving-average means without normalisation.

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

    With normalize="none", means of an image that are close together move apart only along directions in
    which its features have a variance above `variance`; along others they merge into the image's mean. To
    first order their differences along a direction of variance λ are multiplied by h + (1 - h)·λ/variance
    per iteration, under both assignments. Lower `variance` if they merge.

    Args:
        channels: C.
        num_components: K.
        iterations: T in training.
        highway_scale: h inside (-1, 1), one number or one per iteration. Where evaluation takes more
            iterations than there are numbers, the last one goes on.
        assignment: as in `hemnet.em.unroll`, as the following five. EMANet is highway_scale=0,
            assignment="dot", variance=1, normalize="l2", gradient="detached".
        variance: σ², None for sqrt(C).
        normalize: "none" or "l2".
        gradient: a gradient mode, or its name.
        engine: what computes the passes over the features.
        acceleration: "none" or "anderson".
        iterations_eval: T in evaluation mode; None is `iterations`. An attribute: may be set later.
        tolerance: as in `hemnet.em.unroll`, in evaluation mode only. An attribute: may be set later.
        learn_scale: "none"; "shared", one scale for all iterations; or "per_iteration". The parameter is
            `scale_logit`, h = 0.99·tanh(scale_logit), started at `highway_scale`.
        learn_variance: "none"; "shared", one σ²; or "per_component", one σ_k² each, for "gaussian" alone. The
            parameter is `log_variance`, started at log `variance`. To give values of your own, write them to
            it, and freeze it if they are to stay. This and the next take the engine "reference".
        learn_prior: whether π_k = softmax_k(prior_logit) is learned in the place of 1/K, from equal ones on.
        means: "moving_average" or "learned".
        momentum: share of the old means that a step keeps, in [0, 1].
        correct_momentum: whether the moving average goes as far towards the results of the M-steps at any h
            as at h = 0. The final means are h^T·(initial means) + (1 - h^T)·(a weighted mean of those
            results), so with the plain momentum a step goes only (1 - momentum)·(1 - h^T) of the way to
            that. With this, it goes (1 - momentum) / (1 - h^T) of the way to the final means, and never
            beyond them. With a schedule, h^T is the product of its numbers. Not for "l2" or an acceleration,
            whose means are no such sum.
        process_group: the ranks over which the moving average is taken: "default" for all, a process group
            for its ranks, None for this process alone, as independent models on several ranks need.
        channel_dim: where the features have their channels, 1 or -1.

    Attributes:
        options: assignment, variance (a number), normalize, engine, acceleration and tolerance, as one value;
            to change some, assign `dataclasses.replace(layer.options, ...)`.
        assignment, variance, normalize, engine, acceleration, tolerance: those of `options`; assigning one
            makes new options, and checks them.

    Raises:
        ValueError: if an option is out of range, or something is to be learned that no gradient reaches.

    Example:
        >>> import torch
        >>> layer = HighwayEM(channels=16, num_components=4, iterations=3, highway_scale=0.5)
        >>> layer(torch.randn(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
        >>> tokens = HighwayEM(16, 4, channel_dim=-1)
        >>> tokens(torch.randn(2, 100, 16), weights_BP=torch.arange(100)[None] < 60).shape
        torch.Size([2, 100, 16])
    """

    def __init__(
        self,
        channels: int,
        num_components: int = 64,
        iterations: int = 3,
        highway_scale: float | Sequence[float] = 0.5,
        *,
        assignment: Assignment = "dot",
        variance: float | None = None,
        normalize: Normalization = "none",
        gradient: Gradient = "unrolled",
        engine: Engine = "auto",
        acceleration: Acceleration = "none",
        iterations_eval: int | None = None,
        tolerance: float | None = None,
        learn_scale: LearnScale = "none",
        learn_variance: LearnVariance = "none",
        learn_prior: bool = False,
        means: Means = "moving_average",
        momentum: float = 0.9,
        correct_momentum: bool = False,
        process_group: Group = "default",
        channel_dim: ChannelDim = 1,
    ) -> None:
        channels = as_count("channels", channels, 1)
        # Before the means are drawn, since they are subject to `normalize`, which is one of the options.
        self.options = Options(
            temperature(variance, channels), assignment, normalize, engine, acceleration, tolerance
        )
        super().__init__(num_components, channels, means, normalize, momentum, process_group)
        self.gradient = gradient
        self.iterations = iterations = as_count("iterations", iterations)
        self.iterations_eval = (
            None if iterations_eval is None else as_count("iterations_eval", iterations_eval)
        )
        self.gradient.check(iterations, self.options)
        if isinstance(highway_scale, Tensor):
            raise ValueError("highway_scale is a tensor; give numbers, or let the layer learn: learn_scale")
        check_scale(iterations, highway_scale)
        check_learning(iterations, self.gradient, assignment, means, learn_scale, learn_variance, learn_prior)
        if correct_momentum:
            check_correction(means, self.options)
        self.correct_momentum = correct_momentum
        self.highway_scale = tuple(highway_scale) if isinstance(highway_scale, Sequence) else highway_scale
        self.learn_scale: LearnScale = learn_scale
        if channel_dim not in get_args(ChannelDim):
            raise ValueError(f"channel_dim is {channel_dim!r}; it must be 1 or -1")
        self.channel_dim: ChannelDim = channel_dim
        if learn_scale != "none":
            self.scale_logit = nn.Parameter(initial_logits(self.highway_scale, iterations, learn_scale))
        self.learn_variance, self.learn_prior = learn_variance, learn_prior
        self.log_variance = initial_log_variance(self.variance, num_components, learn_variance)
        self.prior_logit = nn.Parameter(torch.zeros(num_components)) if learn_prior else None
        with_parameters(self.options, self.log_variance, self.prior_logit)  # so that it refuses now
        self._flow_hooks: OrderedDict[int, Callable[[GradientFlow], None]] = OrderedDict()
        self._is_watched = False  # torch.compile notices when this changes, not when a hook comes

    assignment = _option("assignment")
    variance = _option("variance")
    normalize = _option("normalize")
    engine = _option("engine")
    acceleration = _option("acceleration")
    tolerance = _option("tolerance")

    @property
    def gradient(self) -> GradientMode:
        """The gradient mode; its name may be assigned too."""
        return self._mode

    @gradient.setter
    def gradient(self, mode: Gradient) -> None:
        self._mode = choose_mode(mode)

    def scale(self, iterations: int) -> float | Sequence[float] | Tensor:
        """The highway scale for a number of iterations, as `hemnet.em.unroll` takes it."""
        if self.learn_scale == "none":
            return continued(self.highway_scale, iterations)
        return learned(self.scale_logit, iterations)

    def kept(self) -> float | Tensor:
        """The share of the old means that an update keeps: a number or, with `correct_momentum`, (1,)."""
        if not self.correct_momentum or self.momentum == 1:
            return self.momentum
        scale_T1 = per_iteration(self.scale(self.iterations), self.iterations, self.means.unsqueeze(0))
        step = 1 - self.momentum
        return 1 - step / (1 - scale_T1.prod(dim=0)).clamp(min=step)

    def run(
        self,
        x_BCP: Tensor,
        means_BKC: Tensor | None = None,
        weights_BP: Tensor | None = None,
        *,
        return_trajectory: bool = False,
        record_gradient_flow: bool = False,
    ) -> EMResult:
        """Fit each image and return the whole result, for probes and plots; positions are row by row.

        Args:
            x_BCP: features, (B, C, ...) or, by `channel_dim`, (B, ..., C).
            means_BKC: initial means in the place of the layer's own: one set, (1, K, C), or one per image,
                with a K of their own.
            weights_BP: how often each position counts, (B or 1, ...) with the positions of the features; see
                `hemnet.em.unroll`.
            return_trajectory: see `hemnet.em.unroll`.
            record_gradient_flow: see `hemnet.em.unroll`.

        Raises:
            ValueError: if the features are not floating and of this layer's shape, or the means do not fit.
        """
        iterations, options = self.iterations, self.options
        if self.training and options.tolerance is not None:
            options = replace(options, tolerance=None)
        if not self.training and self.iterations_eval is not None:
            iterations = self.iterations_eval
        x_BNC = to_positions(x_BCP, self.channel_dim, self.channels)
        mu_BKC = self.start() if means_BKC is None else means_BKC
        check_shapes(x_BNC, mu_BKC)
        return unroll_with(
            x_BNC,
            None if weights_BP is None else weights_of(x_BCP, weights_BP, self.channel_dim),
            mu_BKC,
            iterations,
            self.scale(iterations),
            with_parameters(options, self.log_variance, self.prior_logit),
            self.gradient,
            return_trajectory=return_trajectory,
            record_gradient_flow=record_gradient_flow,
        )

    def forward(
        self, x_BCP: Tensor, means_BKC: Tensor | None = None, weights_BP: Tensor | None = None
    ) -> Tensor:
        """Reconstruct the features; in training mode also note the final means for the layer's own.

        Args:
            x_BCP: features, see `run`.
            means_BKC: as in `run`. Fits from means that are not the layer's own do not move those.
            weights_BP: as in `run`. An image without any weight does not move the means.
        """
        if self._is_watched and x_BCP.requires_grad and torch.is_grad_enabled():
            return outside_graph(self._watched)(x_BCP, means_BKC, weights_BP)
        result = self.run(x_BCP, means_BKC, weights_BP)
        return self._finish(x_BCP, result, noted=means_BKC is None)

    def _watched(self, x_BCP: Tensor, means_BKC: Tensor | None, weights_BP: Tensor | None) -> Tensor:
        self._is_watched = bool(self._flow_hooks)
        # An alias has its gradient when the backward pass leaves this layer, whatever else x feeds.
        x_BCP = x_BCP.view_as(x_BCP)
        result = self.run(x_BCP, means_BKC, weights_BP, record_gradient_flow=True)
        flow = result.gradient_flow
        assert flow is not None
        x_BCP.register_hook(lambda _: self._report(flow))
        return self._finish(x_BCP, result, noted=means_BKC is None)

    def _finish(self, x_BCP: Tensor, result: EMResult, *, noted: bool) -> Tensor:
        if self.training and noted:
            self.note(result.means.detach(), result.counted())
        return from_positions(result.reconstruction, x_BCP, self.channel_dim)

    def register_gradient_flow_hook(self, hook: Callable[[GradientFlow], None]) -> RemovableHandle:
        """Have `hook(flow)` called whenever a backward pass leaves this layer.

        The flow costs T·B numbers and two more passes over the features, and changes no gradient. Where the
        features need no gradient, or gradient="detached" lets none through, the hook is not called.

        Returns:
            A handle whose `remove()` ends it.
        """
        handle = RemovableHandle(self._flow_hooks)
        self._flow_hooks[handle.id] = hook
        self._is_watched = True
        return handle

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A shared scale was a scalar once, which FSDP2 does not shard.
        old = state_dict.get(f"{prefix}scale_logit")
        if old is not None and old.ndim == 0:
            state_dict[f"{prefix}scale_logit"] = old.unsqueeze(0)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """The constructor's arguments, in its order; with the names of `hemnet.em` they rebuild it."""
        told = vars(self) | vars(self.options) | {"gradient": self.gradient}
        told |= {"means": "moving_average" if self.averages else "learned"}
        return ", ".join(f"{name}={told[name]!r}" for name in signature(HighwayEM).parameters)

    def _report(self, flow: GradientFlow) -> None:
        for hook in list(self._flow_hooks.values()):
            hook(flow)
