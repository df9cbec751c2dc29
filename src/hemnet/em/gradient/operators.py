"""T iterations and their gradient as two operators, opaque to torch.compile: nothing to break a graph on.

Shape suffixes: B images, N positions, C channels, K components, T iterations, R rows of a trajectory's
tail, S kept means, Q the two quantities of `GradientFlow`.
"""

import math

import torch
from torch import Tensor

from hemnet.em.engine.choose import make_passes
from hemnet.em.engine.passes import Mixture
from hemnet.em.functional import autocast_off
from hemnet.em.gradient.backward import History, pull_history
from hemnet.em.gradient.forward import Path, accelerated_walk, walk

State = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("hemnet::em_forward", mutates_args=())
def em_forward(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    scale_TB: Tensor,
    variance: float,
    assignment: str,
    normalize: str,
    engine: str,
    rows: int,
    stride: int,
    readout: bool,
    tolerance: float | None,
    accelerate: bool,
) -> State:
    """Run T iterations without a graph, and reconstruct.

    Args:
        x_BNC: the features.
        mu_BKC: the initial means, in the type of the state.
        scale_TB: h per iteration and image.
        variance: as in `hemnet.em.unroll`, as the following two.
        assignment: see there.
        normalize: see there.
        engine: "recompute" or "triton".
        rows: R, how many of the last means to return, 1 to T+1.
        stride: keep mu^(0), mu^(stride), ... before mu^(T) for the backward pass; 0 keeps none.
        readout: whether to compute the reconstruction; it is empty otherwise.
        tolerance: as in `hemnet.em.unroll`.
        accelerate: whether to mix steps by Anderson's method; only with stride 0.

    Returns:
        The reconstruction (B, N, C) in the type of x; the last R means (R, B, K, C); the kept ones
        (S, B, K, C); the masses and the lengths before "l2" (T, B, K); the scale in effect (T, B); the
        number of iterations each image took (B,).
    """
    mixture = Mixture(variance, assignment, normalize)  # type: ignore[arg-type]
    with autocast_off(x_BNC):
        passes = make_passes(engine, x_BNC, mu_BKC.dtype, mixture)
        path = (accelerated_walk if accelerate else walk)(passes, mu_BKC, scale_TB, mixture, tolerance)
        iterations = len(scale_TB)
        y_BNC = x_BNC.new_empty(0, 0, 0)
        if readout:
            y_BNC = like(x_BNC, passes.readout(path.means[max(iterations - 1, 0)], path.means[-1]))
    return y_BNC, *_pack(path, rows, stride)


def like(x_BNC: Tensor, result_BNC: Tensor) -> Tensor:
    """The result in the type and memory layout of x."""
    if result_BNC.dtype == x_BNC.dtype and result_BNC.stride() == torch.empty_like(x_BNC).stride():
        return result_BNC
    return torch.empty_like(x_BNC).copy_(result_BNC)


def _pack(path: Path, rows: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def stack(tensors: list[Tensor], like: Tensor) -> Tensor:
        return torch.stack(tensors) if tensors else like.new_empty(0, *like.shape)

    mu_BKC = path.means[0]
    steps = path.steps if stride else []
    return (
        torch.stack(path.means[-rows:]),
        stack(path.means[:-1:stride] if stride else [], mu_BKC),
        stack([step.mass_BK for step in steps], mu_BKC[:, :, 0]),
        stack([step.length_BK for step in steps], mu_BKC[:, :, 0]),
        path.scale_TB.clone(),
        path.count_B,
    )


@em_forward.register_fake
def _(  # type: ignore[no-untyped-def]
    x_BNC, mu_BKC, scale_TB, variance, assignment, normalize, engine, rows, stride, readout, tolerance,
    accelerate,
):  # fmt: skip
    iterations, images = scale_TB.shape[0], mu_BKC.shape[0]
    kept = math.ceil(iterations / stride) if stride else 0
    saved = iterations if stride else 0
    return (
        torch.empty_like(x_BNC) if readout else x_BNC.new_empty(0, 0, 0),
        mu_BKC.new_empty(rows, *mu_BKC.shape),
        mu_BKC.new_empty(kept, *mu_BKC.shape),
        mu_BKC.new_empty(saved, *mu_BKC.shape[:2]),
        mu_BKC.new_empty(saved, *mu_BKC.shape[:2]),
        torch.empty_like(scale_TB),
        mu_BKC.new_empty(images, dtype=torch.int64),
    )


@torch.library.custom_op("hemnet::em_backward", mutates_args=())
def em_backward(
    x_BNC: Tensor,
    kept_SBKC: Tensor,
    mass_TBK: Tensor,
    length_TBK: Tensor,
    scale_TB: Tensor,
    final_BKC: Tensor,
    dy_BNC: Tensor | None,
    dtail_RBKC: Tensor | None,
    variance: float,
    assignment: str,
    normalize: str,
    engine: str,
    stride: int,
    to_features: bool,
    record: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exact gradient of `em_forward`, T iterations backwards.

    Args:
        x_BNC: the features.
        kept_SBKC: the means that the forward pass kept.
        mass_TBK: all masses.
        length_TBK: all lengths before "l2".
        scale_TB: the scale in effect.
        final_BKC: the last means.
        dy_BNC: gradient to the reconstruction, or None.
        dtail_RBKC: gradients to the last R means, or None.
        variance: as in the forward pass, as the following four.
        assignment: see there.
        normalize: see there.
        engine: see there.
        stride: see there.
        to_features: whether a gradient to x is wanted; it is empty otherwise.
        record: whether to fill the last result.

    Returns:
        The gradients to x, to the initial means and to the scale, and the flow (2, T+1, B), see
        `GradientFlow`, empty if not recorded.
    """
    mixture = Mixture(variance, assignment, normalize)  # type: ignore[arg-type]
    iterations, images = scale_TB.shape[0], len(final_BKC)
    flow_QTB = final_BKC.new_zeros((2, iterations + 1, images) if record else (0, 0, 0))
    history = History(kept_SBKC, mass_TBK, length_TBK, scale_TB, final_BKC, stride)
    with autocast_off(x_BNC):
        passes = make_passes(engine, x_BNC, final_BKC.dtype, mixture)
        dmu_BKC, dscale_TB = pull_history(
            passes,
            history if iterations else History.standing(final_BKC),
            mixture,
            dy_BNC,
            dtail_RBKC,
            to_features=to_features,
            flow_QTB=flow_QTB if record else None,
        )
        dx_BNC = like(x_BNC, passes.features_vjp()) if to_features else x_BNC.new_empty(0, 0, 0)
    if record:
        flow_QTB[1].sqrt_()
    return dx_BNC, dmu_BKC, dscale_TB[:iterations].clone(), flow_QTB


@em_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    x_BNC, kept_SBKC, mass_TBK, length_TBK, scale_TB, final_BKC, dy_BNC, dtail_RBKC, variance, assignment,
    normalize, engine, stride, to_features, record,
):  # fmt: skip
    flow_shape = (2, scale_TB.shape[0] + 1, final_BKC.shape[0]) if record else (0, 0, 0)
    return (
        torch.empty_like(x_BNC) if to_features else x_BNC.new_empty(0, 0, 0),
        torch.empty_like(final_BKC),
        torch.empty_like(scale_TB),
        final_BKC.new_empty(flow_shape),
    )
