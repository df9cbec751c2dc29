"""The charts: legible on a phone, in colours that colour-blind readers can distinguish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names

from hemnet.report.estimates import Estimate, score
from hemnet.report.lettering import letters_in, lines_in, staggered, wrapped

WIDTH = 4.6
"""Inches: on a phone of 390 pixels, a point of type is about a pixel."""
LEGEND = 50
"""Most letters of a line of a legend."""
NAME = 24
"""Most letters of a line of a name at the left of an axis."""
LINE_HEIGHT = 0.16
"""Inches of a line of text."""
ASIDE, ALL_ASIDE = 0.08, 0.5
"""How far the points of two lines at one x lie apart, in gaps between two x, and how far those of all may."""
CHINESE = (
    "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Hiragino Sans", "Microsoft YaHei",
)  # fmt: skip
"""Fonts with the letters of Chinese and Japanese: the first that is installed is used."""
STYLE: dict[Any, Any] = {
    # matplotlib warns of a font that is not installed.
    "font.family": ["sans-serif", *[name for name in CHINESE if name in get_font_names()][:1]],
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"], "font.size": 10,
    "axes.titlesize": 10, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "legend.fontsize": 9, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "axes.facecolor": "none",
    "svg.fonttype": "none", "svg.hashsalt": "hemnet", "pdf.fonttype": 42, "text.parse_math": False,
}  # fmt: skip
# Okabe and Ito's palette.
BLUE, VERMILION, GREEN, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B8A000", "#666666",
)  # fmt: skip
HEAD_COLOURS = {
    "em": BLUE, "hem": VERMILION, "emanet": GREEN, "fcn": GREY, "pspnet": PURPLE, "deeplabv3plus": SKY,
    "nonlocal": YELLOW,
}  # fmt: skip
MARKERS = {"em": "s", "hem": "o"}
DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def head_colour(head: str) -> str:
    """Return the colour of a head in all charts."""
    return HEAD_COLOURS.get(head, "#000000")


def distinct_colours(heads: Sequence[str]) -> list[str]:
    """Return `head_colour` of each head, and another for one whose colour is taken by then."""
    found: list[str] = []
    free = [colour for colour in (*HEAD_COLOURS.values(), "#000000") if colour not in map(head_colour, heads)]
    for head in heads:
        colour = head_colour(head)
        found.append(free.pop(0) if colour in found and free else colour)
    return found


def scale_colour(position: float) -> str:
    """Return the colour of a position, 0 to 1, on a scale such as that of h or T."""
    return mpl.colors.to_hex(mpl.colormaps["viridis"](0.62 * (1 - position)))


@dataclass(frozen=True)
class Line:
    """Values by x and seed, drawn as means with intervals."""

    label: str
    colour: str
    points: Mapping[float, Mapping[int, float]]
    marker: str = "o"
    dashes: str = "-"

    def at(self, x: float) -> Estimate | None:
        """Return the mean over seeds at x with its interval; None without a value."""
        return score(list(self.points.get(x, {}).values()))


def score_chart(
    lines: Sequence[Line], levels: Sequence[tuple[str, str, float]], xlabel: str, positions: str = "even"
) -> Figure:
    """Draw mIoU against T or h: means with 95% intervals, single seeds faint, other heads as levels.

    Args:
        lines: one per head or T.
        levels: label, colour and mean of heads without T or h, drawn as horizontal lines; as many as `DASHES`
            at most.
        xlabel: of the x axis.
        positions: ``even`` spaces the x values equally, ``true`` by their values.
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axis = figure.subplots()
    xs = sorted({x for line in lines for x in line.points})
    place = {x: float(i) if positions == "even" else x for i, x in enumerate(xs)}
    gap = min(
        (b - a for a, b in zip(sorted(place.values()), sorted(place.values())[1:], strict=False)), default=1
    )
    for i, line in enumerate(lines):
        shift = gap * min(ASIDE, ALL_ASIDE / len(lines)) * (i - (len(lines) - 1) / 2)
        _score_line(axis, line, place, shift)
    low, high = axis.get_ylim()
    reach = max(high - low, 0.02)
    for (label, colour, mean), dash in zip(levels, DASHES, strict=False):
        if low - reach < mean < high + reach:
            axis.axhline(mean, color=colour, linestyle=dash, linewidth=1.3, label=f"{label} {mean:.3f}")
        else:  # so far away that showing it would flatten the other lines
            axis.plot([], [], color=colour, linestyle=dash, label=f"{label} {mean:.3f} (off the chart)")
    places = [place[x] for x in xs]
    axis.set_xticks(places, staggered(places, [f"{x:g}" for x in xs]))
    axis.set(xlabel=xlabel, ylabel="mIoU")
    legend(figure, axis)
    return figure


def _score_line(axis: Axes, line: Line, place: Mapping[float, float], shift: float) -> None:
    xs, means, reaches = [], [], []
    for x, by_seed in sorted(line.points.items()):
        if (found := line.at(x)) is None:
            continue
        values = [value for value in by_seed.values() if np.isfinite(value)]
        axis.plot([place[x] + shift] * len(values), values, ".", color=line.colour, alpha=0.3, markersize=5)
        xs.append(place[x] + shift)
        means.append(found.mean)
        reaches.append(found.reach)
    axis.errorbar(
        xs, means, yerr=np.transpose(reaches), color=line.colour, marker=line.marker, linestyle=line.dashes,
        capsize=3, markersize=5, linewidth=1.6, elinewidth=1.1, label=line.label,
    )  # fmt: skip


def legend(figure: Figure, *axes: Axes, columns: int = 3) -> None:
    """Add a legend below a figure, each label once, in as many columns as fit.

    The figure becomes higher by what the legend has beyond two lines.
    """
    pairs = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    labels = [label for _, label in pairs]
    found = [pair for i, pair in enumerate(pairs) if pair[1] not in labels[:i]]
    if found:
        # Lines with intervals (matplotlib containers, which are tuples) before levels.
        handles, shown = zip(*sorted(found, key=lambda pair: not isinstance(pair[0], tuple)), strict=True)
        texts = [wrapped(label, LEGEND) for label in shown]
        longest = min(max(map(letters_in, shown)), LEGEND)
        fit = max(1, min(columns, int(60 // (longest + 8))))
        figure.legend(handles, texts, loc="outside lower center", ncols=fit)
        rows = -(-len(texts) // fit)  # matplotlib fills columns from the top
        lines = max(sum(map(lines_in, texts[i : i + rows])) for i in range(0, len(texts), rows))
        figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * max(0, lines - 2))


def class_bars(classes: Sequence[str], sides: Sequence[tuple[str, str, Sequence[Sequence[float]]]]) -> Figure:
    """Draw the IoU of each class as bars; a side is its label, its colour and the seeds' values per class."""
    count, thick = len(sides), 0.8 / len(sides)
    names = [wrapped(name, NAME) for name in classes]
    row = max(0.14 + 0.13 * count, LINE_HEIGHT * max(map(lines_in, names), default=1))
    figure = Figure(figsize=(WIDTH, 0.9 + len(classes) * row), layout="constrained")
    axis = figure.subplots()
    for i, (label, colour, values) in enumerate(sides):
        found = [score(seeds) for seeds in values]
        places = np.arange(len(classes)) + thick * (i - (count - 1) / 2)
        means = [np.nan if e is None else e.mean for e in found]
        reaches = np.transpose([(0.0, 0.0) if e is None else e.reach for e in found])
        axis.barh(
            places, means, thick * 0.92, xerr=reaches, color=colour, label=label, error_kw={"elinewidth": 0.9}
        )
    axis.set_yticks(range(len(classes)), names)
    axis.set(xlabel="IoU", ylim=(len(classes) - 0.5, -0.5), xlim=(0, None))
    axis.grid(visible=False, axis="y")
    legend(figure, axis)
    return figure


def forest(rows: Sequence[tuple[str, str, Sequence[float]]]) -> Figure:
    """Draw a row per (label, colour, values of the seeds): mean, 95% interval and single seeds."""
    names = [wrapped(label, NAME) for label, *_ in rows]
    row = 0.14 + LINE_HEIGHT * max(map(lines_in, names), default=1)
    figure = Figure(figsize=(WIDTH, 0.8 + row * len(rows)), layout="constrained")
    axis = figure.subplots()
    for y, (_, colour, values) in enumerate(rows):
        axis.plot(values, [y] * len(values), ".", color=colour, alpha=0.35)
        if (found := score(values)) is not None:
            reach = [[end] for end in found.reach]
            axis.errorbar([found.mean], [y], xerr=reach, fmt="o", color=colour, capsize=3)
    axis.set_yticks(range(len(rows)), names)
    axis.set(xlabel="mIoU", ylim=(len(rows) - 0.5, -0.5))
    return figure
