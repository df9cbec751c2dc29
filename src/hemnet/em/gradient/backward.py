"""The exact gradient of T iterations: from their results back to the means, the scale and the features.

Shape suffixes: B images, N positions, C channels, K components, T iterations, R rows of a trajectory's
tail, S kept means, U iterations whose responsibilities are kept, Q the two rows of
`hemnet.em.result.GradientFlow`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hemnet.em.engine.passes import Passes, TorchPasses
from hemnet.em.gradient.step import Step, pull_step, take_step, where_moving
from hemnet.em.options import Mixture


class History(NamedTuple):
    """What a forward pass of T >= 1 iterations kept for its gradient.

    Attributes:
        kept_SBKC: every `stride`-th of mu^(0) ... mu^(T-1); the means between are recomputed.
        mass_TBK: N_k of every iteration.
        length_TBK: what "l2" divided the means by; one for "none".
        scale_TB: h per iteration and image.
        count_B: how many iterations moved each image, int64. They are its first ones: an image that has
            stopped does not move again.
        final_BKC: mu^(T).
        z_UBNK: the responsibilities of the last U iterations; those of the others are recomputed.
        stride: distance of the kept means.
    """

    kept_SBKC: Tensor
    mass_TBK: Tensor
    length_TBK: Tensor
    scale_TB: Tensor
    count_B: Tensor
    final_BKC: Tensor
    z_UBNK: Sequence[Tensor]
    stride: int

    @classmethod
    def standing(cls, mu_BKC: Tensor) -> "History":
        """The history for T = 0: one iteration in which no image moved."""
        one_1BK = torch.ones_like(mu_BKC[None, :, :, 0])
        none_B = torch.zeros_like(mu_BKC[:, 0, 0], dtype=torch.int64)
        return cls(mu_BKC.unsqueeze(0), one_1BK, one_1BK, one_1BK[:, :, 0], none_B, mu_BKC, (), 1)

    def backwards(self, passes: Passes, mixture: Mixture) -> Iterator[tuple[int, Tensor, Step]]:
        """Yield t, mu^(t) and the step taken from it, the last iteration first."""
        after_BKC = self.final_BKC
        for segment in reversed(range(len(self.kept_SBKC))):
            first = segment * self.stride
            end = min(first + self.stride, len(self.scale_TB))
            means = [self.kept_SBKC[segment]]
            for t in range(first, end - 1):
                step = take_step(passes, means[-1], self.scale_TB[t], mixture)
                means.append(where_moving(step, means[-1], t < self.count_B).mu_BKC)
            for t in reversed(range(first, end)):
                mu_BKC = means.pop()
                if t >= (first_known := len(self.scale_TB) - len(self.z_UBNK)):
                    assert isinstance(passes, TorchPasses)  # no other engine has them
                    passes.know(mu_BKC, self.z_UBNK[t - first_known])
                yield t, mu_BKC, Step(after_BKC, self.mass_TBK[t], self.length_TBK[t])
                after_BKC = mu_BKC


def pull_history(
    passes: Passes,
    history: History,
    mixture: Mixture,
    dy_BNC: Tensor | None,
    dtail_RBKC: Tensor | None,
    *,
    to_features: bool,
    to_scale: bool,
    flow_QTB: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pull gradients back through all iterations.

    Args:
        passes: the passes over the features; they also add up the gradient to the features.
        history: the iterations of the forward pass.
        mixture: what the forward pass was taken with.
        dy_BNC: gradient to the reconstruction, if there is one.
        dtail_RBKC: gradients to the last R means, if there are any.
        to_features: whether the gradient to the features is wanted.
        to_scale: whether that to the scale is wanted; it is zero otherwise.
        flow_QTB: (2, T+1, B) zeros to fill as `GradientFlow` describes; costs two more passes,
            and changes no bit of what is returned.

    Returns:
        The gradients (B, K, C) to mu^(0) and (T, B) to the highway scale.
    """
    moving_TB = torch.arange(len(history.scale_TB), device=history.count_B.device)[:, None] < history.count_B
    dscales: list[Tensor] = []
    direct = [] if dtail_RBKC is None else list(dtail_RBKC)
    d_BKC = direct.pop().clone() if direct else torch.zeros_like(history.final_BKC)
    readout = None if dy_BNC is None else (dy_BNC, history.final_BKC)
    for t, mu_BKC, step in history.backwards(passes, mixture):
        scale_B, moving_B = history.scale_TB[t], moving_TB[t]
        if readout is not None:
            d_BKC += passes.readout_vjp(mu_BKC, readout[0])
        energy_B = flow_QTB[1, t] if flow_QTB is not None and to_features else None
        if flow_QTB is not None and t == len(moving_TB) - 1:
            flow_QTB[0, -1] = _norm(d_BKC)
            if readout is not None and energy_B is not None:
                # The readout and the last iteration share responsibilities, and one pull below serves both.
                # Their parts are measured in two extra pulls, so that recording changes no bit of it.
                _measure_readout(passes, mu_BKC, readout, mixture, flow_QTB[1, -1])
                pull_step(
                    passes, mu_BKC, scale_B, moving_B, step, d_BKC, mixture,
                    to_features=False, to_scale=False, energy_B=energy_B,
                )  # fmt: skip
                energy_B = None
        d_BKC, dscale_B = pull_step(
            passes,
            mu_BKC,
            scale_B,
            moving_B,
            step,
            d_BKC,
            mixture,
            readout,
            to_features=to_features,
            to_scale=to_scale,
            energy_B=energy_B,
        )
        readout = None
        dscales.append(dscale_B)
        if direct:
            d_BKC += direct.pop()
        if flow_QTB is not None:
            flow_QTB[0, t] = _norm(d_BKC)
    return d_BKC, torch.stack(dscales[::-1])


def _measure_readout(
    passes: Passes, mu_BKC: Tensor, readout: tuple[Tensor, Tensor], mixture: Mixture, energy_B: Tensor
) -> None:
    one_BK = torch.ones_like(mu_BKC[:, :, 0])
    pull_step(
        passes,
        mu_BKC,
        one_BK[:, 0],
        torch.zeros_like(one_BK[:, 0], dtype=torch.bool),  # a step that moved no image
        Step(mu_BKC, one_BK, one_BK),
        torch.zeros_like(mu_BKC),
        mixture,
        readout,
        to_features=False,
        to_scale=False,
        energy_B=energy_B,
    )


def _norm(d_BKC: Tensor) -> Tensor:
    return d_BKC.flatten(1).norm(dim=1)
