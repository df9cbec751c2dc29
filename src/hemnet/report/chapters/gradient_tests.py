"""Tests of how much of the gradient at the last means is left at earlier ones: highways against plain EM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from hemnet.report.comparisons import compare_groups
from hemnet.report.contents import Cell, Column, Table
from hemnet.report.estimates import UNBOUNDED, logarithms, ratio
from hemnet.report.groups import Group, Section, hem_name, scale_text
from hemnet.report.lines import depths_with
from hemnet.report.significance import Comparison, holm, listed, tested, without
from hemnet.report.variants import variants
from hemnet.runs.phases import PHASES

MEANS = "gradient/means"
PLACES: dict[str, Callable[[int], int]] = {"first": lambda T: 0, "half-way": lambda T: T // 2}
"""The iterations whose gradient is tested: their names, and t of T."""


@dataclass(frozen=True)
class MeansTest:
    """The gradient at the means of one iteration, relative to the last, with a highway and as plain EM."""

    phase: int
    place: str
    plain: Group
    highway: Group
    found: Comparison

    @property
    def at_zero(self) -> list[int]:
        """The seeds of both that are left out, because the gradient of one is 0 and has no logarithm."""
        sides = [_at(self.phase, self.place, side) for side in (self.plain, self.highway)]
        return sorted(seed for seed in sides[0].keys() & sides[1].keys() if seed not in self.found.seeds)


@lru_cache(maxsize=1)  # chapters are written section by section
def compared_means(section: Section) -> list[MeansTest]:
    """Compare each h with em in the logarithm of the gradient: in each phase at each place, as one family."""
    asked = [
        (phase, place, plain, group)
        for variant in variants(section)
        for depths in [depths_with(variant, MEANS, least=2)]
        for phase in range(len(PHASES))
        for group, plain in variant.usual_pairs
        if group.iterations in depths
        for place in PLACES
    ]
    family = [
        compare_groups(f"T={_depth(group)}", (hem_name(group.scale), group), ("em", plain),
                       partial(_logarithms, phase, place), UNBOUNDED)
        for phase, place, plain, group in asked
    ]  # fmt: skip
    found = holm(family, conclusive=section.conclusive)
    return [MeansTest(*of, each) for of, each in zip(asked, found, strict=True)]


def _depth(group: Group) -> int:
    assert group.iterations is not None
    return group.iterations


def _at(phase: int, place: str, group: Group) -> dict[int, float]:
    return group.phase(MEANS, phase, PLACES[place](_depth(group)))


def _logarithms(phase: int, place: str, group: Group) -> dict[int, float]:
    return logarithms(_at(phase, place, group))


def means_table(made: Sequence[MeansTest], slug: str) -> Table:
    """Return the table of all tests, in every phase of training."""
    rows: list[list[Cell]] = []
    for each in made:
        found = each.found
        sides = (_at(each.phase, each.place, side) for side in (each.plain, each.highway))
        means = [geometric([side[seed] for seed in found.seeds]) for side in sides]
        rows.append([
            _depth(each.highway), scale_text(each.highway.scale), PHASES[each.phase], each.place, *means,
            ratio(found.difference), len(found.seeds), len(found.left_out), found.p, found.p_holm,
            found.verdict,
        ])  # fmt: skip
    columns = (
        Column("T"), Column("h"), Column("phase"), Column("iteration"), Column("h = 0", 3, False),
        Column("this h", 3, False), Column("ratio", 3, False), Column("n"), Column("left out"),
        Column("p", 2, False), Column("p after Holm", 2, False), Column("verdict"),
    )  # fmt: skip
    caption = (
        "Gradient left at the first iteration, |dL/dμ(0)| / |dL/dμ(T)|, and half-way, at t = T/2 rounded "
        "down: geometric means over the n seeds in common, and the paired ratio to plain EM, tested on its "
        "logarithm. Holm's correction is over all such tests of runs that may be compared."
    )
    if zero := sum(len(each.at_zero) for each in made):
        caption += f" In {zero} of the pairs left out the gradient of one of the two is 0."
    return Table(f"{slug}_gradient_means", caption, columns, rows)


def geometric(values: Sequence[float]) -> float | None:
    """Return the geometric mean of norms: 0 if one of them is, infinity if one is, None if both or none."""
    known = np.array([value for value in values if not np.isnan(value)])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = float(np.exp(np.mean(np.log(known)))) if len(known) else np.nan
    return None if np.isnan(mean) else mean


def means_sentence(each: MeansTest) -> str:
    """Return a test in words."""
    found, place = each.found, "at the first iteration" if each.place == "first" else each.place
    start = f"Gradient left {place} at the end of training, {found.first} at {found.where}: "
    left = f" ({listed(each.at_zero)}: the gradient of one of the two is 0)" if each.at_zero else ""
    estimate = ratio(found.difference)
    if estimate is None:
        return f"{start}{found.verdict}{without(found)}{left}."
    told = f"{estimate.mean:.3g} times that of {found.second}"
    if estimate.interval is None:
        return (
            f"{start}{told} on seed {found.seeds[0]} alone{without(found)}{left}: no interval from one seed."
        )
    low, high = estimate.interval
    return f"{start}{told} (95% interval {low:.3g} to {high:.3g}, {tested(found)}){left}: {found.verdict}."
