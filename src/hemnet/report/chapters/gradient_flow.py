"""Chapters on the gradient: through the iterations, and in the backbone.

Shapes: S logged steps, (S, 2): step and value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import GRADIENT_BACKBONE, GRADIENT_MEANS, GRADIENT_SHARE
from hemnet.report.groups import Group, Section, scale_text
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
from hemnet.report.significance import Comparison, compare, holm, p_text
from hemnet.report.variants import Variant
from hemnet.runs.phases import PHASE_SHARE, PHASES


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
    tested = _kept(variant, depths, section.conclusive)
    if tested:
        block.items.append(_kept_table(tested, slug))
    block.findings = [_ratio_sentence(kept) for kept in tested if kept.phase == END]
    return block


@dataclass(frozen=True)
class _Kept:
    """The gradient left half-way through T iterations, with a highway and as plain EM, compared."""

    phase: int
    iterations: int
    plain: Group
    highway: Group
    found: Comparison

    @property
    def at_zero(self) -> list[int]:
        """The seeds of both that are left out, because the gradient of one is 0 and has no logarithm."""
        both = _halfway(self.plain, self.phase).keys() & _halfway(self.highway, self.phase).keys()
        return sorted(both - {*self.found.seeds})


def _halfway(group: Group, phase: int) -> dict[int, float]:
    assert group.iterations is not None
    return group.phase("gradient/means", phase, group.iterations // 2)


def _kept(variant: Variant, depths: Sequence[int], conclusive: bool) -> list[_Kept]:
    """Compare each highway scale with em in each phase, in log10 of the gradient half-way, as one family."""
    pairs = [
        (phase, t, em, group)
        for phase in range(len(PHASES))
        for t in depths
        if (em := variant.at("em", t))
        for group in variant.usual
        if group.iterations == t and group.head == "hem"
    ]
    family = [
        compare(f"T={t}", _log_halfway(group, phase), _log_halfway(em, phase))
        for phase, t, em, group in pairs
    ]
    tested = holm(family, conclusive=conclusive)
    return [_Kept(*pair, found) for pair, found in zip(pairs, tested, strict=True)]


def _log_halfway(group: Group, phase: int) -> tuple[str, dict[int, float]]:
    return group.label, _log10(_halfway(group, phase))


def _log10(by_seed: dict[int, float]) -> dict[int, float]:
    return {seed: float(np.log10(value)) if value > 0 else float("nan") for seed, value in by_seed.items()}


def _kept_table(tested: Sequence[_Kept], slug: str) -> Table:
    rows: list[list[Cell]] = []
    zeros = any(kept.at_zero for kept in tested)
    for kept in tested:
        found = kept.found
        ratio = None if found.difference is None else _ratio(found.difference.mean)
        sides = (_halfway(side, kept.phase) for side in (kept.plain, kept.highway))
        means = [_geometric([side[seed] for seed in found.seeds]) for side in sides]
        rows.append([
            kept.iterations, scale_text(kept.highway.scale), PHASES[kept.phase], *means, ratio,
            found.difference, len(found.seeds), *([len(kept.at_zero)] if zeros else []), found.p,
            found.p_holm, found.verdict,
        ])  # fmt: skip
    columns = (
        Column("T"), Column("h"), Column("phase"), Column("h = 0", 3, False), Column("this h", 3, False),
        Column("ratio", 3, False), Column("log10 of the ratio", 2, signed=True), Column("n"),
        *([Column("at 0")] if zeros else []), Column("p", 2, False), Column("p after Holm", 2, False),
        Column("verdict"),
    )  # fmt: skip
    caption = (
        "Gradient left half-way through the iterations, |dL/dμ(T/2)| / |dL/dμ(T)|: geometric means over the "
        "n seeds in common, and the paired ratio to plain EM, tested on its logarithm."
    )
    caption += zeros * (
        " At 0: further seeds, left out because the gradient of one of the two is 0, and so has no logarithm."
    )
    return Table(f"{slug}_gradient_halfway", caption, columns, rows)


def _ratio(log10: float) -> float:
    """Return ten to this power, which is infinite beyond the largest float: few seeds have wide intervals."""
    with np.errstate(over="ignore"):
        return float(np.float64(10) ** log10)


def _geometric(values: Sequence[float]) -> float | None:
    """Return the geometric mean of norms, which is 0 if one of them is; None without a finite one."""
    finite = np.array([value for value in values if np.isfinite(value)])
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(finite)))) if len(finite) else None


def _ratio_sentence(kept: _Kept) -> str:
    found, zero = kept.found, kept.at_zero
    seeds = ", ".join(f"seed {seed}" for seed in zero)
    left = f", without {seeds}, where the gradient of one of the two is 0" if zero else ""
    start = f"Gradient left half-way through the iterations at the end of training, {found.first}{left}: "
    if found.difference is None:
        return f"{start}{found.verdict}."
    ratio = f"{_ratio(found.difference.mean):.3g} times that of {found.second}"
    if found.difference.interval is None or found.p_holm is None:
        return f"{start}{ratio} on seed {found.seeds[0]} alone: no interval from one seed."
    low, high = map(_ratio, found.difference.interval)
    return (
        f"{start}{ratio} (95% interval {low:.3g} to {high:.3g}, n={len(found.seeds)} seeds, "
        f"p after Holm {p_text(found.p_holm)}): {found.verdict}."
    )


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
            norms = [_geometric([_last(curve) for curve in curves_of(group, stage)]) for stage in stages]
            curves = curves_of(group, name)
            spread = [_geometric([float(of(curve[:, 1])) for curve in curves]) for of in (np.median, np.max)]
            rows.append([t, label, *spread, *norms])
    columns = (
        Column("T"), Column("head"), Column("median", 3, False), Column("largest", 3, False),
        *(Column(stage.rpartition("/")[2], 3, False) for stage in stages),
    )  # fmt: skip
    caption = (
        "Gradient norm of the backbone: median and largest of the logged steps, then of each stage at the "
        "end of training. Geometric means over seeds."
    )
    block.items.append(Table(f"{slug}_gradient_backbone", caption, columns, rows))
    return block


def _last(curve_S2: np.ndarray) -> float:
    """Return the geometric mean over the last phase of training; NaN without finite values."""
    width = max(1, round(PHASE_SHARE * len(curve_S2)))
    mean = _geometric(curve_S2[-width:, 1].tolist())
    return float("nan") if mean is None else mean
