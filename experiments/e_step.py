"""How much of the gradient through EM passes through the E-steps, in each iteration?

Song, Kim and Shim (AAAI 2021) argue with the path through the N-steps alone. With the responsibilities held
constant, iteration t injects Σ_k η (1-η)^(T-1-t) z_nk / N_k · ∂loss/∂mu_k^(T) into the gradient of the
features (their Eq. 18, whose layers count from 1), and ∂loss/∂mu^(t) is (1-η)^(T-t) ∂loss/∂mu^(T) (Eq. 15).
What passes through the E-steps they call negligible. Here both gradients are computed by autograd in float64:
the whole one, and that with the responsibilities held constant. What the E-steps carry is the difference of
the two vectors.

Shapes: B images, N positions, C channels, K components, T iterations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from em_inputs import Given
from torch import Tensor

from hemnet.em.engine.reference import e_step
from hemnet.em.functional import component_means, newton_step, normalize_means, reconstruct, weigh
from hemnet.em.highway import per_iteration
from hemnet.em.options import Mixture
from hemnet.errors import HemnetError

PATHS = ("whole", "n_step", "e_step")
COLUMNS = [f"{what}_{path}" for what in ("features", "means") for path in PATHS]


class Parts(NamedTuple):
    """The gradient that each iteration passes on.

    Attributes:
        features_TBNC: the part of ∂loss/∂x that iteration t injects in row t < T, the readout's in row T; the
            rows add up to ∂loss/∂x.
        means_TBKC: ∂loss/∂mu^(t), t = 0 ... T.
    """

    features_TBNC: Tensor
    means_TBKC: Tensor


def parts(
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    dy_BNC: Tensor,
    scale_TB: Tensor,
    mixture: Mixture,
    *,
    hold: bool,
) -> Parts:
    """Return the gradient of Σ y·dy, y the reconstruction after T steps, by iteration.

    Args:
        x_BNC: features.
        weights_BN: of the positions, as in `hemnet.em.unroll`.
        mu_BKC: initial means, one set per image.
        dy_BNC: gradient to the reconstruction.
        scale_TB: h.
        mixture: the E-step.
        hold: whether the responsibilities are constants to the gradient, which leaves the N-steps' path.
    """

    def assigned(x_BNC: Tensor, mu_BKC: Tensor) -> Tensor:
        z_BNK = e_step(x_BNC, mu_BKC, mixture)
        return z_BNK.detach() if hold else z_BNK

    T = len(scale_TB)
    # A copy of the features for each iteration and for the readout, so that each has a gradient of its own.
    x = [x_BNC.detach().clone().requires_grad_() for _ in range(T + 1)]
    means = [mu_BKC.detach().clone().requires_grad_()]
    for t, h_B in enumerate(scale_TB):
        z_BNK = weigh(assigned(x[t], means[t]), weights_BN)
        m_BKC = component_means(x[t], z_BNK, means[t])
        means.append(normalize_means(newton_step(means[t], m_BKC, h_B[:, None, None]), mixture.normalize))
    y_BNC = reconstruct(assigned(x[T], means[max(T - 1, 0)]), means[T])
    found = torch.autograd.grad(y_BNC, [*x, *means], dy_BNC, allow_unused=True, materialize_grads=True)
    return Parts(torch.stack(found[: T + 1]), torch.stack(found[T + 1 :]))


def squares(given: Given, iterations: int) -> Tensor:
    """Return squared norms of one image at an EM layer, (T+2, 6), columns as in `COLUMNS`.

    Row t has iteration t, row T the readout and the last means, and row T+1 the gradient to the features as a
    whole, the sum of their parts, and NaN for the means.

    Raises:
        HemnetError: the layer mixes its steps, so they are not those of the equations.
    """
    if given.options.acceleration != "none":
        raise HemnetError(f"acceleration={given.options.acceleration} mixes steps: leave the run out")
    mu_BKC = given.means_BKC.expand(len(given.x_BNC), -1, -1)
    scale_TB = per_iteration(given.layer.scale(iterations), iterations, mu_BKC).detach()
    whole, held = (
        parts(given.x_BNC, given.weights_BN, mu_BKC, given.dy_BNC, scale_TB, given.options, hold=hold)
        for hold in (False, True)
    )
    columns = []
    for name in Parts._fields:
        one, other = getattr(whole, name), getattr(held, name)
        for part in (one, other, one - other):
            total = part.sum(dim=0, keepdim=True) if name.startswith("features") else part[:1] * torch.nan
            columns.append(torch.cat([part, total]).flatten(1).square().sum(dim=1))
    return torch.stack(columns, dim=1).detach()


def rows(squares_T6: Tensor) -> list[Sequence[object]]:
    """Return the rows of a table, t and the norms of `COLUMNS`, of squared norms summed over images."""
    norms = squares_T6.sqrt().tolist()
    names = [*range(len(norms) - 1), "all"]
    cells = [["" if value != value else f"{value:.6g}" for value in row] for row in norms]
    return [[name, *row] for name, row in zip(names, cells, strict=True)]
