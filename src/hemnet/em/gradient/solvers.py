"""Linear solvers of gradient mode `Implicit`: w - vjp(w) = d for w, each image separately.

`vjp` is the vector-Jacobian product of a step of EM: it maps a (B, K, C) tensor to another. A solver stops at
a relative residual of `tolerance` in every image, or after `max_iterations` products, whichever is first.

Shape suffixes: B images, K components, C channels, J Krylov vectors.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def relative(difference_BKC: Tensor, to_BKC: Tensor) -> Tensor:
    """|difference| / |to| per image, (B,); |difference| where `to` is zero."""
    size_B = to_BKC.flatten(1).norm(dim=1)
    return difference_BKC.flatten(1).norm(dim=1) / torch.where(size_B > 0, size_B, 1.0)


def neumann(vjp: Callable[[Tensor], Tensor], d_BKC: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Sum w = d + vjp(d) + vjp(vjp(d)) + ..., until no image's w moves by more than the tolerance."""
    w_BKC = d_BKC
    for _ in range(max_iterations):
        before_BKC, w_BKC = w_BKC, d_BKC + vjp(w_BKC)
        if (relative(w_BKC - before_BKC, d_BKC) <= tolerance).all():
            break
    return w_BKC


def gmres(vjp: Callable[[Tensor], Tensor], d_BKC: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Solve w - vjp(w) = d for each image by GMRES without restart (Saad and Schultz, 1986).

    The small least-squares problem is solved on the CPU, wherever d is: a few dozen numbers, for which a GPU
    needs many launches.
    """
    size_B = d_BKC.flatten(1).norm(dim=1)
    basis = [_unit(d_BKC, size_B)]
    hessenberg_BJJ = torch.zeros(len(d_BKC), max_iterations + 1, max_iterations, dtype=torch.float64)
    counts_B = (size_B > 0).cpu()
    for j in range(max_iterations):
        v_BKC = basis[j] - vjp(basis[j])
        column = []
        for q_BKC in basis:
            column.append((q_BKC * v_BKC).sum(dim=(1, 2)))
            v_BKC = v_BKC - column[-1][:, None, None] * q_BKC
        left_B = v_BKC.flatten(1).norm(dim=1)
        # The one read of the device in an iteration.
        hessenberg_BJJ[:, : j + 2, j] = torch.stack([*column, left_B], dim=1).cpu()
        h_BJJ = hessenberg_BJJ[:, : j + 2, : j + 1]
        # By singular values: an image that is done has no further basis, only zeros.
        y_BJ = torch.linalg.pinv(h_BJJ)[:, :, 0]
        missing_BJ = (h_BJJ @ y_BJ.unsqueeze(2)).squeeze(2)
        missing_BJ[:, 0] -= 1.0
        if (missing_BJ.norm(dim=1)[counts_B] <= tolerance).all():
            break
        basis.append(_unit(v_BKC, left_B))
    weights_BJ = (y_BJ.to(d_BKC.device) * size_B[:, None]).to(d_BKC.dtype)
    return sum(weights_BJ[:, j, None, None] * basis[j] for j in range(y_BJ.shape[1]))


def _unit(v_BKC: Tensor, length_B: Tensor) -> Tensor:
    # Below the smallest normal number a direction is rounding, and its reciprocal would overflow.
    tiny = torch.finfo(v_BKC.dtype).tiny
    inverse_B = torch.where(length_B > tiny, 1 / length_B.clamp(min=tiny), 0.0)
    return v_BKC * inverse_B[:, None, None]
