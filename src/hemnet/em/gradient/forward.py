"""T iterations without a gradient: plain, stopped early, or Anderson-accelerated.

Shape suffixes: B images, C channels, K components, T iterations, W window.
"""

import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hemnet.em.engine.passes import Passes, TorchPasses
from hemnet.em.engine.reference import is_short
from hemnet.em.gradient.step import Step, take_step, where_moving
from hemnet.em.options import Mixture

# Differences of past steps that a mix may use. EM slows down along a few directions at most.
WINDOW = 5


@dataclass
class Path:
    """Where T iterations went.

    Attributes:
        means: mu^(0) ... mu^(T).
        steps: the T steps between them; none for an accelerated path, whose mixes have no gradient.
        count_B: how many iterations each image took before it stopped, (B,), int64. An image that has
            stopped does not move again, so without acceleration its first `count_B` steps moved it.
        responsibilities: of the last of the steps, as many as were to be kept.
    """

    means: list[Tensor]
    steps: list[Step]
    count_B: Tensor
    responsibilities: list[Tensor] = field(default_factory=list)


def walk(
    passes: Passes,
    mu_BKC: Tensor,
    scale_TB: Tensor,
    mixture: Mixture,
    tolerance: float | None,
    kept_steps: int = 0,
) -> Path:
    """Take T steps. With a tolerance, an image whose next step is relatively shorter stays where it is.

    The test is |mu^(t+1) - mu^(t)| <= tolerance·(1-h)·|mu^(t)| over all components of an image, so it does
    not depend on the highway scale, nor on the other images of the batch.
    """
    path = Path([mu_BKC], [], torch.full_like(mu_BKC[:, 0, 0], len(scale_TB), dtype=torch.int64))
    moving_B = torch.ones_like(path.count_B, dtype=torch.bool)
    if tolerance is not None:
        path.count_B.zero_()
    for t, h_B in enumerate(scale_TB):
        mu_BKC = path.means[t]
        step = take_step(passes, mu_BKC, h_B, mixture)
        if t >= len(scale_TB) - kept_steps:
            assert isinstance(passes, TorchPasses)  # no other engine has them
            path.responsibilities.append(passes.responsibilities(mu_BKC))
        if tolerance is not None:
            moving_B = moving_B & ~is_short(step.mu_BKC - mu_BKC, mu_BKC, h_B, tolerance)
            path.count_B += moving_B
            step = where_moving(step, mu_BKC, moving_B)
        path.means.append(step.mu_BKC)
        path.steps.append(step)
        if tolerance is not None and not moving_B.any():
            path.means += [step.mu_BKC] * (len(scale_TB) - t - 1)
            path.steps += [step] * (len(scale_TB) - t - 1)
            break
    return path


def accelerated_walk(
    passes: Passes, mu_BKC: Tensor, scale_TB: Tensor, mixture: Mixture, tolerance: float | None
) -> Path:
    """Take T steps to Anderson mixes of past steps, each only where it does not lower eq (5).

    The likelihood of a proposal is a by-product of its E-step, so the guard costs no pass. An image whose
    proposal was refused stays for that iteration, forgets its past, and takes the plain step next, which
    eq (3) guarantees. The last step is always plain, so that the reconstruction uses z and means of
    one step of EM, as without acceleration.
    """
    mixer = _Mixer()
    count_B = torch.zeros_like(mu_BKC[:, 0, 0], dtype=torch.int64)
    best_B = torch.full_like(mu_BKC[:, 0, 0], -torch.inf)
    done_B = torch.zeros_like(best_B, dtype=torch.bool)
    proposal_BKC = mu_BKC
    move_BKC = torch.zeros_like(mu_BKC)
    path = Path([], [], count_B)
    for t, h_B in enumerate(scale_TB):
        value_B = passes.log_normalizer(proposal_BKC)
        step = take_step(passes, proposal_BKC, h_B, mixture)
        # The start is taken whatever its value, so that a NaN in the features shows in the result.
        taken_B = ((value_B >= best_B) | (t == 0)) & ~done_B
        best_B = torch.where(taken_B, value_B, best_B)
        mu_BKC = torch.where(taken_B[:, None, None], proposal_BKC, mu_BKC)
        move_BKC = torch.where(taken_B[:, None, None], step.mu_BKC - proposal_BKC, move_BKC)
        path.means.append(mu_BKC)
        if tolerance is not None:
            done_B = done_B | is_short(move_BKC, mu_BKC, h_B, tolerance)
            if done_B.all():
                break
        count_B += ~done_B
        proposal_BKC = mu_BKC + mixer.mix(mu_BKC, move_BKC, taken_B)
    final_BKC = torch.where(done_B[:, None, None], mu_BKC, mu_BKC + move_BKC)
    path.means += [final_BKC] * (len(scale_TB) + 1 - len(path.means))
    return path


class _Mixer:
    """Anderson mixing (type II) of a batch of fixed-point iterations, each image with a past of its own."""

    def __init__(self) -> None:
        self._past: list[tuple[Tensor, Tensor]] = []
        self._age_B: Tensor | None = None

    def mix(self, mu_BKC: Tensor, move_BKC: Tensor, taken_B: Tensor) -> Tensor:
        """Where to go from mu, as a displacement; the plain move for an image that was refused."""
        age_B = torch.zeros_like(taken_B, dtype=torch.int64) if self._age_B is None else self._age_B
        # An image that was refused has nothing behind it: the differences from here on are its past.
        self._age_B = torch.where(taken_B, (age_B + 1).clamp(max=WINDOW + 1), 1)
        self._past = [*self._past[-WINDOW:], (mu_BKC, move_BKC)]
        if len(self._past) == 1:
            return move_BKC
        dmu_WBP, dmove_WBP = (
            torch.stack([b - a for a, b in itertools.pairwise(side)]).flatten(2)
            for side in zip(*self._past, strict=True)
        )
        # Column w counts back from the newest; an image may use as many as it has past steps.
        newest_W1 = torch.arange(len(dmu_WBP), 0, -1, device=mu_BKC.device).unsqueeze(1)
        known_WB1 = (newest_W1 < self._age_B).unsqueeze(2)
        dmu_WBP, dmove_WBP = dmu_WBP * known_WB1, dmove_WBP * known_WB1
        weights_BW = _least_squares(dmove_WBP.transpose(0, 1), move_BKC.flatten(1))
        back_BP = torch.einsum("wbp,bw->bp", dmu_WBP + dmove_WBP, weights_BW)
        return move_BKC - back_BP.view_as(move_BKC)


def _least_squares(columns_BWP: Tensor, target_BP: Tensor) -> Tensor:
    """Weights (B, W) of the columns nearest to the target; a column of zeros gets weight 0."""
    gram_BWW = (columns_BWP @ columns_BWP.mT).double()
    right_BW1 = (columns_BWP @ target_BP.unsqueeze(2)).double()
    ridge_B1 = 1e-12 * gram_BWW.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True)
    # The smallest normal number keeps an all-zero past solvable, to weights of zero.
    diagonal_BW = ridge_B1.clamp(min=torch.finfo(torch.float64).tiny).expand(-1, gram_BWW.shape[1])
    solved_BW1 = torch.linalg.solve_ex(gram_BWW + torch.diag_embed(diagonal_BW), right_BW1).result
    return solved_BW1.squeeze(2).nan_to_num(0.0, 0.0, 0.0).to(target_BP.dtype)
