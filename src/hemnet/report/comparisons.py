"""Paired tests between the settings of a section: which pairs there are, and one result for each.

A pair of settings has one p, whatever chapters show it. Tests of highways against plain EM are one family for
Holm's correction, at every T and h and in every variant of a section.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from hemnet.report.estimates import OF_A_DIFFERENCE
from hemnet.report.groups import Group, Section, hem_name
from hemnet.report.significance import Comparison, compare, holm
from hemnet.report.variants import variants

Named = tuple[str, Group]
BySeed = Mapping[int, float]
LOST, SCORELESS = "did not finish", "finished without a score"


def compare_groups(
    where: str,
    first: Named,
    second: Named,
    values: Callable[[Group], BySeed] = Group.by_seed,
    bounds: tuple[float, float] = OF_A_DIFFERENCE,
) -> Comparison:
    """Compare two groups, each with its name, by a value of each seed, and tell the seeds that are left out.

    Args:
        where: what both share, such as ``T=8``.
        first: minus the second.
        second: the other.
        values: of a group by seed, NaN where there is none; by default mIoU.
        bounds: those of a difference, see `hemnet.report.estimates.Estimate`.
    """
    sides = [(name, group, values(group)) for name, group in (first, second)]
    (a, _, one), (b, _, other) = sides
    found = compare(where, (a, one), (b, other), bounds)
    every = {seed for _, group, _ in sides for seed in (*group.runs, *group.lost_seeds)}
    left = tuple(sorted(every - {*found.seeds}))
    return replace(found, left_out=left, why=_why(left, sides))


def _why(left: Sequence[int], sides: Sequence[tuple[str, Group, BySeed]]) -> str:
    """Return which sides lack a value of the seeds that are left out, and runs that did not finish."""
    lacking = [name for name, _, found in sides if any(not _has(found, seed) for seed in left)]
    if not lacking:
        return ""
    why = f"of which {' or '.join(lacking)} has none"
    reasons = []
    counts = [(name, len(group.lost_seeds), group.scoreless) for name, group, _ in sides]
    for i, what in enumerate((LOST, SCORELESS), 1):
        if told := [f"{count[i]} of {count[0]}" for count in counts if count[i]]:
            reasons.append(f"{' and '.join(told)} {what}")
    return f"{why} ({'; '.join(reasons)})" if reasons else why


def _has(found: BySeed, seed: int) -> bool:
    return bool(np.isfinite(found.get(seed, np.nan)))


def named(group: Group) -> Named:
    """Return a group with its label, as a side of a comparison."""
    return group.label, group


@lru_cache(maxsize=1)  # chapters are written section by section
def against_plain(section: Section) -> dict[Group, Comparison]:
    """Return the test of the mIoU of each highway against plain EM at the same T, corrected over all."""
    family = {
        group: compare_groups(f"T={group.iterations}", (hem_name(group.scale), group), ("em", plain))
        for variant in variants(section)
        for group, plain in variant.usual_pairs
    }
    return dict(zip(family, holm([*family.values()], conclusive=section.conclusive), strict=True))
