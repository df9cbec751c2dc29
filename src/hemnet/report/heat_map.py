"""The heat map of scores over two settings."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hemnet.report.estimates import Estimate
from hemnet.report.lettering import staggered
from hemnet.report.plots import WIDTH, Line
from hemnet.report.svg import tell

CELL_WIDTH, CELL_HEIGHT = 0.5, 0.42
"""Inches: room for a score in letters that are legible on a phone."""
LETTER = 0.085
"""Inches: the width of a letter of a tick's label."""
COLOURS = "YlGnBu"
"""Pale to dark: the highest is far from white paper, and inverted from a dark page."""
GAP = 0.25
"""Gap between ``scale`` and ``apart``, in widths of a cell."""
Name = TypeVar("Name")


def heat_map(
    scale: Sequence[Line],
    apart: Sequence[Line],
    rows: Sequence[float],
    xlabel: str,
    ylabel: str,
    framed: float | None = None,
) -> Figure:
    """Draw mIoU: mean and number of seeds per cell, hatched without a score, bold if `highest` of its row.

    A cell tells its interval, see `hemnet.report.svg.tell`.

    Args:
        scale: adjacent columns, whose scores the colours span; among them the highest cell of a row is bold.
        apart: further columns, after a gap; what is beyond the colours has the last of them.
        rows: x of the lines, downwards.
        xlabel: label of the columns.
        ylabel: label of the rows.
        framed: the row with a frame around it; None for no frame.
    """
    columns = [*scale, *apart]
    places = [i + GAP * (i >= len(scale)) for i in range(len(columns))]
    means = [found.mean for column in scale or apart for x in rows if (found := column.at(x))]
    norm = mpl.colors.Normalize(min(means, default=0), max(means, default=1))
    size = max(WIDTH, CELL_WIDTH * (len(columns) + 1.5)), CELL_HEIGHT * len(rows) + 0.8
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    for row, x in enumerate(rows):
        bold = highest({i: column.at(x) for i, column in enumerate(scale)})
        for i, (place, column) in enumerate(zip(places, columns, strict=True)):
            found = column.at(x)
            _cell(axis, row, place, found, norm, i in bold)
            cover = Rectangle((place - 0.5, row - 0.5), 1, 1, alpha=0, zorder=4)
            tell(cover, f"{ylabel}={x:g}, {column.label}: {_told(found)}")
            axis.add_patch(cover)
        if x == framed:
            look: Any = {"fill": False, "linewidth": 1.6, "clip_on": False, "zorder": 3}
            axis.add_patch(Rectangle((-0.5, row - 0.5), places[-1] + 1, 1, **look))
    cells = places[-1] - places[0]
    across = cells * (size[0] - 1.5 * CELL_WIDTH) / (cells + 1) / LETTER
    names = [column.label.replace(", ", "\n") for column in columns]
    axis.set_xticks(places, staggered(places, names, across))
    axis.set_yticks(range(len(rows)), [f"{x:g}" for x in rows])
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.5, places[-1] + 0.5), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def highest(cells: Mapping[Name, Estimate | None]) -> list[Name]:
    """Return the names of the cells with the highest mean: all that tie in the digits that are shown."""
    means = {name: float(_shown(found)) for name, found in cells.items() if found}
    most = max(means.values(), default=None)
    return [name for name, mean in means.items() if mean == most]


def _shown(found: Estimate) -> str:
    return f"{found.mean:.3f}"


def _told(found: Estimate | None) -> str:
    if found is None:
        return "no score"
    if found.interval is None:
        return f"{found.mean:.4f}, one seed, no interval"
    low, high = found.interval
    return f"{found.mean:.4f}, 95% interval {low:.4f} to {high:.4f}, n={found.n}"


def _cell(
    axis: Axes, row: int, place: float, found: Estimate | None, norm: mpl.colors.Normalize, bold: bool
) -> None:
    corner = (place - 0.5, row - 0.5)
    if found is None:
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#bbbbbb", hatch="///", linewidth=0.5))
        return
    colour = mpl.colormaps[COLOURS](norm(found.mean))
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5
    axis.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=0.5))
    look: Any = {"ha": "center", "va": "center", "color": "black" if bright else "white"}
    axis.text(place, row - 0.16, _shown(found), fontsize=9, weight="bold" if bold else "normal", **look)
    axis.text(place, row + 0.24, f"n={found.n}", fontsize=8, **look)
