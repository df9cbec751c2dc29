"""Chapters on the gradient: through the iterations, and in the backbone.

Shapes: S logged steps, (S, 2): step and value.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hemnet.report.chapters.gradient_tests import compared_means, geometric, means_sentence, means_table
from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import GRADIENT_BACKBONE, GRADIENT_MEANS, GRADIENT_SHARE
from hemnet.report.estimates import estimate
from hemnet.report.groups import Group, Section
from hemnet.report.lacking import lacking_curves, lacking_profiles
from hemnet.report.lines import (
    END,
    WHEN,
    curve_chart,
    depths_with,
    depths_with_curves,
    joined,
    not_drawn,
    phase_chart,
    profiles,
    settings_at,
)
from hemnet.report.significance import listed
from hemnet.report.variants import Variant
from hemnet.runs.phases import PHASES, by_phase, evenness, last_step

TOTAL = GRADIENT_BACKBONE.metric.name
OVER: dict[str, Callable[[np.ndarray], np.floating]] = {"medians": np.median, "largest": np.max}
"""What is told of the logged steps of a run."""


def gradient_flow(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return the gradient that reaches each iteration, and the share that each injects into the backbone."""
    depths = depths_with(variant, GRADIENT_MEANS.metric.name, least=2)
    if not depths:
        return None
    block = Block(GRADIENT_MEANS.chapter, [WHEN])
    left = joined(not_drawn(variant, depths), lacking_profiles(variant, depths, GRADIENT_MEANS.metrics))
    block.items.append(
        Chart(slug, GRADIENT_MEANS, left, lambda: phase_chart(variant, depths, GRADIENT_MEANS.metric))
    )
    shares = depths_with(variant, GRADIENT_SHARE.metric.name, least=2)
    if shares:
        lacking = lacking_profiles(variant, shares, GRADIENT_SHARE.metrics)
        block.items.append(Chart(
            slug, GRADIENT_SHARE, joined("t = T is the reconstruction.", not_drawn(variant, shares), lacking),
            lambda: phase_chart(variant, shares, GRADIENT_SHARE.metric),
        ))  # fmt: skip
        block.items.append(_shares_table(variant, shares, slug))
    tested = [each for each in compared_means(section) if each.highway in variant.groups]
    if tested:
        block.items.append(means_table(tested, slug))
    block.findings = [means_sentence(each) for each in tested if each.phase == END]
    return block


def _shares_table(variant: Variant, depths: Sequence[int], slug: str) -> Table:
    """Return the shares of some iterations, and their evenness, in each phase of training."""
    rows: list[list[Cell]] = []
    for t in depths:
        for label, group in settings_at(variant, t):
            for phase, name in enumerate(PHASES):
                every = profiles(group, GRADIENT_SHARE.metric.name, phase)
                known_nT = np.array([values for values in every.values() if np.isfinite(values).all()])
                if not len(known_nT):
                    continue
                even = estimate([evenness(values[:-1]) for values in known_nT], (0.0, 1.0))
                shares = (float(known_nT[:, at].mean()) for at in (0, t // 2, t - 1, t))
                rows.append([t, label, name, len(known_nT), *shares, even])
    columns = (
        Column("T"), Column("head"), Column("phase"), Column("n"), Column("first", 3, False),
        Column("half-way", 3, False), Column("last", 3, False), Column("reconstruction", 3, False),
        Column("evenness", 3),
    )  # fmt: skip
    caption = (
        "Shares of the gradient that the first iteration, that half-way (t = T/2 rounded down), the last one "
        "and the reconstruction inject, means over the n seeds of which all are known; and how evenly the "
        "iterations share what is left without the reconstruction: exp(entropy)/T, 1 if all have the same, "
        "1/T if one has all, with its 95% interval. Not tested."
    )
    return Table(f"{slug}_gradient_share", caption, columns, rows)


def backbone(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return the gradient norm of the backbone over training, and of each stage at its end."""
    depths = depths_with_curves(variant, TOTAL)
    if not depths:
        return None
    block = Block(GRADIENT_BACKBONE.chapter, [])
    left = joined(not_drawn(variant, depths), lacking_curves(variant, depths, GRADIENT_BACKBONE.metric))
    block.items.append(Chart(
        slug, GRADIENT_BACKBONE, joined("Bands are the range of the seeds.", left),
        lambda: curve_chart(variant, depths, GRADIENT_BACKBONE.metric),
    ))  # fmt: skip
    block.items.append(_norms_table(section, variant, depths, slug))
    return block


def _norms_table(section: Section, variant: Variant, depths: Sequence[int], slug: str) -> Table:
    stages = sorted(
        {key for run in section.runs for key in run.curves if key.startswith("gradient/backbone/")}
    )
    rows: list[list[Cell]] = []
    left: list[str] = []
    for t in depths:
        for label, group in settings_at(variant, t):
            norms = _norms(group, stages)
            known = {seed: own for seed, own in norms.items() if not np.isnan([*own.values()]).any()}
            if without := sorted(group.runs.keys() - known.keys()):
                left.append(f"{listed(without)} of {label} at T={t}")
            means = [geometric([own[of] for own in known.values() if of in own]) for of in (*OVER, *stages)]
            rows.append([t, label, len(known), *means])
    columns = (
        Column("T"), Column("head"), Column("n"), *(Column(f"mean of {name}", 3, False) for name in OVER),
        *(Column(stage.rpartition("/")[2], 3, False) for stage in stages),
    )  # fmt: skip
    caption = (
        "Gradient norm of the backbone: median and largest of the logged steps of a run, then of each stage "
        "at the end of training. Geometric means over the n seeds of which all these are known."
    )
    if left:
        caption += f" Left out, since one is not known: {'; '.join(left)}."
    return Table(f"{slug}_gradient_backbone", caption, columns, rows)


def _norms(group: Group, stages: Sequence[str]) -> dict[int, dict[str, float]]:
    """Return the norms `OVER` the steps and those of the stages at the end, of each seed that logged any.

    NaN is what is not known; a stage that no seed of the group logged is left out.
    """
    runs = {seed: run.curves for seed, run in sorted(group.runs.items()) if TOTAL in run.curves}
    logged = [stage for stage in stages if any(stage in curves for curves in runs.values())]
    return {
        seed: {name: _over(curves[TOTAL], of) for name, of in OVER.items()}
        | {stage: _at_the_end(stage, curves) if stage in curves else np.nan for stage in logged}
        for seed, curves in runs.items()
    }


def _over(curve_S2: np.ndarray, of: Callable[[np.ndarray], np.floating]) -> float:
    """Return the median or the largest of the logged values that are numbers; NaN of none."""
    known = curve_S2[:, 1][~np.isnan(curve_S2[:, 1])]
    return float(of(known)) if len(known) else float("nan")


def _at_the_end(stage: str, curves: Mapping[str, np.ndarray]) -> float:
    """Return the geometric mean over the last phase of training; NaN without a number."""
    mean = geometric(by_phase(curves[stage], last_step(curves))["end"].tolist())
    return float("nan") if mean is None else mean
