"""Chapters on the gradient: through the iterations, and in the backbone.

Shapes: S logged steps, (S, 2): step and value.
"""

from collections.abc import Callable

import numpy as np

from hemnet.report.chapters.gradient_tests import compared_means, geometric, means_sentence, means_table
from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import GRADIENT_BACKBONE, GRADIENT_MEANS, GRADIENT_SHARE
from hemnet.report.groups import Section
from hemnet.report.lines import (
    END,
    WHEN,
    curve_chart,
    curves_of,
    depths_with,
    depths_with_curves,
    not_drawn,
    phase_chart,
    settings_at,
)
from hemnet.report.variants import Variant
from hemnet.runs.phases import PHASE_SHARE


def gradient_flow(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return the gradient that reaches each iteration, and the share that each injects into the backbone."""
    depths = depths_with(variant, GRADIENT_MEANS.metric.name, least=2)
    if not depths:
        return None
    block = Block(GRADIENT_MEANS.chapter, [WHEN])
    left = not_drawn(variant, depths)
    block.items.append(
        Chart(slug, GRADIENT_MEANS, left, lambda: phase_chart(variant, depths, GRADIENT_MEANS.metric))
    )
    shares = depths_with(variant, GRADIENT_SHARE.metric.name, least=2)
    if shares:
        block.items.append(Chart(
            slug, GRADIENT_SHARE, f"t = T is the reconstruction. {not_drawn(variant, shares)}",
            lambda: phase_chart(variant, shares, GRADIENT_SHARE.metric),
        ))  # fmt: skip
    tested = [each for each in compared_means(section) if each.highway in variant.groups]
    if tested:
        block.items.append(means_table(tested, slug))
    block.findings = [means_sentence(each) for each in tested if each.phase == END]
    return block


def backbone(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return the gradient norm of the backbone over training, and of each stage at its end."""
    name = GRADIENT_BACKBONE.metric.name
    depths = depths_with_curves(variant, name)
    if not depths:
        return None
    block = Block(GRADIENT_BACKBONE.chapter, [])
    block.items.append(Chart(
        slug, GRADIENT_BACKBONE, f"Bands are the range of the seeds. {not_drawn(variant, depths)}",
        lambda: curve_chart(variant, depths, GRADIENT_BACKBONE.metric, []),
    ))  # fmt: skip
    stages = sorted(
        {key for run in section.runs for key in run.curves if key.startswith("gradient/backbone/")}
    )
    rows: list[list[Cell]] = []
    for t in depths:
        for label, group in settings_at(variant, t):
            norms = [geometric([_last(curve) for curve in curves_of(group, stage)]) for stage in stages]
            curves = curves_of(group, name)
            spread = [geometric([_over(curve, of) for curve in curves]) for of in (np.median, np.max)]
            rows.append([t, label, len(curves), *spread, *norms])
    columns = (
        Column("T"), Column("head"), Column("n"), Column("mean of medians", 3, False),
        Column("mean of largest", 3, False),
        *(Column(stage.rpartition("/")[2], 3, False) for stage in stages),
    )  # fmt: skip
    caption = (
        "Gradient norm of the backbone: median and largest of the logged steps of a run, then of each stage "
        "at the end of training. Geometric means over the n seeds that logged it."
    )
    block.items.append(Table(f"{slug}_gradient_backbone", caption, columns, rows))
    return block


def _over(curve_S2: np.ndarray, of: Callable[[np.ndarray], np.floating]) -> float:
    """Return the median or the largest of the logged values that are numbers; NaN of none."""
    known = curve_S2[:, 1][~np.isnan(curve_S2[:, 1])]
    return float(of(known)) if len(known) else float("nan")


def _last(curve_S2: np.ndarray) -> float:
    """Return the geometric mean over the last phase of training; NaN without a number."""
    width = max(1, round(PHASE_SHARE * len(curve_S2)))
    mean = geometric(curve_S2[-width:, 1].tolist())
    return float("nan") if mean is None else mean
