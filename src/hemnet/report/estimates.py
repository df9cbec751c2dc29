"""Means over seeds with intervals, of values and of ratios.

Shapes: n seeds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Level of every interval."""
OF_A_SCORE = (0.0, 1.0)
"""Between which every score lies: mIoU, IoU and accuracies."""
OF_A_DIFFERENCE = (-1.0, 1.0)
"""Between which every difference of two scores lies."""
OF_A_COST = (0.0, np.inf)
"""Between which times and sizes lie."""
UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True)
class Estimate:
    """A mean of n values and its 95% t-interval.

    Attributes:
        mean: of the values.
        half_width: half the width of the t-interval, which is symmetric about the mean; None for n = 1.
        n: number of values.
        bounds: between which such values can lie; `low` and `high` are cut there.
    """

    mean: float
    half_width: float | None
    n: int
    bounds: tuple[float, float] = UNBOUNDED

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends, which the bounds cut; None for n = 1."""
        if self.half_width is None:
            return None
        least, most = self.bounds
        return max(self.mean - self.half_width, least), min(self.mean + self.half_width, most)

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return self.interval and self.interval[0]

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return self.interval and self.interval[1]

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval reaches below and above the mean, as error bars are drawn; 0 for n = 1."""
        low, high = self.interval or (self.mean, self.mean)
        return self.mean - low, high - self.mean

    @property
    def cut(self) -> bool:
        """Whether the t-interval goes beyond the bounds, and so is not symmetric about the mean."""
        half = self.half_width or 0.0
        return self.mean - half < self.bounds[0] or self.mean + half > self.bounds[1]

    @property
    def skewed(self) -> bool:
        """Whether the interval is not symmetric about the mean, and so is told by its ends."""
        return self.cut


@dataclass(frozen=True)
class Mean(Estimate):
    """A mean that has no interval, however many values it is of: n tells that number."""


@dataclass(frozen=True)
class Ratio(Estimate):
    """The geometric mean of n ratios, and the 95% t-interval of their logarithms, as ratios.

    So the ratio of a to b is one over that of b to a, which means of ratios are not.

    Attributes:
        half_width: by what the mean is divided and multiplied for the ends of the interval.
    """

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends; None for n = 1."""
        if self.half_width is None:
            return None
        with np.errstate(over="ignore"):
            return self.mean / self.half_width, float(np.float64(self.mean) * self.half_width)

    @property
    def cut(self) -> bool:
        """Never."""
        return False

    @property
    def skewed(self) -> bool:
        """Whether there is an interval."""
        return self.half_width is not None


def estimate(
    values: Sequence[float] | np.ndarray, bounds: tuple[float, float] = UNBOUNDED
) -> Estimate | None:
    """Return mean and interval of the finite values; None if there are none."""
    x_n = np.asarray(values, float)
    x_n = x_n[np.isfinite(x_n)]
    if not len(x_n):
        return None
    mean = float(x_n.mean())
    if len(x_n) == 1:
        return Estimate(mean, None, 1, bounds)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(x_n) - 1) * x_n.std(ddof=1) / np.sqrt(len(x_n)))
    return Estimate(mean, half, len(x_n), bounds)


def mean_alone(values: Collection[float]) -> Mean | None:
    """Return the mean of values without an interval; None of none."""
    return Mean(float(np.mean([*values])), None, len(values)) if values else None


def ratio(logarithm: Estimate | None) -> Ratio | None:
    """Return the geometric mean of ratios, of whose natural logarithms this is the mean; None of None."""
    if logarithm is None:
        return None
    with np.errstate(over="ignore"):  # to infinity: two seeds can have intervals beyond any float
        half = None if logarithm.half_width is None else float(np.exp(logarithm.half_width))
        return Ratio(float(np.exp(logarithm.mean)), half, logarithm.n)


def logarithms(values: Mapping[int, float]) -> dict[int, float]:
    """Return the natural logarithm of each seed's value; NaN of what has none."""
    return {seed: float(np.log(v)) if 0 < v < np.inf else float("nan") for seed, v in values.items()}


def score(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """Return `estimate` of scores, which lie between 0 and 1, and so do their intervals."""
    return estimate(values, OF_A_SCORE)
