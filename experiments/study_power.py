"""How the differences of the plan's pairs vary over the seeds, and what so many pairs can show."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats
from study_plan import Family
from study_tables import Table
from study_verdicts import Found, values

from hemnet.report.estimates import LEVEL
from hemnet.report.significance import compare

FIRST_OF_SIX = (1 - LEVEL) / 6
"""What the least p of six has to be below under Holm's correction."""
ASKED = ((8, 0.008, 1 - LEVEL), (3, 0.03, 1 - LEVEL), (3, 0.03, FIRST_OF_SIX), (3, 0.06, FIRST_OF_SIX))
"""Pairs, true difference of `val/miou` and level, for which the power is told."""


def spreads(groups: Sequence[tuple[Family, Found]]) -> tuple[Table, float | None]:
    """Return how the differences of each contrast that has all pairs vary, and the deviation of the primary.

    The deviation is None before the primary contrast has all pairs, and if these do not vary.
    """
    rows, primary = [], None
    for family, found in groups:
        for contrast in family.contrasts:
            first, second = values(contrast, found)
            seeds = sorted(first.keys() & second.keys())
            differences_n = np.array([first[seed] - second[seed] for seed in seeds])
            if len(seeds) < family.seeds or not np.isfinite(differences_n).all():
                continue
            deviation = float(differences_n.std(ddof=1))
            numbers = (deviation, differences_n.min(), differences_n.max())
            rows.append([family.title, contrast.name, len(seeds), *(f"{number:.4f}" for number in numbers)])
            if family.title == "Primary" and compare("", ("", first), ("", second)).p is not None:
                primary = deviation
    header = ("block", "contrast", "pairs", "standard deviation", "least", "largest")
    return Table("spread", header, rows), primary


def power(pairs: int, difference: float, deviation: float, level: float) -> float:
    """Return how often a two-sided paired t test finds a true difference, with its sign, 0 to 1.

    Args:
        pairs: their number, 2 or more.
        difference: the true one, above 0.
        deviation: the true standard deviation of the pairs' differences, above 0.
        level: below which p counts as found.
    """
    critical = stats.t.isf(level / 2, pairs - 1)
    return float(stats.nct.sf(critical, pairs - 1, difference / deviation * pairs**0.5))


def sensitivity(groups: Sequence[tuple[Family, Found]]) -> Iterator[str | Table]:
    """Yield both tables."""
    table, deviation = spreads(groups)
    yield "\n## How the differences of pairs vary\n"
    yield table
    if deviation is not None:
        yield f"\n## What so many pairs can show\n\nWith the primary standard deviation, {deviation:.4f}.\n"
        rows = [
            [pairs, difference, f"{level:.4f}", f"{power(pairs, difference, deviation, level):.2f}"]
            for pairs, difference, level in ASKED
        ]
        yield Table("power", ("pairs", "true difference", "level", "power"), rows)
