"""`unroll`: the iterations, by any engine, with any gradient.

Shape suffixes: B images, N positions, C channels, K components, T iterations.
"""

from dataclasses import replace

import torch
from torch import Tensor

from hemnet.em.engine.choose import choose_engine
from hemnet.em.functional import promote
from hemnet.em.gradient.call import Call
from hemnet.em.gradient.choose import Gradient, choose_mode
from hemnet.em.gradient.modes import GradientMode
from hemnet.em.highway import HighwayScale, check_scale, per_iteration
from hemnet.em.options import (
    Acceleration,
    Assignment,
    Engine,
    Normalization,
    Options,
    as_count,
    check_model,
    check_shapes,
    check_weights,
    temperature,
)
from hemnet.em.result import EMResult, GradientFlow, unfilled_flow
from hemnet.em.transforms import outside_graph


def unroll(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    weights_BN: Tensor | None = None,
    *,
    iterations: int,
    highway_scale: HighwayScale = 0.5,
    assignment: Assignment = "gaussian",
    variance: float | Tensor | None = None,
    prior: Tensor | None = None,
    normalize: Normalization = "none",
    gradient: Gradient = "unrolled",
    engine: Engine = "auto",
    acceleration: Acceleration = "none",
    tolerance: float | None = None,
    return_trajectory: bool = False,
    record_gradient_flow: bool = False,
) -> EMResult:
    """Call T iterations of (1)-(3) from the given means, then reconstruct by (4).

    Args:
        x_BNC: features, (B, N, C), floating.
        mu_BKC: initial means, (B, K, C) or (1, K, C), floating; used as they are, also under "l2".
        weights_BN: how often each position counts in the fit, (B, N) or (1, N), numbers of 0 or more or
            truth values (a mask); once if None. A position without weight is in no mean, no likelihood and no
            occupancy, and is reconstructed all the same; its features must be finite. No gradient.
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
            A tensor, positive, gives one σ² of shape () or (1,), or one per component, (K,) or (B or 1, K),
            the latter for "gaussian" alone; gradients reach it, and the engine is "reference".
        prior: π_k in the place of 1/K, positive, (K,) or (B or 1, K); divided by its sum. As a variance that
            is a tensor. Their values are not checked, which would wait for the device.
        normalize: "none", or "l2" for means of unit length after every step, which the theorem on (5)
            does not cover.
        gradient: how one and the same forward pass is differentiated, as an object or by its name.
            `Unrolled()`, "unrolled": exactly, through all T iterations.
            `Detached()`, "detached": not at all; the whole result is without a graph (EMANet).
            `OneStep()`, "one_step": through the last iteration and the reconstruction; the means before
            are constants.
            `Implicit(...)`, "implicit": as if the means were a fixed point of EM; none to mu and h.
        engine: "reference" is plain autograd; "recompute" is exact in bounded memory, see `Unrolled`;
            "triton" is that in fused kernels, on CUDA. "auto" is "triton" where it can run and pays, and
            "recompute" elsewhere, with the reason in the log of "hemnet.em" on CUDA.
        acceleration: "anderson" mixes past steps, each mix taken only where (5) does not fall. Not for
            "unrolled", "dot" or "l2", nor for the engine "reference".
        tolerance: if given, an image whose next step would be relatively shorter, |m - mu| <= tolerance·|mu|
            for "none", stays where it is. Reads a number from the device in every iteration.
        return_trajectory: whether to keep the T+1 means.
        record_gradient_flow: whether the backward pass fills `EMResult.gradient_flow`; costs two more
            passes over the features there and numbers per iteration only.

    Raises:
        ValueError: if a shape, a type, a name, a count, a number or a combination is not as above.
        RuntimeError: if engine="triton" cannot run.
        ConvergenceError: see `Implicit`.

    Example:
        >>> import torch
        >>> x_BNC, mu_BKC = torch.randn(2, 100, 8, requires_grad=True), torch.randn(1, 3, 8)
        >>> fit = unroll(x_BNC, mu_BKC, iterations=5, highway_scale=0.5, return_trajectory=True)
        >>> fit.reconstruction.shape, fit.means.shape, fit.responsibilities().shape
        (torch.Size([2, 100, 8]), torch.Size([2, 3, 8]), torch.Size([2, 100, 3]))
        >>> bool((fit.diagnostics().log_likelihood.diff(dim=0) > -1e-3).all())  # it never falls
        True
    """
    check_shapes(x_BNC, mu_BKC)
    options = Options(
        temperature(variance, x_BNC.shape[-1]),
        assignment,
        normalize,
        engine,
        acceleration,
        tolerance,
        variances=variance if isinstance(variance, Tensor) else None,
        prior=prior,
    )
    return unroll_with(
        x_BNC,
        weights_BN,
        mu_BKC,
        iterations,
        highway_scale,
        options,
        choose_mode(gradient),
        return_trajectory=return_trajectory,
        record_gradient_flow=record_gradient_flow,
    )


def unroll_with(
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    iterations: int,
    highway_scale: HighwayScale,
    options: Options,
    mode: GradientMode,
    *,
    return_trajectory: bool,
    record_gradient_flow: bool,
) -> EMResult:
    """Do what `unroll` does, with its options made already; shapes are as `check_shapes` demands.

    Raises:
        ValueError: if the iterations, the highway scale or a combination of options is not defined.
        RuntimeError: if options.engine is "triton" and cannot run.
        ConvergenceError: see `Implicit`.
    """
    if record_gradient_flow and torch.compiler.is_compiling():
        return outside_graph(unroll_with)(
            x_BNC, weights_BN, mu_BKC, iterations, highway_scale, options, mode,
            return_trajectory=return_trajectory, record_gradient_flow=True,
        )  # fmt: skip
    iterations = as_count("iterations", iterations)
    check_scale(iterations, highway_scale)
    mu_BKC = promote(mu_BKC, x_BNC)[0].expand(x_BNC.shape[0], -1, -1)
    if weights_BN is not None:
        check_weights(weights_BN, x_BNC)
        weights_BN = weights_BN.to(mu_BKC).expand(x_BNC.shape[0], -1).contiguous()
    inputs = {"features": x_BNC, "means": mu_BKC, "scale": per_iteration(highway_scale, iterations, mu_BKC)}
    check_model(options.spread, options.prior, mu_BKC, options.assignment)
    engine = options.engine if not options.has_tensors else "reference"
    engine = choose_engine(engine, *inputs.values(), weighted=weights_BN is not None)
    options = replace(options, engine=engine)
    mode.check(iterations, options)
    x_BNC, mu_BKC, scale_TB = (
        tensor if name in mode.reaches else tensor.detach() for name, tensor in inputs.items()
    )
    flow_QTB = None
    if record_gradient_flow:
        flow_QTB = unfilled_flow(iterations, mu_BKC, reached=mode.flow_rows(iterations))
    fit = mode.fit(Call(x_BNC, weights_BN, options, return_trajectory, flow_QTB), mu_BKC, scale_TB)
    return EMResult(
        reconstruction=fit.y_BNC,
        means=fit.tail_RBKC[-1],
        trajectory=fit.tail_RBKC if return_trajectory else None,
        iterations=fit.count_B,
        engine=options.engine,
        gradient_flow=None if flow_QTB is None else GradientFlow(*flow_QTB),
        implicit_residual=fit.residual_B,
        _x_BNC=x_BNC,
        _weights_BN=weights_BN,
        _e_BKC=fit.tail_RBKC[-min(iterations, 1) - 1],
        _mixture=options,
    )
