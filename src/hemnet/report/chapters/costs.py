"""The chapter on cost: time, memory, parameters and FLOPs of every setting, and the ratios of hem to em."""

from collections.abc import Mapping

from hemnet.report.contents import Block, Cell, Column, Table
from hemnet.report.definitions import COST
from hemnet.report.groups import Group, Section, scale_text
from hemnet.report.significance import LEAST_SEEDS, OF_A_COST, Estimate, estimate
from hemnet.report.variants import Variant
from hemnet.wording import tally

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
    "of one training crop. Ratios pair runs of the same T and seed, those of time and memory on one machine."
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
        _add_ratios(block, variant, names, slug)
    return block


def _cost(found: Estimate | None) -> Cell:
    """Return a mean with its interval, or the number alone if that is the same in every run."""
    same = found is not None and (found.half_width or 0.0) <= ROUNDING * abs(found.mean)
    return found.mean if found is not None and same else found


def _add_ratios(block: Block, variant: Variant, names: list[str], slug: str) -> None:
    hem = f"hem (h={scale_text(variant.scale)})"
    rows: list[list[Cell]] = []
    times: dict[int, Estimate] = {}
    for t in variant.depths:
        sides = variant.at("em", t), variant.at("hem", t)
        if sides[0] is None or sides[1] is None:
            continue
        found = [estimate(list(_ratios(sides[0], sides[1], name).values()), OF_A_COST) for name in names]
        if not any(found):
            continue
        rows.append([t, *map(_cost, found)])
        if (time := dict(zip(names, found, strict=True)).get("seconds_per_step")) is not None:
            times[t] = time
    if times:
        block.findings.append(_time_sentence(hem, times))
    if rows:
        columns = [Column("T"), *(Column(COSTS[name][0]) for name in names)]
        caption = (
            f"Cost of {hem} over em: means of the ratios of runs with the same seed, with 95% intervals."
        )
        block.items.append(Table(f"{slug}_cost_ratio", caption, columns, rows))


def _time_sentence(hem: str, ratios: Mapping[int, Estimate]) -> str:
    """Return one sentence with the ratio at each T, and the T at which the interval excludes 1."""
    told = ", ".join(f"{Column('').cell(ratio)} at T={t}" for t, ratio in ratios.items())
    start = f"Time of a step, {hem} / em: {told}"
    few = f"not judged (fewer than {LEAST_SEEDS} seeds)"
    found: dict[str, list[str]] = {}
    for t, ratio in ratios.items():
        contains = ratio.interval is not None and ratio.interval[0] <= 1 <= ratio.interval[1]
        judged = f"the 95% interval {'contains' if contains else 'excludes'} 1"
        found.setdefault(few if ratio.n < LEAST_SEEDS else judged, []).append(f"T={t}")
    ends = [f"{verdict} at {', '.join(places)}" for verdict, places in sorted(found.items(), reverse=True)]
    return f"{start}; {'; '.join(ends)} (not corrected for their number)."


def _machines(section: Section) -> list[str]:
    """Return a sentence on runs of several machines, whose times tell nothing of settings; [] if on one."""
    machines = [run.machine for run in section.runs]
    if len({*machines}) < 2:
        return []
    return [f"Times and memory differ by the machine too, and these runs are of several: {tally(machines)}."]


def _ratios(em: Group, hem: Group, name: str) -> Mapping[int, float]:
    plain, highway = em.costs(name), hem.costs(name)
    return {
        seed: highway[seed] / plain[seed]
        for seed in sorted(plain.keys() & highway.keys())
        if plain[seed] and (name not in OF_A_MACHINE or em.runs[seed].machine == hem.runs[seed].machine)
    }
