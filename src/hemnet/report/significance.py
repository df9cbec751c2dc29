"""Paired tests of two settings, Holm's correction, and their results in words.

Shapes: n seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from hemnet.report.estimates import LEVEL, UNBOUNDED, Estimate, estimate

LEAST_SEEDS = 3
"""With fewer seeds in common, a difference is called nothing: two can agree by chance."""
TOO_FEW = f"not judged (fewer than {LEAST_SEEDS} seeds)"
NO_SPREAD = "not judged (no spread between the seeds)"
LEAST_P = 0.001
"""A smaller p is told as smaller than this."""
ROUNDING = 5e-7
"""Differences that differ by less, or by this share of the values, are the same: scores and gradients are
stored in single precision, and a difference of differences rounds four of them."""


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second`` over the seeds that both have.

    Attributes:
        where: what both sides share, such as ``T=8``.
        first: name of one side.
        second: name of the other side.
        difference: mean of the differences and its interval, unadjusted; None without a common seed.
        p: two-sided, of the paired t-test; None below two common seeds, and if all differ by the same.
        seeds: the common seeds.
        above: in how many of them the first side is above the second.
        p_holm: p after Holm's correction over the comparisons of one family; set by `holm`, None of what is
            not judged.
        conclusive: whether the recipe's scores tell anything; set by `holm`.
        left_out: seeds of one side or both that are not among `seeds`.
        why: which side lacks a value of them, as the end of a clause; "" if none is left out.
    """

    where: str
    first: str
    second: str
    difference: Estimate | None
    p: float | None
    seeds: tuple[int, ...]
    above: int
    p_holm: float | None = None
    conclusive: bool = True
    left_out: tuple[int, ...] = ()
    why: str = ""

    @property
    def supported(self) -> bool:
        """Whether p after Holm is below 1 - LEVEL, and the difference may be judged at all."""
        return self.verdict == "supported"

    @property
    def verdict(self) -> str:
        """Supported, inside the noise, or why the difference was not tested or is not judged."""
        if self.unjudged:
            return self.unjudged
        assert self.p_holm is not None, "holm has not been called"
        return "supported" if self.p_holm < 1 - LEVEL else "inside the noise"

    @property
    def unjudged(self) -> str:
        """Why the difference was not tested or is not judged; "" if it is judged."""
        if self.difference is None:
            return "no seed has a value in both"
        if self.difference.n == 1:
            return "no interval from one seed"
        if not self.conclusive:
            return "not judged (recipe not conclusive)"
        if self.difference.n < LEAST_SEEDS:
            return TOO_FEW
        return "" if self.p is not None else NO_SPREAD


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
    pairs_n2 = np.array([(a[seed], b[seed]) for seed in seeds]).reshape(-1, 2)
    differences_n = pairs_n2[:, 0] - pairs_n2[:, 1]
    difference, above = estimate(differences_n, bounds), int((differences_n > 0).sum())
    return Comparison(where, first[0], second[0], difference, _p_value(pairs_n2), seeds, above)


def _p_value(pairs_n2: np.ndarray) -> float | None:
    """Return the two-sided p of a t-test that the differences of pairs have mean 0.

    None below two pairs, and without a spread: equal differences, of equal runs for one, are no sample from
    which chance can be told.
    """
    n, differences_n = len(pairs_n2), pairs_n2[:, 0] - pairs_n2[:, 1]
    if n < 2 or np.ptp(differences_n) <= ROUNDING * max(1.0, np.abs(pairs_n2).max()):
        return None
    spread = differences_n.std(ddof=1) / np.sqrt(n)
    return float(2 * stats.t.sf(abs(differences_n.mean()) / spread, n - 1))


def holm(family: Sequence[Comparison], *, conclusive: bool) -> list[Comparison]:
    """Return a family of comparisons with Holm's correction over those that can be judged.

    What can't be called supported, such as a difference between two seeds, costs the others nothing.

    Args:
        family: the comparisons.
        conclusive: whether the recipe's scores tell anything, see `hemnet.report.groups.Section.conclusive`;
            if they do not, no difference is judged.
    """
    made = [replace(c, conclusive=conclusive) for c in family]
    judged = [i for i, c in enumerate(made) if not c.unjudged]
    for i, p in zip(judged, holm_p([made[i].p or 0.0 for i in judged]), strict=True):
        made[i] = replace(made[i], p_holm=p)
    return made


def holm_p(ps: Sequence[float]) -> list[float]:
    """Return each p after Holm's step-down correction over all of them."""
    corrected, running = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = running
    return corrected


def sentence(found: Comparison) -> str:
    """Return a comparison in words, such as ``hem vs em at T=8: +0.021 mIoU (...): supported.``"""
    start = f"{found.first} vs {found.second}" + (f" at {found.where}" if found.where else "")
    if found.difference is None:
        return f"{start}: {found.verdict}, so nothing to compare."
    mean = f"{found.difference.mean:+.3f} mIoU"
    if found.difference.low is None:
        return f"{start}: {mean} on seed {found.seeds[0]} alone{without(found)}: no interval from one seed."
    interval = f"95% interval {found.difference.low:+.3f} to {found.difference.high:+.3f}"
    return f"{start}: {mean} ({interval}, {tested(found)}): {found.verdict}."


def tested(found: Comparison) -> str:
    """Return the seeds of a comparison, those left out, and its p, as they stand in a sentence."""
    text = f"n={len(found.seeds)} seeds{without(found)}"
    if found.p is not None:
        text += f", p{'' if found.p < LEAST_P else '='}{p_text(found.p)}"
    if found.p_holm is not None and found.p_holm != found.p:
        text += f", {p_text(found.p_holm)} after Holm"
    return text


def without(found: Comparison) -> str:
    """Return the seeds that a comparison leaves out and why, to follow the number of seeds; "" if none."""
    return f" without {listed(found.left_out)}, {found.why}" if found.left_out else ""


def listed(seeds: Sequence[int]) -> str:
    """Return seeds in words, such as ``seeds 1, 3 to 7``."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(texts)}"


def p_text(p: float) -> str:
    """Return a p-value with two significant digits, or ``<0.001``."""
    return f"<{LEAST_P}" if p < LEAST_P else f"{p:.2g}"
