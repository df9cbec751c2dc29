"""Chapters on what happens inside: gradient flow, convergence, learning curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemnet.report.collect import PHASE_SHARE, PHASES
from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.groups import Group, Section, scale_text
from hemnet.report.plots import DASHES, MARKERS, draw_curves, draw_profile, grid, head_colour, scale_colour
from hemnet.report.scores import Chapter
from hemnet.report.statistics import Comparison, compare, holm, p_text
from hemnet.report.variants import Variant, others

MOST_LINES = 6
WHEN = (
    f"Start, middle and end of training are means over {100 * PHASE_SHARE:.0f}% of the logged steps; thick lines "
    "are means over seeds, thin ones single seeds."
)
END = len(PHASES) - 1


def lines_at(variant: Variant, depth: int) -> list[tuple[str, str, str, Group]]:
    """Return label, colour, marker and group of em, hem and up to four further h at one T."""
    found = []
    for head in ("em", "hem"):
        if group := variant.at(head, depth):
            label = head if head == "em" else f"hem (h={scale_text(group.scale)})"
            found.append((label, head_colour(head), MARKERS[head], group))
    shown = [group for *_, group in found]
    more = [
        g for g in variant.usual if g.iterations == depth and g not in shown and isinstance(g.scale, float)
    ]
    picked = np.linspace(0, len(more) - 1, min(len(more), MOST_LINES - len(found))).round().astype(int)
    for i, index in enumerate(picked):
        place = i / max(len(picked) - 1, 1)
        found.append((f"h={scale_text(more[index].scale)}", scale_colour(place), "^", more[index]))
    return found


def _profiles(group: Group, family: str, phase: int) -> list[np.ndarray]:
    found = [run.phases[family][phase] for _, run in sorted(group.runs.items()) if family in run.phases]
    longest = max(map(len, found), default=0)
    return [values for values in found if len(values) == longest]


def _depths(variant: Variant, family: str, least: int = 1) -> list[int]:
    """Return each T of at least ``least`` at which a metric was logged."""
    return [
        t for t in variant.depths
        if t >= least and any(_profiles(group, family, END) for *_, group in lines_at(variant, t))
    ]  # fmt: skip


def _phase_chart(variant: Variant, depths: Sequence[int], family: str, ylabel: str, log: bool) -> Figure:
    def draw(axis: Axes, row: int, column: int) -> None:
        for label, colour, marker, group in lines_at(variant, depths[row]):
            if profiles := _profiles(group, family, column):
                if family == "em/log_likelihood":
                    profiles = [values - values[0] for values in profiles]
                draw_profile(axis, label, colour, marker, profiles)

    return grid([f"T={t}" for t in depths], PHASES, draw, xlabel="iteration t", ylabel=ylabel, log=log)


def gradient_flow(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return the gradient that reaches each iteration, and what each injects into the backbone."""
    depths = _depths(variant, "gradient/means", least=2)
    if not depths:
        return None
    block = Block("Gradient flow", [WHEN])
    block.items.append(Chart(
        f"{slug}_gradient_means", "Norm of the gradient at the means of iteration t, relative to the last.",
        lambda: _phase_chart(variant, depths, "gradient/means", "|dL/dμ(t)| / |dL/dμ(T)|", True),
    ))  # fmt: skip
    shares = _depths(variant, "gradient/share", least=2)
    if shares:
        block.items.append(Chart(
            f"{slug}_gradient_share",
            "Share of the gradient into the EM layer's features that iteration t injects; t = T is the "
            "reconstruction.",
            lambda: _phase_chart(variant, shares, "gradient/share", "share of the gradient", False),
        ))  # fmt: skip
    tested = _reaching(variant, depths)
    if tested:
        block.items.append(_reaching_table(variant, tested, slug))
    at_end = [found for phase, _, found in tested if phase == END]
    return Chapter(block, [_ratio_sentence(found) for found in at_end], at_end)


def _reaching(variant: Variant, depths: Sequence[int]) -> list[tuple[int, int, Comparison]]:
    """Return phase, T and comparison, hem with em, of log10 of what reaches the first means; a family a phase."""
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
        Column("T"), Column("phase"), Column("em", 3, False), Column("hem", 3, False), Column("hem / em", 3, False),
        Column("log10 of the ratio", 2, signed=True), Column("p", 2, False), Column("p after Holm", 2, False),
        Column("verdict"),
    )  # fmt: skip
    caption = (
        "Gradient that reaches the first means, |dL/dμ(0)| / |dL/dμ(T)|: geometric means over seeds, and the paired "
        "ratio of hem to em, tested on its logarithm."
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
    depths = [t for t in variant.depths if any(_curves(g, name) for *_, g in lines_at(variant, t))]
    if not depths:
        return None
    block = Block("Gradient of the backbone", ["Bands are the range of the seeds."])
    block.items.append(Chart(
        f"{slug}_gradient_backbone", "l2 norm of the gradient of the backbone's parameters over training.",
        lambda: _curve_chart(variant, depths, name, "gradient norm", True, []),
    ))  # fmt: skip
    stages = sorted(
        {key for run in section.runs for key in run.curves if key.startswith("gradient/backbone/")}
    )
    rows: list[list[Cell]] = []
    for t in depths:
        for label, _, _, group in lines_at(variant, t):
            norms = [_geometric([_last(curve) for curve in _curves(group, stage)]) for stage in stages]
            rows.append([t, label, *norms])
    columns = (Column("T"), Column("head"), *(Column(stage.rpartition("/")[2], 3, False) for stage in stages))
    caption = (
        "Gradient norm of each stage of the backbone at the end of training, geometric means over seeds."
    )
    block.items.append(Table(f"{slug}_gradient_backbone", caption, columns, rows))
    return Chapter(block)


def _curves(group: Group, name: str) -> list[np.ndarray]:
    return [run.curves[name] for _, run in sorted(group.runs.items()) if name in run.curves]


def _last(curve_S2: np.ndarray) -> float:
    """Return the geometric mean over the last phase of training."""
    width = max(1, round(PHASE_SHARE * len(curve_S2)))
    return _geometric(curve_S2[-width:, 1].tolist()) or float("nan")


def _curve_chart(
    variant: Variant | None,
    depths: Sequence[int],
    name: str,
    ylabel: str,
    log: bool,
    further: Sequence[Group],
) -> Figure:
    def draw(axis: Axes, row: int, _: int) -> None:
        if row == len(depths):
            for i, group in enumerate(further):
                if curves := _curves(group, name):
                    dashes: Any = DASHES[i % len(DASHES)]
                    draw_curves(axis, group.label, head_colour(group.head), curves, dashes)
            return
        assert variant is not None
        for label, colour, _marker, group in lines_at(variant, depths[row]):
            if curves := _curves(group, name):
                draw_curves(axis, label, colour, curves)

    rows = [*(f"T={t}" for t in depths), *(["other heads"] if further else [])]
    return grid(rows, [""], draw, xlabel="optimizer step", ylabel=ylabel, log=log, height=1.5)


def learning(section: Section, variant: Variant | None, slug: str) -> Chapter | None:
    """Return mIoU on the validation split over training."""
    name = "val/miou"
    further = [group for group in others(section) if _curves(group, name)]
    depths = []
    if variant is not None:
        depths = [t for t in variant.depths if any(_curves(g, name) for *_, g in lines_at(variant, t))]
    if not depths and not further:
        return None
    block = Block("Learning curves", ["Means over seeds; bands are the range of the seeds."])
    block.items.append(Chart(
        f"{slug}_learning", "mIoU on the validation split over training.",
        lambda: _curve_chart(variant, depths, name, "mIoU", False, further),
    ))  # fmt: skip
    return Chapter(block)


INSIDE = {"em/step_length": "step length", "em/components": "components", "em/entropy": "entropy (nats)"}


def convergence(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return what the iterations of a trained network gain, and how their steps and components fare."""
    depths = _depths(variant, "em/log_likelihood")
    if not depths:
        return None
    block = Block("Convergence of the iterations", [WHEN])
    block.items.append(Chart(
        f"{slug}_log_likelihood",
        "Log-likelihood gained since t = 0, nats per position, on the fixed validation batch.",
        lambda: _phase_chart(variant, depths, "em/log_likelihood", "log-likelihood gained", False),
    ))  # fmt: skip
    families = [family for family in INSIDE if _depths(variant, family)]

    def draw(axis: Axes, row: int, column: int) -> None:
        if families[column] == "em/step_length":
            axis.set_yscale("log")
        for label, colour, marker, group in lines_at(variant, depths[row]):
            if profiles := _profiles(group, families[column], END):
                draw_profile(axis, label, colour, marker, profiles)

    if families:
        titles = [INSIDE[family] for family in families]
        rows = [f"T={t}" for t in depths]
        block.items.append(Chart(
            f"{slug}_convergence",
            "At the end of training: relative step length, effective number of components, entropy of the "
            "responsibilities.",
            lambda: grid(rows, titles, draw, xlabel="iteration t", ylabel="", share_y="col"),
        ))  # fmt: skip
    block.items.append(_convergence_table(variant, depths, slug))
    return Chapter(block)


def _convergence_table(variant: Variant, depths: Sequence[int], slug: str) -> Table:
    columns = (
        Column("T"), Column("head"), Column("L at t=0", 4, False), Column("L at t=T", 4, False),
        Column("gained", 3, False), Column("last step length", 2, False), Column("components at t=T", 3, False),
        Column("entropy at t=T", 3, False),
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for t in depths:
        for label, _, _, group in lines_at(variant, t):
            first, last, step, components, entropy = (
                _mean(group.phase(f"em/{family}", END, at)) for family, at in (
                    ("log_likelihood", 0), ("log_likelihood", t), ("step_length", t - 1), ("components", t),
                    ("entropy", t))
            )  # fmt: skip
            gained = None if first is None or last is None else last - first
            rows.append([t, label, first, last, gained, step, components, entropy])
    caption = "The iterations at the end of training, means over seeds; L is the log-likelihood in nats per position."
    return Table(f"{slug}_convergence", caption, columns, rows)


def _mean(by_seed: dict[int, float]) -> float | None:
    return float(np.mean(list(by_seed.values()))) if by_seed else None
