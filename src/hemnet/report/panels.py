"""Charts of several panels: values per iteration, and curves over training, of the seeds of each setting.

Shapes: S points of a curve, (S, 2): step and value; n seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemnet.report.plots import WIDTH, legend
from hemnet.report.ticks import iteration_ticks, log_ticks

MOST_POINTS = 200
"""Of a curve over training."""
WHOLE = 0.95
"""Share of the values of another seed that a seed has to have to be in a mean over seeds."""
Draw = Callable[[Axes, int, int], None]


def grid(
    rows: Sequence[str], columns: Sequence[str], draw: Draw, *, xlabel: str, ylabel: str,
    log: bool | Sequence[bool] = False, share_y: Literal["row", "none"] = "row", height: float = 1.25,
) -> Figure:  # fmt: skip
    """Draw a grid of panels with one legend; ``draw(axis, row, column)`` fills each panel.

    Args:
        rows: titles of the rows, at their left.
        columns: titles of the columns, at their top.
        draw: fills a panel.
        xlabel: below the last row.
        ylabel: at the left of all.
        log: whether the y axes are logarithmic, those of all columns or of each.
        share_y: ``sharey`` of matplotlib's ``subplots``.
        height: of a row, in inches.
    """
    figure = Figure(figsize=(WIDTH, height * len(rows) + 1.0), layout="constrained")
    axes: Any = figure.subplots(len(rows), len(columns), squeeze=False, sharey=share_y, sharex="row")
    logarithmic = [log] * len(columns) if isinstance(log, bool) else log
    for r, c in np.ndindex(axes.shape):
        axis = axes[r, c]
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
        if logarithmic[c]:
            axis.set_yscale("log")
            log_ticks(axis.yaxis)
        draw(axis, r, c)
        if r == 0:
            axis.set_title(columns[c])
        if c == 0 and rows[r]:
            axis.set_ylabel(rows[r])
        if r == len(rows) - 1:
            axis.set_xlabel(xlabel)
    for row in axes:
        _mark_empty([*row], alone=share_y == "none")
    figure.supylabel(ylabel, fontsize=10)
    legend(figure, *axes.ravel())
    return figure


def _mark_empty(row: Sequence[Axes], *, alone: bool) -> None:
    """Have the panels without values say so, and no ticks if these are of no other panel either.

    Args:
        row: panels with one x axis.
        alone: whether each has a y axis of its own.
    """
    empty = [axis for axis in row if not any(np.isfinite(line.get_ydata()).any() for line in axis.lines)]
    for axis in empty:
        axis.text(0.5, 0.5, "no values", ha="center", va="center", transform=axis.transAxes)
        if alone or len(empty) == len(row):
            axis.tick_params(left=False, labelleft=False)
        if len(empty) == len(row):
            axis.tick_params(bottom=False, labelbottom=False)


def _draw_line(axis: Axes, x: Sequence[float] | np.ndarray, y: np.ndarray, marker: str, **style: Any) -> None:
    """Draw a line, with markers at the points without a neighbour, which it does not show."""
    known = np.pad(np.isfinite(y), 1)
    alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])
    marks: dict[str, Any] = {"marker": marker, "markevery": [*alone]} if len(alone) else {}
    axis.plot(x, y, **marks, **style)


def draw_profile(axis: Axes, label: str, colour: str, marker: str, values: Sequence[np.ndarray]) -> None:
    """Draw values per iteration of several seeds, and the mean of those that are `whole`."""
    log = axis.get_yscale() == "log"
    shown_nS = drawable(np.array(values, float), log)
    for one in shown_nS:
        _draw_line(axis, range(len(one)), one, ".", color=colour, alpha=0.3, linewidth=0.7)
    mean = _mean(shown_nS, log)
    axis.set_xticks(iteration_ticks(len(mean) - 1))
    axis.plot(range(len(mean)), mean, color=colour, marker=marker, markersize=3, linewidth=1.5, label=label)


def drawable(values: np.ndarray, log: bool) -> np.ndarray:
    """Return values, NaN where an axis has no place for one: infinity; 0 and less on a logarithmic axis."""
    has_place = np.isfinite(values) & ((values > 0) | (not log))
    return np.where(has_place, values, np.nan)


def whole(values_nS: np.ndarray) -> np.ndarray:
    """Return which seeds are in the mean, (n,) bool: a seed that diverged early lacks most of its values."""
    known_n = np.isfinite(values_nS).sum(axis=1)
    return known_n >= max(1, WHOLE * known_n.max(initial=0))


def _mean(values_nS: np.ndarray, log: bool) -> np.ndarray:
    """Return the mean over the seeds that are `whole`: geometric on a logarithmic axis."""
    kept_nS = values_nS[whole(values_nS)]
    values_nS = kept_nS if len(kept_nS) else values_nS[:1]  # in which nothing is known
    return np.exp(np.log(values_nS).mean(0)) if log else values_nS.mean(0)


def draw_curves(axis: Axes, label: str, colour: str, curves: Sequence[np.ndarray], dashes: str = "-") -> None:
    """Draw curves (S, 2) of several seeds: the mean of those that are `whole`, and the range as a band.

    Where no step has a value of each seed, there is no mean, and they are drawn one by one.
    """
    log = axis.get_yscale() == "log"
    steps, stacked = aligned(curves, log)
    mean = _mean(stacked, log)
    _draw_line(axis, steps, mean, "o", color=colour, linewidth=1.4, linestyle=dashes, label=label)
    for one in stacked if not np.isfinite(mean).any() else ():
        _draw_line(axis, steps, one, ".", color=colour, linewidth=0.7, linestyle=dashes)
    if len(curves) > 1:
        ends = np.fmin.reduce(stacked), np.fmax.reduce(stacked)
        axis.fill_between(steps, *ends, color=colour, alpha=0.15, linewidth=0)


def aligned(curves: Sequence[np.ndarray], log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return steps, (S,), and the `drawable` values of each curve there, (n, S): NaN before and after it.

    Of a curve of more than `MOST_POINTS` points, means of neighbouring points are taken.
    """
    curves = [_thinned(curve) for curve in curves]
    steps = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    if len(steps) > 2 * MOST_POINTS:  # they log at different steps
        steps = max(curves, key=len)[:, 0]
    every = [np.interp(steps, curve[:, 0], curve[:, 1], left=np.nan, right=np.nan) for curve in curves]
    return steps, drawable(np.array(every), log)


def _thinned(curve_S2: np.ndarray) -> np.ndarray:
    if len(curve_S2) <= MOST_POINTS:
        return curve_S2
    return np.array([chunk.mean(axis=0) for chunk in np.array_split(curve_S2, MOST_POINTS)])
