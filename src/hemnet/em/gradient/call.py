"""What a gradient mode is handed: features, options, and iterations with or without an autograd graph.

Shape suffixes: B images, N positions, C channels, K components, T iterations, R rows of a trajectory's
tail, Q the two quantities of `GradientFlow`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hemnet.em.engine.reference import plain_unroll, stopped_after, zero_length_where_stopped
from hemnet.em.functional import promote
from hemnet.em.gradient.operators import em_forward
from hemnet.em.gradient.unrolled import UnrolledFunction
from hemnet.em.options import Options
from hemnet.em.transforms import no_gradient

# What the forward pass may keep for the backward pass unless a user says otherwise; see `Unrolled`.
KEEP = 0.4


class Outcome(NamedTuple):
    """What iterations gave.

    Attributes:
        y_BNC: the reconstruction, in the type of the features.
        tail_RBKC: the last R means; all T+1 where `Call.whole`.
        count_B: how many iterations moved each image.
        residual_B: see `hemnet.em.result.EMResult.implicit_residual`.
    """

    y_BNC: Tensor
    tail_RBKC: Tensor
    count_B: Tensor
    residual_B: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """The features, the options and what is to be recorded; a gradient mode composes its fit from this.

    Attributes:
        x_BNC: the features.
        weights_BN: how often each position counts, in the type of the state; once if None.
        options: how they are fitted; the engine is chosen.
        whole: whether all T+1 means are wanted, not only those that the result needs.
        flow_QTB: (2, T+1, B) for the backward pass to fill as `GradientFlow` describes, or None.
    """

    x_BNC: Tensor
    weights_BN: Tensor | None
    options: Options
    whole: bool
    flow_QTB: Tensor | None

    def unrolled(self, mu_BKC: Tensor, scale_TB: Tensor, keep: float = KEEP) -> Outcome:
        """All iterations and the reconstruction, with a graph through all of them; keep: see `Unrolled`."""
        if self.options.engine == "reference":
            return self._plain(mu_BKC, scale_TB)
        wants_graph = any(tensor.requires_grad for tensor in (self.x_BNC, mu_BKC, scale_TB))
        if not (wants_graph and torch.is_grad_enabled()):
            return self.quietly(mu_BKC, scale_TB)
        return Outcome(
            *UnrolledFunction.apply(
                self.x_BNC,
                mu_BKC,
                scale_TB,
                self.weights_BN,
                self.options,
                self._rows(scale_TB),
                keep,
                self.flow_QTB,
            )
        )

    def quietly(self, mu_BKC: Tensor, scale_TB: Tensor, *, readout: bool = True) -> Outcome:
        """All iterations without a graph; the reconstruction may be left out."""
        with no_gradient():
            if self.options.engine == "reference":
                return replace(self, flow_QTB=None)._plain(mu_BKC, scale_TB)
            rows = self._rows(scale_TB)
            y_BNC, tail_RBKC, *_, count_B = em_forward(
                self.x_BNC, self.weights_BN, mu_BKC, scale_TB, self.options, rows=rows, readout=readout
            )
        return Outcome(y_BNC, tail_RBKC, count_B)

    def last(self) -> "Call":
        """The run of the last iteration alone, which is taken, however short, and mixed with none."""
        options = replace(self.options, tolerance=None, acceleration="none")
        flow_QTB = None if self.flow_QTB is None else self.flow_QTB[:, -2:]
        return replace(self, options=options, flow_QTB=flow_QTB)

    def _rows(self, scale_TB: Tensor) -> int:
        return len(scale_TB) + 1 if self.whole else min(len(scale_TB), 1) + 1

    def _plain(self, mu_BKC: Tensor, scale_TB: Tensor) -> Outcome:
        x_BNC = promote(self.x_BNC, mu_BKC)[0]
        count_B = torch.full_like(mu_BKC[:, 0, 0], len(scale_TB), dtype=torch.int64)
        if self.options.tolerance is not None:
            with no_gradient():
                _, means = plain_unroll(x_BNC, self.weights_BN, mu_BKC, scale_TB, self.options)
                count_B = stopped_after(means, scale_TB, self.options.tolerance)
            scale_TB = zero_length_where_stopped(scale_TB, count_B)
        y_BNC, means = plain_unroll(x_BNC, self.weights_BN, mu_BKC, scale_TB, self.options, self.flow_QTB)
        return Outcome(y_BNC.to(self.x_BNC.dtype), torch.stack(means[-self._rows(scale_TB) :]), count_B)
