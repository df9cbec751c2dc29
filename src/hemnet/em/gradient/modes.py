"""The gradient modes, each a way to differentiate the same forward pass: `Unrolled`, `OneStep`, `Detached`.

`Implicit` is in `hemnet.em.gradient.implicit`; `hemnet.em.gradient.choose` lists all.

Shape suffixes: B images, K components, C channels, T iterations, R rows of a trajectory's tail.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hemnet.em.gradient.call import KEEP, Call, Outcome
from hemnet.em.options import Options, is_number


class GradientMode(ABC):
    """A way to differentiate a fit; its fields are the options of that way.

    Attributes:
        name: the word that stands for the mode with its default options.
        reaches: which inputs of a fit a gradient reaches: "features", "means" (the initial ones), "scale",
            "model" (the variance and the prior, where these are tensors).
        accelerates: whether steps may be mixed, see `acceleration` of `hemnet.em.unroll`.
    """

    name: ClassVar[str]
    reaches: ClassVar[frozenset[str]]
    accelerates: ClassVar[bool] = True

    def check(self, iterations: int, options: Options) -> None:
        """Refuse iterations or options that the mode is not defined for.

        Raises:
            ValueError: naming the option, the value and the remedy.
        """
        if options.acceleration != "none" and not (self.accelerates and options.engine != "reference"):
            raise ValueError(
                f"acceleration={options.acceleration!r} has neither an unrolled gradient nor a form in plain "
                "torch operators, which engine='reference', torch.func, forward-mode differentiation, an "
                "export and a variance or prior given as a tensor take; use gradient='implicit', 'one_step' "
                "or 'detached', or acceleration='none'"
            )

    @abstractmethod
    def flow_rows(self, iterations: int) -> int:
        """How many of the T+1 rows of a `GradientFlow`, from the last one, a backward pass reaches."""

    @abstractmethod
    def fit(self, call: Call, mu_BKC: Tensor, scale_TB: Tensor) -> Outcome:
        """All iterations and the reconstruction, with the graph of this mode.

        Args:
            call: the features and options, the features detached unless `reaches` names them.
            mu_BKC: the initial means, in the type of the state; likewise.
            scale_TB: h per iteration and image; likewise.
        """


@dataclass(frozen=True)
class Unrolled(GradientMode):
    """The exact gradient through all T iterations, to the features, the initial means and every h.

    Attributes:
        keep: how much the forward pass may keep for the backward pass, 0 or more, in bytes relative to the
            features: first the means of all iterations, then the responsibilities of the last ones, as far
            as they fit. What is not kept is recomputed, one iteration at a time, so memory is bounded for
            any T, and the gradient is the same. The engine "triton" keeps no responsibilities.

    Raises:
        ValueError: if `keep` is not a finite number of 0 or more.
    """

    name = "unrolled"
    reaches = frozenset({"features", "means", "scale", "model"})
    accelerates = False

    keep: float = KEEP

    def __post_init__(self) -> None:
        if not is_number(self.keep) or not 0 <= self.keep < math.inf:
            raise ValueError(f"keep is {self.keep!r}; it must be a finite number of 0 or more")

    def flow_rows(self, iterations: int) -> int:
        """All."""
        return iterations + 1

    def fit(self, call: Call, mu_BKC: Tensor, scale_TB: Tensor) -> Outcome:
        """See `GradientMode`."""
        return call.unrolled(mu_BKC, scale_TB, self.keep)


@dataclass(frozen=True)
class OneStep(GradientMode):
    """The gradient of the last iteration and the reconstruction; the means before are constants."""

    name = "one_step"
    reaches = frozenset({"features", "scale", "model"})

    def flow_rows(self, iterations: int) -> int:
        """The reconstruction's and the last iteration's."""
        return min(2, iterations + 1)

    def fit(self, call: Call, mu_BKC: Tensor, scale_TB: Tensor) -> Outcome:
        """All iterations but the last without a graph."""
        if len(scale_TB) == 0:
            return call.unrolled(mu_BKC, scale_TB)
        before = call.quietly(mu_BKC, scale_TB[:-1], readout=False)
        last = call.last().unrolled(before.tail_RBKC[-1], scale_TB[-1:])
        tail_RBKC = torch.cat([before.tail_RBKC[:-1], last.tail_RBKC]) if call.whole else last.tail_RBKC
        return Outcome(last.y_BNC, tail_RBKC, before.count_B + last.count_B)


@dataclass(frozen=True)
class Detached(GradientMode):
    """No gradient: the result is without a graph, as in EMANet."""

    name = "detached"
    reaches = frozenset()

    def flow_rows(self, iterations: int) -> int:
        """None."""
        return 0

    def fit(self, call: Call, mu_BKC: Tensor, scale_TB: Tensor) -> Outcome:
        """See `GradientMode`."""
        return call.quietly(mu_BKC, scale_TB)
