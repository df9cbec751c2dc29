"""T iterations and their gradient as two torch custom operators, so that torch.compile keeps one graph.

A torch operator takes tensors, numbers and strings, no objects: `flat` turns `Options` into the arguments
that `FLAT` declares, and the operator makes `Options(*arguments)` of them. No other module does this. These
arguments come last in every schema, so that fakes and FLOP formulas need to name only those before them.

Shape suffixes: B images, N positions, C channels, K components, T iterations, R rows of a trajectory's
tail, S kept means, U iterations whose responsibilities are kept, Q the two quantities of `GradientFlow`.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from hemnet.em.engine.choose import make_passes
from hemnet.em.engine.products import empty_like
from hemnet.em.functional import autocast_off
from hemnet.em.gradient.backward import History, pull_history
from hemnet.em.gradient.forward import Path, accelerated_walk, walk
from hemnet.em.options import Options

State = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, list[Tensor], Tensor]
Flat = tuple[float, str, str, str, str, float | None]
FLAT = "float variance, str assignment, str normalize, str engine, str acceleration, float? tolerance"
"""The options in an operator's schema, in the order of those fields of `Options` that are no tensors."""


def flat(options: Options) -> Flat:
    """The options as `FLAT` declares them; `Options(*flat(options))` is equal to options without tensors,
    the only ones that reach an operator.
    """
    return (
        options.variance,
        options.assignment,
        options.normalize,
        options.engine,
        options.acceleration,
        options.tolerance,
    )


_options = lru_cache(maxsize=64)(Options)


def em_forward(
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    scale_TB: Tensor,
    options: Options,
    *,
    rows: int = 1,
    stride: int = 0,
    kept_steps: int = 0,
    readout: bool = True,
) -> State:
    """Run T iterations without a graph, and reconstruct.

    Args:
        x_BNC: the features.
        weights_BN: how often each position counts, in the type of the state; once if None.
        mu_BKC: the initial means, in the type of the state.
        scale_TB: h per iteration and image.
        options: the engine is "recompute" or "triton"; acceleration goes only with stride 0.
        rows: R, how many of the last means to return, 1 to T+1.
        stride: keep mu^(0), mu^(stride), ... before mu^(T) for the backward pass; 0 keeps none.
        kept_steps: U, of how many iterations, the last ones, to keep the responsibilities for it; with engine
            "recompute" and stride 1.
        readout: whether to compute the reconstruction; it is empty otherwise.

    Returns:
        The reconstruction (B, N, C) in the type of x; the last R means (R, B, K, C); the kept ones
        (S, B, K, C); the masses and the lengths before "l2" (T, B, K); the kept responsibilities, U of
        (B, N, K); the number of iterations each image took before it stopped (B,), int64.
    """
    return _forward_operator(
        x_BNC, weights_BN, mu_BKC, scale_TB, readout, rows, stride, kept_steps, *flat(options)
    )


@torch.library.custom_op(
    "hemnet::em_forward",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? weights, Tensor mu, Tensor scale, bool readout, int rows, int stride,"
    f" int kept_steps, {FLAT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor[], Tensor)",
)
def _forward_operator(  # type: ignore[no-untyped-def]
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    scale_TB: Tensor,
    readout: bool,
    rows: int,
    stride: int,
    kept_steps: int,
    *flat_options,
) -> State:
    options = _options(*flat_options)
    with autocast_off(x_BNC):
        passes = make_passes(options.engine, x_BNC, weights_BN, mu_BKC.dtype, options)
        if options.acceleration == "none":
            path = walk(passes, mu_BKC, scale_TB, options, options.tolerance, kept_steps)
        else:
            path = accelerated_walk(passes, mu_BKC, scale_TB, options, options.tolerance)
        y_BNC = x_BNC.new_empty(0, 0, 0)
        if readout:
            y_BNC = like(x_BNC, passes.readout(path.means[max(len(scale_TB) - 1, 0)], path.means[-1]))
    return y_BNC, *_pack(path, rows, stride)


def like(x_BNC: Tensor, result_BNC: Tensor) -> Tensor:
    """The result in the type and memory layout of x."""
    stride = torch.empty_like(x_BNC, device="meta").stride()  # without the memory of a second result
    if result_BNC.dtype == x_BNC.dtype and result_BNC.stride() == stride:
        return result_BNC
    return torch.empty_like(x_BNC).copy_(result_BNC)


def _pack(path: Path, rows: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    def stack(tensors: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(tensors) if tensors else like.new_empty(0, *like.shape)

    mu_BKC = path.means[0]
    steps = path.steps if stride else []
    return (
        torch.stack(path.means[-rows:]),
        stack(path.means[:-1:stride] if stride else [], mu_BKC),
        stack([step.mass_BK for step in steps], mu_BKC[:, :, 0]),
        stack([step.length_BK for step in steps], mu_BKC[:, :, 0]),
        path.responsibilities,
        path.count_B,
    )


@_forward_operator.register_fake
def _(  # type: ignore[no-untyped-def]
    x_BNC, weights_BN, mu_BKC, scale_TB, readout, rows, stride, kept_steps, *_
):
    iterations, images = scale_TB.shape[0], mu_BKC.shape[0]
    kept = math.ceil(iterations / stride) if stride else 0
    saved = iterations if stride else 0
    return (
        torch.empty_like(x_BNC) if readout else x_BNC.new_empty(0, 0, 0),
        mu_BKC.new_empty(rows, *mu_BKC.shape),
        mu_BKC.new_empty(kept, *mu_BKC.shape),
        mu_BKC.new_empty(saved, *mu_BKC.shape[:2]),
        mu_BKC.new_empty(saved, *mu_BKC.shape[:2]),
        [empty_like(x_BNC, mu_BKC.shape[1]).to(mu_BKC.dtype) for _ in range(kept_steps)],
        mu_BKC.new_empty(images, dtype=torch.int64),
    )


def em_backward(
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    history: History,
    options: Options,
    dy_BNC: Tensor | None,
    dtail_RBKC: Tensor | None,
    *,
    to_features: bool,
    to_scale: bool,
    record: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exact gradient of `em_forward`, T iterations backwards.

    Args:
        x_BNC: the features.
        weights_BN: those of the forward pass.
        history: what the forward pass kept; with T = 0 it may be empty but for the last means.
        options: those of the forward pass.
        dy_BNC: gradient to the reconstruction, or None.
        dtail_RBKC: gradients to the last R means, or None.
        to_features: whether a gradient to x is wanted; it is empty otherwise.
        to_scale: whether one to the scale is wanted; it is zero otherwise.
        record: whether to fill the last result.

    Returns:
        The gradients to x, to the initial means and to the scale, and the flow (2, T+1, B), see
        `GradientFlow`, empty if not recorded.
    """
    *kept, z_UBNK, stride = history
    return _backward_operator(
        x_BNC, weights_BN, *kept, dy_BNC, dtail_RBKC,
        to_features, z_UBNK, to_scale, record, stride, *flat(options),
    )  # fmt: skip


@torch.library.custom_op(
    "hemnet::em_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor? weights, Tensor kept, Tensor mass, Tensor length, Tensor scale,"
    f" Tensor count, Tensor final, Tensor? dy, Tensor? dtail, bool to_features, Tensor[] responsibilities,"
    f" bool to_scale, bool record, int stride, {FLAT}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward_operator(  # type: ignore[no-untyped-def]
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    kept_SBKC: Tensor,
    mass_TBK: Tensor,
    length_TBK: Tensor,
    scale_TB: Tensor,
    count_B: Tensor,
    final_BKC: Tensor,
    dy_BNC: Tensor | None,
    dtail_RBKC: Tensor | None,
    to_features: bool,
    z_UBNK: list[Tensor],
    to_scale: bool,
    record: bool,
    stride: int,
    *flat_options,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    options = _options(*flat_options)
    iterations, images = scale_TB.shape[0], len(final_BKC)
    flow_QTB = final_BKC.new_zeros((2, iterations + 1, images) if record else (0, 0, 0))
    history = History(kept_SBKC, mass_TBK, length_TBK, scale_TB, count_B, final_BKC, z_UBNK, stride)
    with autocast_off(x_BNC):
        passes = make_passes(options.engine, x_BNC, weights_BN, final_BKC.dtype, options)
        dmu_BKC, dscale_TB = pull_history(
            passes,
            history if iterations else History.standing(final_BKC),
            options,
            dy_BNC,
            dtail_RBKC,
            to_features=to_features,
            to_scale=to_scale,
            flow_QTB=flow_QTB if record else None,
        )
        dx_BNC = like(x_BNC, passes.features_vjp()) if to_features else x_BNC.new_empty(0, 0, 0)
    if record:
        flow_QTB[1].sqrt_()
    return dx_BNC, dmu_BKC, dscale_TB[:iterations].clone(), flow_QTB


@_backward_operator.register_fake
def _(  # type: ignore[no-untyped-def]
    x_BNC, weights_BN, kept_SBKC, mass_TBK, length_TBK, scale_TB, count_B, final_BKC, dy_BNC, dtail_RBKC,
    to_features, z_UBNK, to_scale, record, *_,
):  # fmt: skip
    flow_shape = (2, scale_TB.shape[0] + 1, final_BKC.shape[0]) if record else (0, 0, 0)
    return (
        torch.empty_like(x_BNC) if to_features else x_BNC.new_empty(0, 0, 0),
        torch.empty_like(final_BKC),
        torch.empty_like(scale_TB),
        final_BKC.new_empty(flow_shape),
    )
