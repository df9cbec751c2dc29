"""The result of `hemnet.em.unroll`: reconstruction, means, diagnostics, gradient flow.

Shape suffixes: B images, N positions, C channels, K components, T iterations.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hemnet.em.engine.reference import e_step
from hemnet.em.functional import log_likelihood, weigh
from hemnet.em.options import Engine, Mixture


@dataclass(frozen=True)
class Diagnostics:
    """How a fit went, per iteration and image; no gradient.

    Attributes:
        log_likelihood: eq (5) at mu^(0) ... mu^(T), (T+1, B), in nats. The steps of assignment "dot" are
            not made to raise it, and may lower it.
        step_length: |mu^(t+1) - mu^(t)| over all components, (T, B), in the units of the features.
        occupancy: N_k / Σ_k N_k under mu^(0) ... mu^(T), (T+1, B, K), summing to 1 over K.
        entropy: of the responsibilities under mu^(0) ... mu^(T), mean over positions by weight, (T+1, B), in
            nats, from 0 (hard assignment) to log K.
    """

    log_likelihood: Tensor
    step_length: Tensor
    occupancy: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class GradientFlow:
    """How a loss reached the means and the features, per image; NaN until the backward pass has run.

    Attributes:
        means: |∂loss/∂mu^(t)| for t = 0 ... T, (T+1, B). It is 0 where the gradient mode lets none through.
        features: norm of the part of ∂loss/∂x that each iteration injects, (T+1, B): row t < T is
            iteration t (its E-step and its M-step), row T the reconstruction, y = z mu with the
            z of the last E-step. With gradient="implicit" the linear solve is in row T-1.
    """

    means: Tensor
    features: Tensor

    @property
    def share(self) -> Tensor:
        """`features`, scaled to sum to 1 over its rows, (T+1, B)."""
        return self.features / self.features.sum(dim=0)


@dataclass(frozen=True)
class EMResult:
    """What `unroll` returns.

    Attributes:
        reconstruction: y of eq (4), (B, N, C), in the dtype and memory layout of the features.
        means: mu after the last step, (B, K, C), float32 or float64.
        trajectory: mu^(0) ... mu^(T), (T+1, B, K, C), or None when it was not asked for.
        iterations: how many steps each image took, (B,), int64; T without a tolerance.
        engine: which engine ran.
        gradient_flow: see `GradientFlow`; None when it was not asked for.
        implicit_residual: relative residual of the linear solve of gradient="implicit", (B,), NaN until
            the backward pass has run; None for other modes.
    """

    reconstruction: Tensor
    means: Tensor
    trajectory: Tensor | None
    iterations: Tensor
    engine: Engine
    gradient_flow: GradientFlow | None
    implicit_residual: Tensor | None
    _x_BNC: Tensor = field(repr=False)
    _weights_BN: Tensor | None = field(repr=False)
    _e_BKC: Tensor = field(repr=False)
    _mixture: Mixture = field(repr=False)

    def responsibilities(self, iteration: int | None = None) -> Tensor:
        """Z of the last E-step, (B, N, K), float32 or float64; rows sum to 1. Recomputed, not stored.

        Args:
            iteration: t in 0 ... T for z under mu^(t) instead, which takes the trajectory; z under mu^(T)
                is one E-step further than the last.

        Raises:
            ValueError: if the trajectory was not kept.
        """
        if iteration is None:
            return e_step(self._x_BNC, self._e_BKC, self._mixture)
        return e_step(self._x_BNC, self._kept()[iteration], self._mixture)

    @torch.no_grad()
    def diagnostics(self) -> Diagnostics:
        """Compute the log-likelihood, step lengths, occupancy and entropy; one E-step per iteration.

        Raises:
            ValueError: if the trajectory was not kept.
        """
        trajectory_TBKC = self._kept()
        likelihood, occupancy, entropy = [], [], []
        for mu_BKC in trajectory_TBKC:
            z_BNK = e_step(self._x_BNC, mu_BKC, self._mixture)
            occupancy.append(self._mean(z_BNK))
            entropy.append(self._mean(torch.special.entr(z_BNK).sum(dim=2)))
            likelihood.append(
                log_likelihood(
                    self._x_BNC,
                    mu_BKC,
                    variance=self._mixture.spread,
                    weights_BN=self._weights_BN,
                    prior=self._mixture.prior,
                )
            )
        return Diagnostics(
            log_likelihood=torch.stack(likelihood),
            step_length=trajectory_TBKC.diff(dim=0).flatten(2).norm(dim=2),
            occupancy=torch.stack(occupancy),
            entropy=torch.stack(entropy),
        )

    def counted(self) -> Tensor | None:
        """Which images have a position of some weight, (B,), bool; None where no weights were given."""
        return None if self._weights_BN is None else (self._weights_BN > 0).any(dim=1)

    def _mean(self, values: Tensor) -> Tensor:
        """The mean over the positions, by their weights."""
        if self._weights_BN is None:
            return values.mean(dim=1)
        total = weigh(values, self._weights_BN).sum(dim=1)
        return total / self._weights_BN.sum(dim=1).reshape(-1, *(1,) * (total.ndim - 1))

    def _kept(self) -> Tensor:
        if self.trajectory is None:
            raise ValueError("this needs the trajectory: call unroll with return_trajectory=True")
        return self.trajectory


def unfilled_flow(iterations: int, like_BKC: Tensor, *, reached: int) -> Tensor:
    """(2, T+1, B) for a backward pass to fill that reaches the last `reached` rows: NaN there, 0 before."""
    flow_QTB = like_BKC.new_zeros(2, iterations + 1, len(like_BKC))
    flow_QTB[:, iterations + 1 - reached :] = math.nan
    return flow_QTB
