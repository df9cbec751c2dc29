"""One iteration and its exact gradient, on top of the passes of an engine.

Only K·C numbers per image here; what is of the size of the features happens in `hemnet.em.engine.passes`.

Shape suffixes: B images, C channels, K components.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hemnet.em.engine.fused import FusedSteps
from hemnet.em.engine.passes import Passes
from hemnet.em.functional import EMPTY_MASS, SHORTEST_MEAN
from hemnet.em.options import Mixture


class Step(NamedTuple):
    """What an iteration leaves behind for its gradient.

    Attributes:
        mu_BKC: the means after it.
        mass_BK: N_k.
        length_BK: what "l2" divided the means by; one for "none".
    """

    mu_BKC: Tensor
    mass_BK: Tensor
    length_BK: Tensor


def take_step(passes: Passes, mu_BKC: Tensor, h_B: Tensor, mixture: Mixture) -> Step:
    """Eqs (1) to (3) and the normalisation, from mu."""
    if isinstance(passes, FusedSteps):
        return Step(*passes.take_step(mu_BKC, h_B))
    sums_BKC, mass_BK = passes.sums(mu_BKC)
    # Not the negation of ">": a NaN mass must reach the result, not pass for an empty component.
    empty_BK = mass_BK <= EMPTY_MASS
    m_BKC = sums_BKC / mass_BK.masked_fill(empty_BK, 1.0).unsqueeze(2)
    rest_BK1 = h_B.unsqueeze(1).expand_as(mass_BK).masked_fill(empty_BK, 1.0).unsqueeze(2)
    # Rounded as in eq (3): where its two parts nearly cancel, and "l2" divides by what is left, another order
    # of these operations gives another result.
    v_BKC = (rest_BK1 * mu_BKC).add_((1 - rest_BK1) * m_BKC)
    length_BK = torch.ones_like(mass_BK)
    if mixture.normalize == "l2":
        length_BK = v_BKC.norm(dim=2).clamp(min=SHORTEST_MEAN)
        v_BKC = v_BKC / length_BK.unsqueeze(2)
    return Step(v_BKC, mass_BK, length_BK)


def where_moving(step: Step, mu_BKC: Tensor, moving_B: Tensor) -> Step:
    """The step for the images that are moving; the others, which have stopped, keep exactly their mu."""
    return step._replace(mu_BKC=torch.where(moving_B[:, None, None], step.mu_BKC, mu_BKC))


def pull_step(
    passes: Passes,
    mu_BKC: Tensor,
    h_B: Tensor,
    moving_B: Tensor,
    step: Step,
    d_BKC: Tensor,
    mixture: Mixture,
    readout: tuple[Tensor, Tensor] | None = None,
    *,
    to_features: bool = True,
    to_scale: bool = True,
    energy_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pull the gradient d of the means after a step back to the means before it and to h.

    With D the gradient before normalisation and A = (1-h) D / N_k, the gradient to z is x Aᵀ minus
    A·m per component. m is not stored: (1-h) m = v - h·mu, where v are the means before normalisation.

    Args:
        passes: what the step was taken with, as the following two.
        mu_BKC: the means before.
        h_B: the highway scale.
        moving_B: which images the step moved; those that had stopped hand d back as it is.
        step: what `take_step` and `where_moving` returned.
        d_BKC: the gradient with respect to step.mu_BKC.
        mixture: what the step was taken with.
        readout: as in `Passes.pull`, for the responsibilities of this step.
        to_features: as in `Passes.pull`.
        to_scale: whether the gradient to h is wanted; zeros are returned for it otherwise.
        energy_B: as in `Passes.pull`.

    Returns:
        The gradients (B, K, C) to mu and (B,) to h. The gradient to h is 0 for an image that had stopped. For
        h = 1 it cannot be computed from the result of the step, and is set to 0.
    """
    if isinstance(passes, FusedSteps):
        return passes.pull_step(
            mu_BKC, h_B, moving_B, step, d_BKC, readout, to_features=to_features, energy_B=energy_B
        )
    v_BKC, moving_B1 = step.mu_BKC, moving_B.unsqueeze(1)
    if mixture.normalize == "l2":
        length_BK1 = step.length_BK.unsqueeze(2)
        along_BKC = torch.where(length_BK1 > SHORTEST_MEAN, v_BKC, 0.0)
        tangent_BKC = d_BKC - along_BKC * (along_BKC * d_BKC).sum(dim=2, keepdim=True)
        d_BKC = torch.where(moving_B1.unsqueeze(2), tangent_BKC / length_BK1, d_BKC)
        v_BKC = v_BKC * length_BK1
    # A component that had no mass, or whose image had stopped, kept all of its mu, as with h = 1.
    still_BK = step.mass_BK.masked_fill(~moving_B1, 0.0) <= EMPTY_MASS
    inverse_BK = step.mass_BK.reciprocal().masked_fill_(still_BK, 0.0)
    rest_BK = h_B.unsqueeze(1).expand_as(still_BK).masked_fill(still_BK, 1.0)
    rest_BK1 = rest_BK.unsqueeze(2)
    a_BKC = d_BKC * ((1 - rest_BK) * inverse_BK).unsqueeze(2)
    offset_BK = (d_BKC * (v_BKC - rest_BK1 * mu_BKC)).sum(dim=2) * inverse_BK
    g_BKC, dl_BK = passes.pull(mu_BKC, a_BKC, offset_BK, readout, to_features=to_features, energy_B=energy_B)
    back_BKC = g_BKC.addcmul_(rest_BK1, d_BKC)
    if mixture.assignment == "gaussian":
        back_BKC.addcmul_(dl_BK.unsqueeze(2), mu_BKC, value=-1)
    return back_BKC, _slope(mu_BKC, v_BKC, d_BKC, h_B, still_BK) if to_scale else torch.zeros_like(h_B)


def _slope(mu_BKC: Tensor, v_BKC: Tensor, d_BKC: Tensor, h_B: Tensor, still_BK: Tensor) -> Tensor:
    slope_BK = (d_BKC * (mu_BKC - v_BKC)).sum(dim=2).masked_fill_(still_BK, 0.0)
    return slope_BK.sum(dim=1) / torch.where(h_B == 1, 1.0, 1 - h_B)
