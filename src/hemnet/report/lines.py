"""Shared by chapters: which settings become lines of a chart, and charts of lines.

Shapes: S logged steps, (S, 2): step and value.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemnet.report.definitions import Metric
from hemnet.report.groups import Group, scale_text
from hemnet.report.plots import DASHES, MARKERS, draw_curves, draw_profile, grid, head_colour, scale_colour
from hemnet.report.variants import Variant
from hemnet.runs.phases import PHASE_SHARE, PHASES

MOST_LINES = 6
WHEN = (
    f"Start, middle and end of training are means over {100 * PHASE_SHARE:.0f}% of the logged steps; thick "
    "lines are means over seeds, thin ones single seeds."
)
END = len(PHASES) - 1


def lines_at(variant: Variant, depth: int) -> list[tuple[str, str, str, Group]]:
    """Return label, colour, marker and group of em, hem and up to four other h at one T."""
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


def profiles(group: Group, family: str, phase: int) -> list[np.ndarray]:
    """Return the values per iteration in one phase of training, one array per seed."""
    found = [run.phases[family][phase] for _, run in sorted(group.runs.items()) if family in run.phases]
    longest = max(map(len, found), default=0)
    return [values for values in found if len(values) == longest]


def depths_with(variant: Variant, family: str, least: int = 1) -> list[int]:
    """Return each T of at least ``least`` at which a metric was logged."""
    return [
        t for t in variant.depths
        if t >= least and any(profiles(group, family, END) for *_, group in lines_at(variant, t))
    ]  # fmt: skip


def phase_chart(variant: Variant, depths: Sequence[int], metric: Metric) -> Figure:
    """Draw a metric per iteration: a row per T, a column per phase; em, hem and other h in each."""

    def draw(axis: Axes, row: int, column: int) -> None:
        for label, colour, marker, group in lines_at(variant, depths[row]):
            if found := profiles(group, metric.name, column):
                if metric.gain:
                    with np.errstate(invalid="ignore"):  # of infinity
                        found = [values - values[0] for values in found]
                draw_profile(axis, label, colour, marker, found)

    return grid(
        [f"T={t}" for t in depths], [f"{phase} of training" for phase in PHASES], draw,
        xlabel="iteration t", ylabel=metric.label, log=metric.log,
    )  # fmt: skip


def curves_of(group: Group, name: str) -> list[np.ndarray]:
    """Return a metric over training, one curve per seed that logged it."""
    return [run.curves[name] for _, run in sorted(group.runs.items()) if name in run.curves]


def curve_chart(
    variant: Variant | None, depths: Sequence[int], metric: Metric, further: Sequence[Group]
) -> Figure:
    """Draw a metric over training: a row per T, and one for ``further`` groups."""

    def draw(axis: Axes, row: int, _: int) -> None:
        if row == len(depths):
            for i, group in enumerate(further):
                if curves := curves_of(group, metric.name):
                    dashes: Any = DASHES[i % len(DASHES)]
                    draw_curves(axis, group.label, head_colour(group.head), curves, dashes)
            return
        assert variant is not None
        for label, colour, _marker, group in lines_at(variant, depths[row]):
            if curves := curves_of(group, metric.name):
                draw_curves(axis, label, colour, curves)

    rows = [*(f"T={t}" for t in depths), *(["other heads"] if further else [])]
    return grid(rows, [""], draw, xlabel="optimizer step", ylabel=metric.label, log=metric.log, height=1.5)
