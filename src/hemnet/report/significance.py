"""Means over seeds with intervals, paired tests, and their results in words.

Shapes: n seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Level of every interval; a difference is supported if its p after Holm is below 1 - LEVEL."""
LEAST_SEEDS = 3
"""With fewer seeds in common, a difference is called nothing: two can agree by chance."""
OF_A_SCORE = (0.0, 1.0)
"""Between which every score lies: mIoU, IoU and accuracies."""
OF_A_DIFFERENCE = (-1.0, 1.0)
"""Between which every difference of two scores lies."""
OF_A_COST = (0.0, np.inf)
"""Between which times, sizes and their ratios lie."""
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


def score(values: Sequence[float] | np.ndarray) -> Estimate | None:
    """Return `estimate` of scores, which lie between 0 and 1, and so do their intervals."""
    return estimate(values, OF_A_SCORE)


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second`` over the seeds that both have.

    Attributes:
        where: what both sides share, such as ``T=8``.
        first: name of one side.
        second: name of the other side.
        difference: mean of the differences and its interval, unadjusted; None without a common seed.
        p: two-sided, of the paired t-test; None below two common seeds.
        p_holm: p after Holm's correction over the comparisons of one family; set by `holm`.
        seeds: the common seeds.
        conclusive: whether the recipe's scores tell anything; set by `holm`.
    """

    where: str
    first: str
    second: str
    difference: Estimate | None
    p: float | None
    seeds: tuple[int, ...]
    p_holm: float | None = None
    conclusive: bool = True

    @property
    def supported(self) -> bool:
        """Whether p after Holm is below 1 - LEVEL, and the difference may be judged at all."""
        return self.verdict == "supported"

    @property
    def verdict(self) -> str:
        """Supported, inside the noise, or why the difference was not tested or is not judged."""
        if self.difference is None:
            return "no seed has a value in both"
        if self.p_holm is None:
            return "no interval from one seed"
        if not self.conclusive:
            return "not judged (recipe not conclusive)"
        if len(self.seeds) < LEAST_SEEDS:
            return f"not judged (fewer than {LEAST_SEEDS} seeds)"
        return "supported" if self.p_holm < 1 - LEVEL else "inside the noise"


def compare(
    where: str,
    first: tuple[str, Mapping[int, float]],
    second: tuple[str, Mapping[int, float]],
    bounds: tuple[float, float] = UNBOUNDED,
) -> Comparison:
    """Compare two settings, each a name and a value per seed, paired by seed; NaN counts as no value.

    ``bounds`` are those of a difference, see `Estimate`.
    """
    a, b = (
        {seed: value for seed, value in side[1].items() if np.isfinite(value)} for side in (first, second)
    )
    seeds = tuple(sorted(a.keys() & b.keys()))
    differences_n = np.array([a[seed] - b[seed] for seed in seeds])
    difference = estimate(differences_n, bounds)
    return Comparison(where, first[0], second[0], difference, _p_value(differences_n), seeds)


def compare_scores(
    where: str, first: tuple[str, Mapping[int, float]], second: tuple[str, Mapping[int, float]]
) -> Comparison:
    """Compare two settings by a score as `compare` does; no interval goes beyond a difference of 1."""
    return compare(where, first, second, OF_A_DIFFERENCE)


def _p_value(differences_n: np.ndarray) -> float | None:
    """Return the two-sided p of a t-test of mean 0 (1 if all differences are 0); None below two values."""
    n = len(differences_n)
    if n < 2:
        return None
    spread = differences_n.std(ddof=1) / np.sqrt(n)
    if spread == 0:
        return 1.0 if differences_n.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(differences_n.mean()) / spread, n - 1))


def holm(family: Sequence[Comparison], *, conclusive: bool) -> list[Comparison]:
    """Return a family of comparisons with Holm's step-down correction over those with a p.

    Args:
        family: the comparisons of one table.
        conclusive: whether the recipe's scores tell anything, see `hemnet.report.groups.Section.conclusive`;
            if they do not, no difference is called supported.
    """
    tested = sorted((i for i, c in enumerate(family) if c.p is not None), key=lambda i: family[i].p or 0.0)
    corrected, running = [replace(c, conclusive=conclusive) for c in family], 0.0
    for rank, i in enumerate(tested):
        p = family[i].p
        assert p is not None
        running = max(running, min(1.0, (len(tested) - rank) * p))
        corrected[i] = replace(corrected[i], p_holm=running)
    return corrected


def sentence(found: Comparison) -> str:
    """Return a comparison in words, such as ``hem vs em at T=8: +0.021 mIoU (...): supported.``"""
    start = f"{found.first} vs {found.second}" + (f" at {found.where}" if found.where else "")
    if found.difference is None:
        return f"{start}: {found.verdict}, so nothing to compare."
    mean = f"{found.difference.mean:+.3f} mIoU"
    if found.difference.low is None or found.p is None or found.p_holm is None:
        return f"{start}: {mean} on seed {found.seeds[0]} alone: no interval from one seed."
    interval = f"95% interval {found.difference.low:+.3f} to {found.difference.high:+.3f}"
    after = "" if found.p_holm == found.p else f", {p_text(found.p_holm)} after Holm"
    p = p_text(found.p)
    tested = f"n={len(found.seeds)} seeds, p{p if p.startswith('<') else f'={p}'}{after}"
    return f"{start}: {mean} ({interval}, {tested}): {found.verdict}."


def p_text(p: float) -> str:
    """Return a p-value with two significant digits, or ``<0.001``."""
    return "<0.001" if p < 0.001 else f"{p:.2g}"
