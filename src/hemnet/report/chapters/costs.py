"""The chapter on cost: time, memory, parameters and FLOPs of every setting, and the ratios of hem to em."""

import math
from collections.abc import Mapping

from hemnet.report.contents import Block, Cell, Column, Table
from hemnet.report.definitions import COST
from hemnet.report.estimates import OF_A_COST, Estimate, Mean, Ratio, estimate, logarithms, ratio
from hemnet.report.groups import Group, Section, hem_name
from hemnet.report.lines import not_shown
from hemnet.report.record import on_one_machine
from hemnet.report.significance import LEAST_SEEDS, NO_SPREAD, TOO_FEW
from hemnet.report.variants import Variant
from hemnet.wording import counted, tally

COSTS = {
    metric.name.removeprefix("cost/"): (metric.label, digits)
    for metric, digits in zip(COST.metrics, (3, 4, 8, 8, 4), strict=True)
}
"""Heading and significant digits of each."""
OF_A_MACHINE = ("seconds_per_step", "peak_memory_mib")
ROUNDING = 1e-12
"""Relative: the mean of equal numbers, and so their deviation from it, is off by less."""
HOW = (
    "Seconds are the median training step of a run; other work on the machine, such as jobs that ran at the "
    "same time, distorts them. Peak memory is that of the training process. GFLOPs are of the forward pass "
    "of one training crop. Ratios pair runs of the same T and seed, those of time and memory on one machine; "
    "their means are geometric."
)


def costs(section: Section, variant: Variant | None, slug: str) -> Block | None:
    """Return the table of costs, and the ratios of hem to em where both were measured."""
    names = [name for name in COSTS if any(group.costs(name) for group in section.groups)]
    if not names:
        return None
    block = Block(COST.chapter, [HOW, *_machines(section)])
    rows: list[list[Cell]] = [
        [group.label, *(_cost(estimate(list(group.costs(name).values()), OF_A_COST)) for name in names)]
        for group in section.groups
        if any(group.costs(name) for name in names)
    ]
    columns = [Column("setting"), *(Column(COSTS[name][0], COSTS[name][1], False) for name in names)]
    block.items.append(Table(f"{slug}_cost", "Cost of each setting, means over seeds.", columns, rows))
    if variant is not None:
        _add_ratios(block, section, variant, names, slug)
    return block


def _cost(found: Estimate | None) -> Cell:
    """Return a mean, without its interval if the number is the same in every run."""
    if found is None:
        return None
    low, high = found.interval or (found.mean, found.mean)
    return Mean(found.mean, None, found.n) if high - low <= ROUNDING * abs(found.mean) else found


def _add_ratios(block: Block, section: Section, variant: Variant, names: list[str], slug: str) -> None:
    hem = hem_name(variant.scale)
    shown: list[Group] = []
    rows: list[list[Cell]] = []
    times: dict[int, Ratio] = {}
    for t in variant.depths:
        em, highway = variant.at("em", t), variant.at("hem", t)
        if em is None or highway is None:
            continue
        found = [_ratio(em, highway, name) for name in names]
        if not any(found):
            continue
        rows.append([t, *map(_cost, found)])
        shown += [em, highway]
        if (time := dict(zip(names, found, strict=True)).get("seconds_per_step")) is not None:
            times[t] = time
    if times:
        block.findings.append(_time_sentence(hem, times))
    if rows:
        columns = [Column("T"), *(Column(f"{COSTS[name][0]}, ratio") for name in names)]
        caption = f"Cost of {hem} over em: geometric means of the ratios of runs with the same seed."
        if left_out := not_shown(section, shown):
            caption += f" {left_out}"
        block.items.append(Table(f"{slug}_cost_ratio", caption, columns, rows))


def _time_sentence(hem: str, ratios: Mapping[int, Ratio]) -> str:
    """Return one sentence with the ratio at each T, and the T at which the interval excludes 1."""
    told = ", ".join(
        f"{Column('').cell(each)} at T={t} (n={counted(each.n, 'seed')})" for t, each in ratios.items()
    )
    start = f"Time of a step, {hem} / em: {told}"
    found: dict[str, list[str]] = {}
    for t, each in ratios.items():
        found.setdefault(_judged(each), []).append(f"T={t}")
    ends = [f"{verdict} at {', '.join(places)}" for verdict, places in sorted(found.items(), reverse=True)]
    return f"{start}; {'; '.join(ends)} (not corrected for their number)."


def _judged(ratio: Ratio) -> str:
    if ratio.n < LEAST_SEEDS or ratio.interval is None:
        return TOO_FEW
    low, high = ratio.interval
    if math.isclose(low, high, rel_tol=ROUNDING):
        return NO_SPREAD
    return f"the 95% interval {'contains' if low <= 1 <= high else 'excludes'} 1"


def _machines(section: Section) -> list[str]:
    """Return a sentence on runs of several machines, whose times tell nothing of settings; [] if on one."""
    if on_one_machine(section.runs):
        return []
    named = tally(run.machine for run in section.runs)
    return [f"Times and memory differ by the machine too, and these runs are of several: {named}."]


def _ratio(em: Group, hem: Group, name: str) -> Ratio | None:
    plain, highway = logarithms(em.costs(name)), logarithms(hem.costs(name))
    return ratio(estimate([
        highway[seed] - plain[seed]
        for seed in sorted(plain.keys() & highway.keys())
        if name not in OF_A_MACHINE or on_one_machine((em.runs[seed], hem.runs[seed]))
    ]))  # fmt: skip
