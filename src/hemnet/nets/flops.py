"""What a network computes and holds: floating-point operations and parameters, counted.

A multiplication and an addition are two FLOPs; matrix products and convolutions are counted, what is done
element by element is not.

Shapes: B images, N positions, C channels, K components, T iterations.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from hemnet.nets import Segmenter


@register_flop_formula(torch.ops.hemnet.em_forward)
def em_flops(
    x_shape: Sequence[int],
    mu_shape: Sequence[int],
    scale_shape: Sequence[int],
    readout: bool,
    *_: object,
    out_shape: Any = None,
) -> int:
    """Return the FLOPs of `hemnet.em.gradient.operators.em_forward`, whose inside the counter does not see.

    An E-step, an M-step and the readout are each a product of N x C and C x K: 2BNCK. The readout uses the
    last E-step; without an iteration it takes one of its own. What stopping early saves is not known.

    Args:
        x_shape: (B, N, C).
        mu_shape: (B, K, C).
        scale_shape: (T, B).
        readout: whether the features are reconstructed.
        out_shape: shapes of the results, as the counter hands them on.
    """
    images, positions, channels = x_shape
    products = 2 * scale_shape[0] + (1 + (scale_shape[0] == 0) if readout else 0)
    return products * 2 * images * positions * channels * mu_shape[1]


def count_flops(network: Segmenter, image_BCHW: Tensor) -> dict[str, int]:
    """Return the FLOPs of ``total``, ``backbone`` and ``head`` for one batch of images."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image_BCHW)
    parts = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    owner = type(network).__name__
    return {"total": parts["Global"], **{part: parts[f"{owner}.{part}"] for part in ("backbone", "head")}}


def count_parameters(network: Segmenter) -> dict[str, int]:
    """Return the parameters of ``total``, ``backbone``, ``head`` and ``auxiliary`` (for training only)."""

    def count(module: nn.Module | None) -> int:
        return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())

    parts = {"backbone": network.backbone, "head": network.head, "auxiliary": network.auxiliary}
    return {"total": count(network), **{name: count(module) for name, module in parts.items()}}
