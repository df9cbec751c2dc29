"""The engine "reference": the equations one after another, differentiated by autograd.

What the other engines are held against. Memory grows by several N·K tensors per iteration; derivatives
of any order exist.

Shape suffixes: B images, N positions, C channels, K components, T iterations, Q the two rows of
`hemnet.em.result.GradientFlow`.
"""

from itertools import pairwise

import torch
from torch import Tensor

from hemnet.em.functional import (
    component_means,
    newton_step,
    normalize_means,
    reconstruct,
    responsibilities,
    weigh,
)
from hemnet.em.options import Mixture


def plain_unroll(
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    scale_TB: Tensor,
    mixture: Mixture,
    flow_QTB: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Return the reconstruction (B, N, C) and the T+1 means, for positions of the given weights, if any.

    With `flow_QTB`, (2, T+1, B), the backward pass fills it as `GradientFlow` describes, except for means
    that are constants to it or that it has no reason to visit.
    """
    means = [mu_BKC]
    z_BNK = None
    for t, h_B in enumerate(scale_TB):
        x_t_BNC = watch(x_BNC, flow_QTB, 1, t)
        mu_BKC = means[t] = watch(means[t], flow_QTB, 0, t)
        z_BNK = e_step(x_t_BNC, mu_BKC, mixture)
        m_BKC = component_means(x_t_BNC, weigh(z_BNK, weights_BN), mu_BKC)
        stepped_BKC = newton_step(mu_BKC, m_BKC, h_B[:, None, None])
        means.append(normalize_means(stepped_BKC, mixture.normalize))
    last = max(len(scale_TB) - 1, 0)
    means[-1] = watch(means[-1], flow_QTB, 0, len(scale_TB))
    if z_BNK is None or flow_QTB is not None:
        # Watched apart from the last iteration, whose responsibilities these are.
        x_T_BNC = watch(x_BNC, flow_QTB, 1, len(scale_TB))
        z_BNK = e_step(x_T_BNC, means[last], mixture)
    return reconstruct(z_BNK, means[-1]), means


def e_step(x_BNC: Tensor, mu_BKC: Tensor, mixture: Mixture) -> Tensor:
    """Eq (1) for a mixture, (B, N, K)."""
    return responsibilities(
        x_BNC, mu_BKC, variance=mixture.spread, assignment=mixture.assignment, prior=mixture.prior
    )


def stopped_after(means: list[Tensor], scale_TB: Tensor, tolerance: float) -> Tensor:
    """How many iterations each image takes before the first one that is too short, (B,), int64.

    Args:
        means: the T+1 means of a fit that did not stop.
        scale_TB: h per iteration and image.
        tolerance: see `hemnet.em.unroll`.
    """
    count_B = torch.zeros_like(means[0][:, 0, 0], dtype=torch.int64)
    moving_B = torch.ones_like(count_B, dtype=torch.bool)
    for h_B, (mu_BKC, next_BKC) in zip(scale_TB, pairwise(means), strict=True):
        moving_B = moving_B & ~is_short(next_BKC - mu_BKC, mu_BKC, h_B, tolerance)
        count_B += moving_B
    return count_B


def is_short(move_BKC: Tensor, mu_BKC: Tensor, h_B: Tensor, tolerance: float) -> Tensor:
    """Whether a step from mu is at most tolerance·(1-h)·|mu| long, per image, (B,)."""
    return move_BKC.flatten(1).norm(dim=1) <= tolerance * (1 - h_B) * mu_BKC.flatten(1).norm(dim=1)


def zero_length_where_stopped(scale_TB: Tensor, count_B: Tensor) -> Tensor:
    """The highway scale with h = 1, a step of no length, after the `count_B` first steps of each image."""
    t_T1 = torch.arange(len(scale_TB), device=count_B.device).unsqueeze(1)
    return torch.where(t_T1 < count_B, scale_TB, 1.0)


def watch(tensor: Tensor, flow_QTB: Tensor | None, row: int, t: int) -> Tensor:
    """Let row (row, t) of the flow take the norm of this tensor's gradient in the backward pass."""
    if flow_QTB is None or not tensor.requires_grad:
        return tensor
    alias = tensor.view_as(tensor)

    def note(gradient: Tensor) -> None:
        flow_QTB[row, t] = gradient.flatten(1).norm(dim=1)

    alias.register_hook(note)
    return alias
