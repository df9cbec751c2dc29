"""`unroll`: the iterations, by any engine, with any gradient.

Shape suffixes: B images, N positions, C channels, K components, T iterations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hemnet.em.engine.choose import choose_engine
from hemnet.em.engine.passes import Mixture
from hemnet.em.engine.reference import plain_unroll, watch
from hemnet.em.functional import promote, reconstruct, responsibilities
from hemnet.em.gradient.implicit import FixedPoint, Implicit
from hemnet.em.gradient.operators import em_forward
from hemnet.em.gradient.unrolled import Unrolled
from hemnet.em.options import (
    Acceleration,
    Assignment,
    Engine,
    Gradient,
    HighwayScale,
    Normalization,
    check_options,
    check_shapes,
)
from hemnet.em.result import EMResult, GradientFlow, unfilled_flow


def unroll(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    *,
    iterations: int,
    highway_scale: HighwayScale = 0.5,
    assignment: Assignment = "gaussian",
    variance: float | None = None,
    normalize: Normalization = "none",
    gradient: Gradient = "unrolled",
    engine: Engine = "auto",
    acceleration: Acceleration = "none",
    tolerance: float | None = None,
    implicit: Implicit | None = None,
    return_trajectory: bool = False,
    record_gradient_flow: bool = False,
) -> EMResult:
    """Run T iterations of (1)-(3) from the given means, then reconstruct by (4).

    Args:
        x_BNC: features, (B, N, C), floating.
        mu_BKC: initial means, (B, K, C) or (1, K, C), floating; used as they are, also under "l2".
        iterations: T >= 0. With 0 the reconstruction is z(mu)·mu.
        highway_scale: h in (-1, 1), one number or T of them; h < 0 over-relaxes. A tensor, () or (T,),
            may require grad; its values are not checked, since reading them would wait for the device.
        assignment: "gaussian", for which (5) never falls, or "dot", for which it may; see
            `hemnet.em.functional.responsibilities`.
        variance: σ² > 0. None is sqrt(C), the temperature of Song, Kim and Shim (AAAI 2021): for features
            and means of unit variance per channel x_n·mu_k has standard deviation sqrt(C), so the logits
            get unit scale, as in scaled dot-product attention. With "dot" that is their Eq. 8. Their Eq. 7
            divides squared distances by σ² where (1) divides by 2σ²: at their temperature it is
            "gaussian" with variance=sqrt(C)/2. Unit-length means ("l2") are shorter by sqrt(C) and call for
            a variance near 1.
        normalize: "none", or "l2" for means of unit length after every step, which the theorem on (5)
            does not cover.
        gradient: how one and the same forward pass is differentiated.
            "unrolled": exactly, through all T iterations.
            "detached": not at all; the whole result is without a graph (EMANet).
            "one_step": through the last iteration and the reconstruction; the means before are constants.
            "implicit": as if the means were a fixed point of EM, see `Implicit`; none to mu and h.
        engine: "reference" is plain autograd; "recompute" is exact with memory that does not grow with T;
            "triton" is that in fused kernels, on CUDA. "auto" is "triton" where it can run and
            "recompute" elsewhere, with the reason in the log of "hemnet.em" on CUDA.
        acceleration: "anderson" mixes past steps, each mix taken only where (5) does not fall. Not for
            "unrolled", "dot" or "l2", nor for the engine "reference".
        tolerance: if given, an image whose next step would be relatively shorter, |m - mu| <= tolerance·|mu|
            for "none", stays where it is. Reads a number from the device in every iteration.
        implicit: how gradient="implicit" solves; None is `Implicit()`.
        return_trajectory: whether to keep the T+1 means.
        record_gradient_flow: whether the backward pass fills `EMResult.gradient_flow`; costs two more
            passes over the features there and numbers per iteration only.

    Raises:
        ValueError: if a shape, a type, a name, a count, a number or a combination is not as above.
        RuntimeError: if engine="triton" cannot run.
        ConvergenceError: see `Implicit`.
    """
    check_shapes(x_BNC, mu_BKC)
    check_options(
        iterations,
        highway_scale,
        variance,
        assignment=assignment,
        normalize=normalize,
        gradient=gradient,
        engine=engine,
        acceleration=acceleration,
        tolerance=tolerance,
    )
    mu_BKC = promote(mu_BKC, x_BNC)[0].expand(x_BNC.shape[0], -1, -1)
    scale_TB = _per_iteration(highway_scale, iterations, mu_BKC)
    if gradient == "detached":
        x_BNC, mu_BKC, scale_TB = x_BNC.detach(), mu_BKC.detach(), scale_TB.detach()
    sigma2 = math.sqrt(x_BNC.shape[-1]) if variance is None else float(variance)
    run = _Run(
        x_BNC,
        Mixture(sigma2, assignment, normalize),
        choose_engine(engine, x_BNC, mu_BKC),
        tolerance,
        acceleration == "anderson",
        return_trajectory,
        _flow(record_gradient_flow, gradient, iterations, mu_BKC),
    )
    return run.result(run.fit(gradient, mu_BKC, scale_TB, implicit or Implicit()), iterations)


class _Fit(NamedTuple):
    y_BNC: Tensor
    tail_RBKC: Tensor
    count_B: Tensor
    residual_B: Tensor | None = None


@dataclass(frozen=True)
class _Run:
    """The gradient modes, each a composition of an engine's iterations with and without a graph."""

    x_BNC: Tensor
    mixture: Mixture
    engine: Engine
    tolerance: float | None
    accelerate: bool
    whole: bool
    flow_QTB: Tensor | None

    def fit(self, gradient: Gradient, mu_BKC: Tensor, scale_TB: Tensor, how: Implicit) -> _Fit:
        """All iterations and the reconstruction, with the graph of a gradient mode."""
        if gradient == "one_step" and len(scale_TB):
            return self.one_step(mu_BKC, scale_TB)
        if gradient == "implicit":
            return self.implicit(mu_BKC, scale_TB, how)
        if gradient == "detached":
            return self.quietly(mu_BKC, scale_TB)
        return self.unrolled(mu_BKC if gradient == "unrolled" else mu_BKC.detach(), scale_TB)

    def result(self, fit: _Fit, iterations: int) -> EMResult:
        """What `unroll` returns of a fit."""
        return EMResult(
            reconstruction=fit.y_BNC,
            means=fit.tail_RBKC[-1],
            trajectory=fit.tail_RBKC if self.whole else None,
            iterations=fit.count_B,
            engine=self.engine,
            gradient_flow=None if self.flow_QTB is None else GradientFlow(*self.flow_QTB),
            implicit_residual=fit.residual_B,
            _x_BNC=self.x_BNC,
            _e_BKC=fit.tail_RBKC[-min(iterations, 1) - 1],
            _mixture=self.mixture,
        )

    def unrolled(self, mu_BKC: Tensor, scale_TB: Tensor, *, last: int = 0) -> _Fit:
        """All iterations with a graph; `last`, if not 0: they are the last ones, the flow's last rows."""
        flow_QTB = None if self.flow_QTB is None else self.flow_QTB[:, -last - 1 if last else 0 :]
        if self.engine == "reference":
            return self._plain(mu_BKC, scale_TB, flow_QTB)
        wants_graph = any(tensor.requires_grad for tensor in (self.x_BNC, mu_BKC, scale_TB))
        if not (wants_graph and torch.is_grad_enabled()):
            return self.quietly(mu_BKC, scale_TB)
        rows = self._rows(scale_TB)
        return _Fit(
            *Unrolled.apply(self.x_BNC, mu_BKC, scale_TB, *self._options, rows, self.tolerance, flow_QTB)
        )

    def quietly(self, mu_BKC: Tensor, scale_TB: Tensor, *, readout: bool = True) -> _Fit:
        """All iterations without a graph."""
        with torch.no_grad():
            if self.engine == "reference":
                return self._plain(mu_BKC, scale_TB, None)
            y_BNC, tail_RBKC, *_, count_B = em_forward(
                self.x_BNC,
                mu_BKC,
                scale_TB,
                *self._options,
                self._rows(scale_TB),
                0,
                readout,
                self.tolerance,
                self.accelerate,
            )
        return _Fit(y_BNC, tail_RBKC, count_B)

    def one_step(self, mu_BKC: Tensor, scale_TB: Tensor) -> _Fit:
        """All iterations but the last without a graph."""
        before = self.quietly(mu_BKC, scale_TB[:-1], readout=False)
        last = replace(self, tolerance=None).unrolled(before.tail_RBKC[-1], scale_TB[-1:], last=1)
        tail_RBKC = torch.cat([before.tail_RBKC[:-1], last.tail_RBKC]) if self.whole else last.tail_RBKC
        return _Fit(last.y_BNC, tail_RBKC, before.count_B + last.count_B)

    def implicit(self, mu_BKC: Tensor, scale_TB: Tensor, how: Implicit) -> _Fit:
        """All iterations without a graph; then a graph from the last means straight to the features."""
        fit = self.quietly(mu_BKC, scale_TB, readout=False)
        residual_B = torch.full_like(mu_BKC[:, 0, 0], math.nan)
        ends_2BKC = fit.tail_RBKC[-2:]
        if self.x_BNC.requires_grad and torch.is_grad_enabled():
            ends_2BKC = FixedPoint.apply(
                self.x_BNC, ends_2BKC, *self._options, how, residual_B, self.flow_QTB
            )
        x_BNC = watch(self.x_BNC, self.flow_QTB, 1, -1)
        mixture = self.mixture
        z_BNK = responsibilities(
            x_BNC, ends_2BKC[0], variance=mixture.variance, assignment=mixture.assignment
        )
        y_BNC = reconstruct(z_BNK, ends_2BKC[1]).to(x_BNC.dtype)
        return _Fit(y_BNC, torch.cat([fit.tail_RBKC[:-2], ends_2BKC]), fit.count_B, residual_B)

    @property
    def _options(self) -> tuple[float, str, str, str]:
        return self.mixture.variance, self.mixture.assignment, self.mixture.normalize, self.engine

    def _rows(self, scale_TB: Tensor) -> int:
        return len(scale_TB) + 1 if self.whole else min(len(scale_TB), 1) + 1

    def _plain(self, mu_BKC: Tensor, scale_TB: Tensor, flow_QTB: Tensor | None) -> _Fit:
        count_B = torch.full_like(mu_BKC[:, 0, 0], len(scale_TB), dtype=torch.int64)
        if self.tolerance is not None:
            # Where to stop is a matter of numbers alone, so any engine may decide it.
            with torch.no_grad():
                *_, used_TB, count_B = em_forward(
                    self.x_BNC, mu_BKC, scale_TB, *self._options[:3], "recompute", 1, 0, False,
                    self.tolerance, False,
                )  # fmt: skip
            scale_TB = torch.where(used_TB == 1, 1.0, scale_TB)
        x_BNC = promote(self.x_BNC, mu_BKC)[0]
        y_BNC, means = plain_unroll(x_BNC, mu_BKC, scale_TB, self.mixture, flow_QTB)
        return _Fit(y_BNC.to(self.x_BNC.dtype), torch.stack(means[-self._rows(scale_TB) :]), count_B)


def _flow(record: bool, gradient: Gradient, iterations: int, mu_BKC: Tensor) -> Tensor | None:
    reached = {"unrolled": iterations + 1, "one_step": 2, "implicit": 2, "detached": 0}[gradient]
    return unfilled_flow(iterations, mu_BKC, reached=min(reached, iterations + 1)) if record else None


def _per_iteration(highway_scale: HighwayScale, iterations: int, like_BKC: Tensor) -> Tensor:
    """The scale as (T, B), without a copy from the host that would wait for the device."""
    images = like_BKC.shape[0]  # not len(), which would fix the number of images in an export
    if isinstance(highway_scale, Tensor):
        return highway_scale.to(like_BKC).expand(iterations).unsqueeze(1).expand(-1, images)
    if isinstance(highway_scale, Sequence):
        rows = [like_BKC.new_full((1, images), h) for h in highway_scale]
        return torch.cat(rows) if rows else like_BKC.new_empty(0, images)
    return like_BKC.new_full((iterations, images), highway_scale)
