"""Chapters on T and step size, in the layout of the paper's Table 2: T of training, and T of evaluation.

A column is a step size η = 1 - h, or EMANet; a row is a T.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import GRID_EVAL, GRID_TRAIN, Definition
from hemnet.report.estimates import Estimate
from hemnet.report.groups import Group, Section, scale_text
from hemnet.report.heat_map import heat_map, highest
from hemnet.report.lines import Points, by_training, emanet_lines, joined, not_numbers, some_of
from hemnet.report.plots import Line, scale_colour, score_chart
from hemnet.report.variants import Variant, others

ABOUT = (
    "The step size is η = 1 - h, so η = 1 is plain EM. EMANet passes no gradient through its iterations; "
    "where no h is named, its steps are whole."
)
TO = "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Grid:
    """Scores over T and step size.

    Attributes:
        scales: a column per step size.
        rivals: the columns of EMANet.
        unplaced: the columns of an h that is no number, such as a learned one, which only the table has.
    """

    scales: Sequence[Line]
    rivals: Sequence[Line]
    unplaced: Sequence[Line]

    @property
    def columns(self) -> list[Line]:
        """All columns."""
        return [*self.scales, *self.rivals]

    @property
    def rows(self) -> list[float]:
        """Each T of the columns that are drawn, rising."""
        return _depths(self.columns)

    @property
    def drawn(self) -> bool:
        """Whether there are at least two step sizes and two T."""
        return len(self.scales) > 1 and len(_depths(self.scales)) > 1

    @property
    def whole(self) -> bool:
        """Whether there are at least two highways and two T."""
        highways = [*self.scales, *self.unplaced]
        return len(highways) > 1 and len(_depths(highways)) > 1


def _depths(columns: Sequence[Line]) -> list[float]:
    return sorted({T for column in columns for T in column.points})


def trained_grid(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return mIoU over T of training and step size."""
    block = Block(GRID_TRAIN.chapter, [ABOUT])
    grid = _grid(variant, variant.usual, others(section), by_training)
    if grid.whole:
        _show(block, grid, slug, GRID_TRAIN, "T_train")
    return block if block.items else None


def evaluated_grid(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return mIoU over T of evaluation and step size, for each T of training."""
    block = Block(GRID_EVAL.chapter, [ABOUT])
    for depth in variant.depths:
        mine, rivals = (
            [g for g in groups if g.iterations == depth] for groups in (variant.usual, others(section))
        )
        grid = _grid(variant, mine, rivals, _by_evaluation)
        if grid.whole:
            _show(block, grid, slug, GRID_EVAL, "T_eval", depth)
    return block if block.items else None


def _by_evaluation(groups: Sequence[Group]) -> Points:
    (group,) = groups  # settings that agree in T, h and everything else are one group
    return {float(T): by_seed for T, by_seed in group.by_iterations().items()}


def _grid(
    variant: Variant,
    groups: Sequence[Group],
    rivals: Sequence[Group],
    points: Callable[[Sequence[Group]], Points],
) -> Grid:
    """Return the columns with scores; ``points`` returns the scores of a column's groups."""
    by_scale: dict[float, list[Group]] = defaultdict(list)
    by_text: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        if isinstance(group.scale, float):
            by_scale[group.scale].append(group)
        else:
            by_text[scale_text(group.scale)].append(group)
    scales = [
        Line(f"η={round(1 - h, 9):g}", scale_colour(i / max(len(by_scale) - 1, 1)), points(by_scale[h]))
        for i, h in enumerate(sorted(by_scale, reverse=True))
    ]
    unplaced = [Line(f"h={h}", "#000000", points(mine)) for h, mine in by_text.items()]
    placed, apart = ([line for line in lines if line.points] for lines in (scales, unplaced))
    return Grid(placed, emanet_lines(variant, rivals, points), apart)


def _show(
    block: Block, grid: Grid, slug: str, shown: Definition, axis: str, trained: int | None = None
) -> None:
    """Add a grid to a block as heat map, lines and table; ``trained`` is the T of training, if it is one."""
    missing = "no run has a score" if trained is None else "no run was evaluated"
    part, of, marked = "", "", ""
    if trained is not None:
        part, of, marked = f"_T{trained}", f", after training with T = {trained}", " {}: the T of training."

    drawn, left = some_of(grid.columns)

    def lines() -> Figure:
        figure = score_chart(drawn, [], axis)
        if trained in grid.rows:
            figure.axes[0].axvline(grid.rows.index(trained), color="#999999", linestyle=":", zorder=0)
        return figure

    columns = [*grid.columns, *grid.unplaced]
    rows: list[list[Cell]] = [[f"{T:g}", *(column.at(T) for column in columns)] for T in _depths(columns)]
    counts = [cell.n for row in rows for cell in row if isinstance(cell, Estimate)]
    usual = max(counts, key=counts.count, default=0)
    heads = [Column(axis), *(Column(column.label, counted=usual) for column in columns)]
    counted = f"means over seeds with 95% intervals, n = {usual} unless a cell says otherwise"
    best = [_highest(grid, axis)] if grid.drawn else []
    unplaced = not_numbers([column.label for column in grid.unplaced])
    block.paragraphs.append(" ".join([f"{shown.title}{of}.", *best, *unplaced]))
    how = (
        f"Mean, number n of seeds; a cell that is pointed at tells its interval. Bold: of the step sizes "
        f"of a row, that of the highest mean. Hatched: {missing}."
    )
    charts = [
        Chart(slug, shown, how + marked.format("Framed"),
              lambda: heat_map(grid.scales, grid.rivals, grid.rows, "step size η = 1 - h", axis, trained),
              part, of),
        Chart(slug, shown, joined("Means over seeds with 95% intervals; faint dots are single seeds."
              + marked.format("Dotted"), left), lines, f"{part}_lines", of),
    ]  # fmt: skip
    table = Table(f"{slug}_{shown.key}{part}", f"{shown.title}{of}: {counted}.", heads, rows)
    block.items += [*(charts if grid.drawn else []), table]


def _highest(grid: Grid, axis: str) -> str:
    """Return which step size has the highest mean at each T, and which T in each column."""
    rows = {f"{T:g}": {_short(c): c.at(T) for c in grid.scales} for T in grid.rows}
    columns = {_short(c): {f"{T:g}": c.at(T) for T in grid.rows} for c in grid.columns}
    best_in_rows, best_in_columns = (
        "; ".join(f"{where}{TO}{best}" for where, cells in side.items() if (best := _best(cells)))
        for side in (rows, columns)
    )
    return (
        f"At each {axis}, the η of the highest mean (not tested): {best_in_rows}. In a column, its {axis}: "
        f"{best_in_columns}."
    )


def _short(column: Line) -> str:
    return column.label.removeprefix("η=")


def _best(cells: Mapping[str, Estimate | None]) -> str | None:
    """Return the name of the cell with the highest mean, or those that tie; None below two with a mean."""
    scored = sum(found is not None for found in cells.values())
    if scored < 2:
        return None
    *others, last = highest(cells)
    tied = [", ".join(others), last] if others else [last]
    return "all tie" if len(others) + 1 == scored else " and ".join(tied)
