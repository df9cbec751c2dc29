"""Gradient mode `Implicit`: takes the means for a fixed point of EM, and solves a linear system there.

At mu* = G(x, mu*), with G one plain step (h = 0; every highway scale has the same fixed points),

    (6)  ∂loss/∂x = (∂G/∂x)ᵀ w,    (I - (∂G/∂mu)ᵀ) w = ∂loss/∂mu*

(implicit function theorem). Memory does not depend on the number of iterations.

Shape suffixes: B images, N positions, C channels, K components, T iterations, Q the two quantities of
`GradientFlow`.
"""

import math
import warnings
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hemnet.em.engine.choose import make_passes
from hemnet.em.engine.reference import e_step, watch
from hemnet.em.functional import autocast_off, reconstruct
from hemnet.em.gradient.call import Call, Outcome
from hemnet.em.gradient.modes import GradientMode
from hemnet.em.gradient.operators import FLAT, flat, like
from hemnet.em.gradient.solvers import gmres, neumann, relative
from hemnet.em.gradient.step import Step, pull_step, take_step
from hemnet.em.options import Options, as_count, is_number
from hemnet.em.transforms import is_exporting

Solver = Literal["gmres", "neumann"]
OnFailure = Literal["warn", "raise"]


class ConvergenceWarning(UserWarning):
    """An implicit gradient is not exact, because EM or the linear solve had not converged."""


class ConvergenceError(RuntimeError):
    """The same, for on_failure="raise"."""


@dataclass(frozen=True)
class Implicit(GradientMode):
    """The gradient to the features as if the means were a fixed point of EM, by solving eq (6).

    Means and highway scale get none: a fixed point does not depend on where it was approached from.

    Attributes:
        solver: "gmres" (keeps up to `max_iterations` vectors of K·C numbers) or "neumann"
            (w <- (∂G/∂mu)ᵀ w + ∂loss/∂mu*; keeps two, and is slow where EM is).
        tolerance: relative residual |∂loss/∂mu* - (I - (∂G/∂mu)ᵀ) w| / |∂loss/∂mu*| to reach, above 0.
        max_iterations: products with the Jacobian at most, 1 or more.
        forward_tolerance: how far the means may be from a fixed point, |G(mu) - mu| / |mu|, above 0.
        on_failure: "warn" (`ConvergenceWarning`) or "raise" (`ConvergenceError`) when a tolerance is missed.

    Raises:
        ValueError: if a value is not as above.
    """

    name = "implicit"
    reaches = frozenset({"features"})

    solver: Solver = "gmres"
    tolerance: float = 1e-4
    max_iterations: int = 50
    forward_tolerance: float = 1e-3
    on_failure: OnFailure = "warn"

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver) or self.on_failure not in get_args(OnFailure):
            raise ValueError(
                f"solver is {self.solver!r} and on_failure {self.on_failure!r}; they must be one of "
                f"{get_args(Solver)} and {get_args(OnFailure)}"
            )
        for name in ("tolerance", "forward_tolerance"):
            number = getattr(self, name)
            if not is_number(number) or not 0 < number < math.inf:
                raise ValueError(f"{name} is {number!r}; it must be a finite number above 0")
        as_count("max_iterations", self.max_iterations, 1)

    def check(self, iterations: int, options: Options) -> None:
        """See `GradientMode`."""
        if iterations == 0:
            raise ValueError(
                "gradient='implicit' needs iterations: means that were not moved are no fixed point"
            )
        if options.engine == "reference" and not is_exporting():
            raise ValueError(
                "gradient='implicit' solves a linear system and has no form in plain torch operators, which "
                "engine='reference', torch.func, forward-mode differentiation and a variance or prior given "
                "as a tensor take; use gradient='unrolled'"
            )
        super().check(iterations, options)

    def flat(self) -> tuple[str | float | int, ...]:
        """The settings as `SETTINGS` declares them for an operator."""
        return tuple(getattr(self, name) for name in _FIELDS)

    def flow_rows(self, iterations: int) -> int:
        """The reconstruction's, and the last iteration's for the solve."""
        return 2

    def fit(self, call: Call, mu_BKC: Tensor, scale_TB: Tensor) -> Outcome:
        """All iterations without a graph; then a graph from the last means straight to the features."""
        fit = call.quietly(mu_BKC, scale_TB, readout=False)
        residual_B = torch.full_like(mu_BKC[:, 0, 0], math.nan)
        ends_2BKC = fit.tail_RBKC[-2:]
        plain = call.options.engine == "reference"  # an export, which has the forward pass alone
        if call.x_BNC.requires_grad and torch.is_grad_enabled() and not plain:
            ends_2BKC = FixedPoint.apply(
                call.x_BNC, ends_2BKC, call.weights_BN, call.options, self, residual_B, call.flow_QTB
            )
        x_BNC = watch(call.x_BNC, call.flow_QTB, 1, -1)
        z_BNK = e_step(x_BNC, ends_2BKC[0], call.options)
        y_BNC = reconstruct(z_BNK, ends_2BKC[1]).to(x_BNC.dtype)
        return Outcome(y_BNC, torch.cat([fit.tail_RBKC[:-2], ends_2BKC]), fit.count_B, residual_B)


_FIELDS = tuple(field.name for field in fields(Implicit))
SETTINGS = ", ".join(f"{type(field.default).__name__} implicit_{field.name}" for field in fields(Implicit))
"""The settings of `Implicit` in an operator's schema, in the order of its fields."""


@torch.library.custom_op(
    "hemnet::em_fixed_point",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? weights, Tensor mu, float within, str on_failure, {FLAT})"
    " -> (Tensor, Tensor, Tensor)",
)
def em_fixed_point(  # type: ignore[no-untyped-def]
    x_BNC: Tensor, weights_BN: Tensor | None, mu_BKC: Tensor, within: float, on_failure: str, *flat_options
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one plain step from mu, and complain if it is not a short one; fields of a `Step`."""
    options = Options(*flat_options)
    with autocast_off(x_BNC):
        passes = make_passes(options.engine, x_BNC, weights_BN, mu_BKC.dtype, options)
        step = take_step(passes, mu_BKC, torch.zeros_like(mu_BKC[:, 0, 0]), options)
    worst = relative(step.mu_BKC - mu_BKC, mu_BKC).max().item() if len(mu_BKC) else 0.0
    _complain(
        worst,
        within,
        on_failure,
        "the means have not converged, so the implicit gradient is not that of the result: a plain step "
        f"would still move them by {worst:.1e} of their length, tolerance {within:.1e}. "
        "Raise iterations, lower the highway scale, use acceleration='anderson', or gradient='unrolled'",
    )
    return step.mu_BKC, step.mass_BK, step.length_BK


@em_fixed_point.register_fake
def _(x_BNC, weights_BN, mu_BKC, *_):  # type: ignore[no-untyped-def]
    return torch.empty_like(mu_BKC), mu_BKC.new_empty(mu_BKC.shape[:2]), mu_BKC.new_empty(mu_BKC.shape[:2])


@torch.library.custom_op(
    "hemnet::em_implicit_vjp",
    mutates_args=(),
    schema="(Tensor x, Tensor? weights, Tensor mu, Tensor next, Tensor mass, Tensor length, Tensor d,"
    f" {SETTINGS}, {FLAT})"
    " -> (Tensor, Tensor)",
)
def em_implicit_vjp(  # type: ignore[no-untyped-def]
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    next_BKC: Tensor,
    mass_BK: Tensor,
    length_BK: Tensor,
    d_BKC: Tensor,
    *flat_settings,
) -> tuple[Tensor, Tensor]:
    """Solve eq (6) for d = ∂loss/∂mu*: the gradient to x (B, N, C) and the relative residual (B,)."""
    how, options = Implicit(*flat_settings[: len(_FIELDS)]), Options(*flat_settings[len(_FIELDS) :])
    step = Step(next_BKC, mass_BK, length_BK)
    zero_B = torch.zeros_like(mu_BKC[:, 0, 0])
    all_B = torch.ones_like(zero_B, dtype=torch.bool)
    with autocast_off(x_BNC):
        passes = make_passes(options.engine, x_BNC, weights_BN, mu_BKC.dtype, options)

        def jacobian_vjp(w_BKC: Tensor, to_features: bool = False) -> Tensor:
            pulled = pull_step(passes, mu_BKC, zero_B, all_B, step, w_BKC, options, to_features=to_features)
            return pulled[0]

        solve = gmres if how.solver == "gmres" else neumann
        w_BKC = solve(jacobian_vjp, d_BKC, how.tolerance, how.max_iterations)
        residual_B = relative(d_BKC - w_BKC + jacobian_vjp(w_BKC, to_features=True), d_BKC)
        dx_BNC = like(x_BNC, passes.features_vjp())
    worst = residual_B.max().item() if len(residual_B) else 0.0
    _complain(
        worst,
        # The residual as measured may exceed the one that was iterated on by its rounding.
        2 * how.tolerance,
        how.on_failure,
        f"the linear solve for the implicit gradient ({how.solver}, at most {how.max_iterations} iterations) "
        f"stopped at a relative residual of {worst:.1e}, tolerance {how.tolerance:.1e}. Raise max_iterations "
        "or the tolerance, or use solver='gmres'",
    )
    return dx_BNC, residual_B


@em_implicit_vjp.register_fake
def _(x_BNC, weights_BN, mu_BKC, *_):  # type: ignore[no-untyped-def]
    return torch.empty_like(x_BNC), mu_BKC.new_empty(mu_BKC.shape[0])


def _complain(worst: float, tolerance: float, on_failure: str, message: str) -> None:
    if worst <= tolerance:
        return
    if on_failure == "raise":
        raise ConvergenceError(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=3)


class FixedPoint(torch.autograd.Function):
    """The identity on means at a fixed point, with eq (6) as the gradient to the features."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BNC: Tensor,
        ends_2BKC: Tensor,
        weights_BN: Tensor | None,
        options: Options,
        how: Implicit,
        residual_B: Tensor,
        flow_QTB: Tensor | None,
    ) -> Tensor:
        """Return the last two means, (2, B, K, C), both taken for the fixed point."""
        plain_step = em_fixed_point(
            x_BNC, weights_BN, ends_2BKC[1], how.forward_tolerance, how.on_failure, *flat(options)
        )
        ctx.save_for_backward(x_BNC, weights_BN, ends_2BKC, *plain_step)
        ctx.options, ctx.how, ctx.residual_B, ctx.flow_QTB = options, how, residual_B, flow_QTB
        return ends_2BKC.clone()

    @staticmethod
    def backward(ctx: Any, d_2BKC: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient to x.

        Raises:
            RuntimeError: under create_graph, as the solve has no derivative here.
        """
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            raise RuntimeError(
                "gradient='implicit' has no second derivative (create_graph=True); use gradient='unrolled'"
            )
        x_BNC, weights_BN, ends_2BKC, *plain_step = ctx.saved_tensors
        d_BKC = d_2BKC.sum(dim=0)
        dx_BNC, residual_B = em_implicit_vjp(
            x_BNC, weights_BN, ends_2BKC[1], *plain_step, d_BKC, *ctx.how.flat(), *flat(ctx.options)
        )
        ctx.residual_B.copy_(residual_B)
        if ctx.flow_QTB is not None:
            ctx.flow_QTB[0, -2] = 0.0
            ctx.flow_QTB[0, -1] = d_BKC.flatten(1).norm(dim=1)
            ctx.flow_QTB[1, -2] = dx_BNC.flatten(1).norm(dim=1)
        return dx_BNC, *(None,) * 6
