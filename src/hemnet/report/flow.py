"""Chapters on the gradient: through the iterations, and in the backbone.

Shapes: S logged steps, (S, 2): step and value.
"""

from collections.abc import Sequence

import numpy as np

from hemnet.report.collect import PHASE_SHARE, PHASES
from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.groups import Section
from hemnet.report.lines import END, WHEN, curve_chart, curves_of, depths_with, lines_at, phase_chart
from hemnet.report.scores import Chapter
from hemnet.report.statistics import Comparison, compare, holm, p_text
from hemnet.report.variants import Variant


def gradient_flow(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return the gradient that reaches each iteration, and what each injects into the backbone."""
    depths = depths_with(variant, "gradient/means", least=2)
    if not depths:
        return None
    block = Block("Gradient flow", [WHEN])
    block.items.append(Chart(
        f"{slug}_gradient_means", "Norm of the gradient at the means of iteration t, relative to the last.",
        lambda: phase_chart(variant, depths, "gradient/means", "|dL/dμ(t)| / |dL/dμ(T)|", True),
    ))  # fmt: skip
    shares = depths_with(variant, "gradient/share", least=2)
    if shares:
        block.items.append(Chart(
            f"{slug}_gradient_share",
            "Share of the gradient into the EM layer's features that iteration t injects; t = T is the "
            "reconstruction.",
            lambda: phase_chart(variant, shares, "gradient/share", "share of the gradient", False),
        ))  # fmt: skip
    tested = _reaching(variant, depths)
    if tested:
        block.items.append(_reaching_table(variant, tested, slug))
    at_end = [found for phase, _, found in tested if phase == END]
    return Chapter(block, [_ratio_sentence(found) for found in at_end], at_end)


def _reaching(variant: Variant, depths: Sequence[int]) -> list[tuple[int, int, Comparison]]:
    """Return phase, T and comparison of hem with em, in log10 of what reaches the first means.

    The comparisons of a phase are one family.
    """
    found = []
    for phase in range(len(PHASES)):
        family, at = [], []
        for t in depths:
            em, hem = variant.at("em", t), variant.at("hem", t)
            if em and hem:
                sides = [
                    (name, _log10(g.phase("gradient/means", phase, 0)))
                    for name, g in (("hem", hem), ("em", em))
                ]
                family.append(compare(f"T={t}", *sides))
                at.append(t)
        found += [(phase, t, c) for t, c in zip(at, holm(family), strict=True)]
    return found


def _log10(by_seed: dict[int, float]) -> dict[int, float]:
    return {seed: float(np.log10(value)) if value > 0 else float("nan") for seed, value in by_seed.items()}


def _reaching_table(variant: Variant, tested: Sequence[tuple[int, int, Comparison]], slug: str) -> Table:
    rows: list[list[Cell]] = []
    for phase, t, found in tested:
        means = []
        for head in ("em", "hem"):
            group = variant.at(head, t)
            assert group is not None
            means.append(_geometric(list(group.phase("gradient/means", phase, 0).values())))
        ratio = None if found.difference is None else 10**found.difference.mean
        rows.append([t, PHASES[phase], *means, ratio, found.difference, found.p, found.p_holm, found.verdict])
    columns = (
        Column("T"), Column("phase"), Column("em", 3, False), Column("hem", 3, False),
        Column("hem / em", 3, False),
        Column("log10 of the ratio", 2, signed=True), Column("p", 2, False), Column("p after Holm", 2, False),
        Column("verdict"),
    )  # fmt: skip
    caption = (
        "Gradient that reaches the first means, |dL/dμ(0)| / |dL/dμ(T)|: geometric means over seeds, and the "
        "paired ratio of hem to em, tested on its logarithm."
    )
    return Table(f"{slug}_gradient_first_means", caption, columns, rows)


def _geometric(values: Sequence[float]) -> float | None:
    positive = [value for value in values if value > 0]
    return float(np.exp(np.mean(np.log(positive)))) if positive else None


def _ratio_sentence(found: Comparison) -> str:
    start = f"Gradient reaching the first means at the end of training, {found.where}: "
    if found.difference is None:
        return f"{start}no seed that both finished with it logged."
    ratio = f"hem / em = {10**found.difference.mean:.3g}"
    if found.difference.low is None or found.difference.high is None or found.p_holm is None:
        return f"{start}{ratio} on seed {found.seeds[0]} alone: no interval from one seed."
    low, high = 10**found.difference.low, 10**found.difference.high
    return (
        f"{start}{ratio} (95% interval {low:.3g} to {high:.3g}, n={len(found.seeds)} seeds, "
        f"p after Holm {p_text(found.p_holm)}): {found.verdict}."
    )


def backbone(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return the gradient norm of the backbone over training, and of each stage at its end."""
    name = "gradient/backbone/all"
    depths = [t for t in variant.depths if any(curves_of(g, name) for *_, g in lines_at(variant, t))]
    if not depths:
        return None
    block = Block("Gradient of the backbone", ["Bands are the range of the seeds."])
    block.items.append(Chart(
        f"{slug}_gradient_backbone", "l2 norm of the gradient of the backbone's parameters over training.",
        lambda: curve_chart(variant, depths, name, "gradient norm", True, []),
    ))  # fmt: skip
    stages = sorted(
        {key for run in section.runs for key in run.curves if key.startswith("gradient/backbone/")}
    )
    rows: list[list[Cell]] = []
    for t in depths:
        for label, _, _, group in lines_at(variant, t):
            norms = [_geometric([_last(curve) for curve in curves_of(group, stage)]) for stage in stages]
            rows.append([t, label, *norms])
    columns = (Column("T"), Column("head"), *(Column(stage.rpartition("/")[2], 3, False) for stage in stages))
    caption = (
        "Gradient norm of each stage of the backbone at the end of training, geometric means over seeds."
    )
    block.items.append(Table(f"{slug}_gradient_backbone", caption, columns, rows))
    return Chapter(block)


def _last(curve_S2: np.ndarray) -> float:
    """Return the geometric mean over the last phase of training."""
    width = max(1, round(PHASE_SHARE * len(curve_S2)))
    return _geometric(curve_S2[-width:, 1].tolist()) or float("nan")
