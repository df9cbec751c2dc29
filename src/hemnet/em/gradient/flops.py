"""The floating-point operations of EM's operators, whose inside `torch.utils.flop_counter` does not see.

Importing this module registers the formulas. A multiplication and an addition are two FLOPs; matrix products
are counted, what is done element by element is not. The unit is one product of N x C and C x K per image:
2·B·N·C·K.

Shapes: B images, N positions, C channels, K components, T iterations, S kept means.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

import hemnet.em.gradient.operators  # noqa: F401  registers the operators


@register_flop_formula(torch.ops.hemnet.em_forward)
def forward_flops(
    x_shape: Sequence[int],
    weights_shape: Sequence[int] | None,
    mu_shape: Sequence[int],
    scale_shape: Sequence[int],
    readout: bool,
    *_: object,
    out_shape: Any = None,
) -> int:
    """Return the FLOPs of `hemnet.em.gradient.operators.em_forward`.

    An E-step, an M-step and the readout are a product each. The readout uses the last E-step; without an
    iteration it takes one of its own. What stopping early saves is not known.

    Args:
        x_shape: (B, N, C).
        weights_shape: (B, N), or None.
        mu_shape: (B, K, C).
        scale_shape: (T, B).
        readout: whether the features are reconstructed.
        out_shape: shapes of the results, as the counter hands them on.
    """
    iterations = scale_shape[0]
    return (2 * iterations + (1 + (iterations == 0) if readout else 0)) * _product(x_shape, mu_shape)


@register_flop_formula(torch.ops.hemnet.em_backward)
def backward_flops(
    x_shape: Sequence[int],
    weights_shape: Sequence[int] | None,
    kept_shape: Sequence[int],
    mass_shape: Sequence[int],
    length_shape: Sequence[int],
    scale_shape: Sequence[int],
    count_shape: Sequence[int],
    final_shape: Sequence[int],
    dy_shape: Sequence[int] | None,
    dtail_shape: Sequence[int] | None,
    to_features: bool,
    z_shape: Sequence[Sequence[int]],
    *_: object,
    out_shape: Any = None,
) -> int:
    """Return the FLOPs of `hemnet.em.gradient.operators.em_backward` with the engine "recompute".

    An iteration takes three products (the logits again, unless its responsibilities were kept, the gradient
    to the responsibilities, the gradient to the means) and two for the gradient to the features; the readout
    takes two, since it shares the E-step of the last iteration; a mean that was not kept takes the two of a
    step.

    Args:
        x_shape: (B, N, C).
        weights_shape: (B, N), or None.
        kept_shape: (S, B, K, C).
        mass_shape: (T, B, K).
        length_shape: (T, B, K).
        scale_shape: (T, B).
        count_shape: (B,).
        final_shape: (B, K, C).
        dy_shape: (B, N, C), or None without a gradient to the reconstruction.
        dtail_shape: (R, B, K, C), or None without one to the means.
        to_features: whether the gradient to the features is wanted.
        z_shape: one (B, N, K) for each iteration whose responsibilities were kept.
        out_shape: shapes of the results, as the counter hands them on.
    """
    iterations = max(scale_shape[0], 1)
    recomputed = max(scale_shape[0] - kept_shape[0], 0)
    products = (5 if to_features else 3) * iterations + 2 * recomputed - len(z_shape)
    products += 0 if dy_shape is None else 2
    return products * _product(x_shape, final_shape)


def _product(x_shape: Sequence[int], mu_shape: Sequence[int]) -> int:
    images, positions, channels = x_shape
    return 2 * images * positions * channels * mu_shape[1]
