"""The gradient at the fixed point of EM by a linear solve, whatever path led there.

At mu* = G(x, mu*), with G one plain step (h = 0; every highway scale has the same fixed points),

    (6)  ∂loss/∂x = (∂G/∂x)ᵀ w,    (I - (∂G/∂mu)ᵀ) w = ∂loss/∂mu*

(implicit function theorem). Memory does not depend on the number of iterations.

Shape suffixes: B images, N positions, C channels, K components, J Krylov vectors.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hemnet.em.engine.choose import make_passes
from hemnet.em.engine.passes import Mixture
from hemnet.em.functional import autocast_off
from hemnet.em.gradient.operators import like
from hemnet.em.gradient.step import Step, pull_step, take_step

Solver = Literal["gmres", "neumann"]
OnFailure = Literal["warn", "raise"]


class ConvergenceWarning(UserWarning):
    """An implicit gradient is not exact, because EM or the linear solve had not converged."""


class ConvergenceError(RuntimeError):
    """The same, for on_failure="raise"."""


@dataclass(frozen=True)
class Implicit:
    """How gradient="implicit" solves eq (6), and when it complains.

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
        if not (0 < self.tolerance < math.inf and 0 < self.forward_tolerance < math.inf):
            raise ValueError(
                f"tolerance is {self.tolerance!r} and forward_tolerance {self.forward_tolerance!r}; "
                "both must be finite numbers above 0"
            )
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations is {self.max_iterations!r}; it must be 1 or more")


@torch.library.custom_op("hemnet::em_fixed_point", mutates_args=())
def em_fixed_point(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    variance: float,
    assignment: str,
    normalize: str,
    engine: str,
    forward_tolerance: float,
    on_failure: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one plain step from mu, and complain if it is not a short one; fields of a `Step`."""
    mixture = Mixture(variance, assignment, normalize)  # type: ignore[arg-type]
    with autocast_off(x_BNC):
        passes = make_passes(engine, x_BNC, mu_BKC.dtype, mixture)
        step = take_step(passes, mu_BKC, torch.zeros_like(mu_BKC[:, 0, 0]), mixture)
    worst = _relative(step.mu_BKC - mu_BKC, mu_BKC).max().item() if len(mu_BKC) else 0.0
    _complain(
        worst,
        forward_tolerance,
        on_failure,
        "the means have not converged, so the implicit gradient is not that of the result: a plain step "
        f"would still move them by {worst:.1e} of their length, tolerance {forward_tolerance:.1e}. "
        "Raise iterations, lower the highway scale, use acceleration='anderson', or gradient='unrolled'",
    )
    return step.mu_BKC, step.mass_BK, step.length_BK


@em_fixed_point.register_fake
def _(  # type: ignore[no-untyped-def]
    x_BNC, mu_BKC, variance, assignment, normalize, engine, forward_tolerance, on_failure
):
    return torch.empty_like(mu_BKC), mu_BKC.new_empty(mu_BKC.shape[:2]), mu_BKC.new_empty(mu_BKC.shape[:2])


@torch.library.custom_op("hemnet::em_implicit_vjp", mutates_args=())
def em_implicit_vjp(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    next_BKC: Tensor,
    mass_BK: Tensor,
    length_BK: Tensor,
    d_BKC: Tensor,
    variance: float,
    assignment: str,
    normalize: str,
    engine: str,
    solver: str,
    tolerance: float,
    max_iterations: int,
    on_failure: str,
) -> tuple[Tensor, Tensor]:
    """Solve eq (6) for d = ∂loss/∂mu*: the gradient to x (B, N, C) and the relative residual (B,)."""
    mixture = Mixture(variance, assignment, normalize)  # type: ignore[arg-type]
    step = Step(next_BKC, mass_BK, length_BK)
    zero_B = torch.zeros_like(mu_BKC[:, 0, 0])
    with autocast_off(x_BNC):
        passes = make_passes(engine, x_BNC, mu_BKC.dtype, mixture)

        def jacobian_vjp(w_BKC: Tensor, to_features: bool = False) -> Tensor:
            return pull_step(passes, mu_BKC, zero_B, step, w_BKC, mixture, to_features=to_features)[0]

        solve = _gmres if solver == "gmres" else _neumann
        w_BKC = solve(jacobian_vjp, d_BKC, tolerance, max_iterations)
        residual_B = _relative(d_BKC - w_BKC + jacobian_vjp(w_BKC, to_features=True), d_BKC)
        dx_BNC = like(x_BNC, passes.features_vjp())
    worst = residual_B.max().item() if len(residual_B) else 0.0
    _complain(
        worst,
        # The residual as measured may exceed the one that was iterated on by its rounding.
        2 * tolerance,
        on_failure,
        f"the linear solve for the implicit gradient ({solver}, at most {max_iterations} iterations) stopped "
        f"at a relative residual of {worst:.1e}, tolerance {tolerance:.1e}. Raise max_iterations or the "
        "tolerance, or use solver='gmres'",
    )
    return dx_BNC, residual_B


@em_implicit_vjp.register_fake
def _(  # type: ignore[no-untyped-def]
    x_BNC, mu_BKC, next_BKC, mass_BK, length_BK, d_BKC, variance, assignment, normalize, engine, solver,
    tolerance, max_iterations, on_failure,
):  # fmt: skip
    return torch.empty_like(x_BNC), mu_BKC.new_empty(mu_BKC.shape[0])


class FixedPoint(torch.autograd.Function):
    """The identity on means at a fixed point, with eq (6) as the gradient to the features."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BNC: Tensor,
        ends_2BKC: Tensor,
        variance: float,
        assignment: str,
        normalize: str,
        engine: str,
        implicit: Implicit,
        residual_B: Tensor,
        flow_QTB: Tensor | None,
    ) -> Tensor:
        """Return the last two means, (2, B, K, C), both taken for the fixed point."""
        options = (variance, assignment, normalize, engine)
        plain_step = em_fixed_point(
            x_BNC, ends_2BKC[1], *options, implicit.forward_tolerance, implicit.on_failure
        )
        ctx.save_for_backward(x_BNC, ends_2BKC, *plain_step)
        ctx.options, ctx.implicit, ctx.residual_B, ctx.flow_QTB = options, implicit, residual_B, flow_QTB
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
        x_BNC, ends_2BKC, next_BKC, mass_BK, length_BK = ctx.saved_tensors
        how = ctx.implicit
        d_BKC = d_2BKC.sum(dim=0)
        dx_BNC, residual_B = em_implicit_vjp(
            x_BNC,
            ends_2BKC[1],
            next_BKC,
            mass_BK,
            length_BK,
            d_BKC,
            *ctx.options,
            how.solver,
            how.tolerance,
            how.max_iterations,
            how.on_failure,
        )
        ctx.residual_B.copy_(residual_B)
        if ctx.flow_QTB is not None:
            ctx.flow_QTB[0, -2] = 0.0
            ctx.flow_QTB[0, -1] = d_BKC.flatten(1).norm(dim=1)
            ctx.flow_QTB[1, -2] = dx_BNC.flatten(1).norm(dim=1)
        return dx_BNC, *(None,) * 8


def _complain(worst: float, tolerance: float, on_failure: str, message: str) -> None:
    if worst <= tolerance:
        return
    if on_failure == "raise":
        raise ConvergenceError(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=3)


def _relative(difference_BKC: Tensor, to_BKC: Tensor) -> Tensor:
    size_B = to_BKC.flatten(1).norm(dim=1)
    return difference_BKC.flatten(1).norm(dim=1) / torch.where(size_B > 0, size_B, 1.0)


def _neumann(vjp: Callable[[Tensor], Tensor], d_BKC: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    w_BKC = d_BKC
    for _ in range(max_iterations):
        before_BKC, w_BKC = w_BKC, d_BKC + vjp(w_BKC)
        if (_relative(w_BKC - before_BKC, d_BKC) <= tolerance).all():
            break
    return w_BKC


def _gmres(vjp: Callable[[Tensor], Tensor], d_BKC: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Solve w - vjp(w) = d for each image by GMRES without restart (Saad and Schultz, 1986)."""
    size_B = d_BKC.flatten(1).norm(dim=1)
    basis = [_unit(d_BKC, size_B)]
    hessenberg_BJJ = d_BKC.new_zeros(len(d_BKC), max_iterations + 1, max_iterations, dtype=torch.float64)
    for j in range(max_iterations):
        v_BKC = basis[j] - vjp(basis[j])
        for i, q_BKC in enumerate(basis):
            along_B = (q_BKC * v_BKC).sum(dim=(1, 2))
            hessenberg_BJJ[:, i, j] = along_B
            v_BKC = v_BKC - along_B[:, None, None] * q_BKC
        left_B = v_BKC.flatten(1).norm(dim=1)
        hessenberg_BJJ[:, j + 1, j] = left_B
        h_BJJ = hessenberg_BJJ[:, : j + 2, : j + 1]
        # By singular values: an image that is done has no further basis, only zeros.
        y_BJ = torch.linalg.pinv(h_BJJ)[:, :, 0]
        missing_BJ = (h_BJJ @ y_BJ.unsqueeze(2)).squeeze(2)
        missing_BJ[:, 0] -= 1.0
        if (missing_BJ.norm(dim=1)[size_B > 0] <= tolerance).all():
            break
        basis.append(_unit(v_BKC, left_B))
    weights_BJ = (y_BJ * size_B[:, None]).to(d_BKC.dtype)
    return sum(weights_BJ[:, j, None, None] * basis[j] for j in range(y_BJ.shape[1]))


def _unit(v_BKC: Tensor, length_B: Tensor) -> Tensor:
    # Below the smallest normal number a direction is rounding, and its reciprocal would overflow.
    tiny = torch.finfo(v_BKC.dtype).tiny
    inverse_B = torch.where(length_B > tiny, 1 / length_B.clamp(min=tiny), 0.0)
    return v_BKC * inverse_B[:, None, None]
