"""The contents of a report: blocks of tables, charts and pictures; tables also as CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hemnet.report.definitions import Definition
from hemnet.report.estimates import Estimate, Mean
from hemnet.report.tex_table import tex_table
from hemnet.wording import counted


@dataclass(frozen=True)
class Links:
    """Texts, each with an address relative to the page's folder."""

    pairs: Sequence[tuple[str, str]]

    def __str__(self) -> str:
        return " ".join(text for text, _ in self.pairs)


Cell = str | int | float | Estimate | Links | None
MISSING = "–"
CUT = "†"
"""Follows an interval that is cut, see `hemnet.report.significance.Estimate.bounds`."""
CUT_NOTE = (
    f" {CUT} A 95% interval that is cut where no such value can lie, as no score is below 0 or above 1."
)
SPREAD_NOTE = " ± Half the width of the 95% t-interval over seeds."
RATIO_NOTE = " In brackets: the ends of the 95% t-interval of the logarithm over seeds."
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠](?!(?<=[+-])[0-9.]+(e[+-]?[0-9]+)?$)|\t")
"""The beginning of a text that a spreadsheet computes; a number is none."""
COUNTS = ("n", "seeds")
"""Headings of columns that say how many values a row's estimates are of."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading and the format of its numbers.

    Attributes:
        heading: printed heading, and the name in the CSV.
        digits: decimals if ``fixed``, else significant digits.
        fixed: whether ``digits`` counts decimals.
        signed: whether a plus is printed.
        counted: usual number of values of an estimate, which is then not printed; None prints no number.
    """

    heading: str
    digits: int = 3
    fixed: bool = True
    signed: bool = False
    counted: int | None = None

    def cell(self, value: Cell, expected: int | None = None) -> str:
        """Return a cell as it is printed: an estimate with its number of values, if not the expected one."""
        if isinstance(value, Estimate):
            text = self.text(value.mean)
            if value.skewed and value.interval:
                low, high = map(self.text, value.interval)
                text += f" [{low}, {high}]{CUT * value.cut}"
            elif value.half_width is not None:
                text += f" ±\N{NO-BREAK SPACE}{self.text(value.half_width).lstrip('+')}"
            return text if (self.counted or expected) in (None, value.n) else f"{text} (n={value.n})"
        if isinstance(value, float):
            return self.text(value)
        return MISSING if value is None else str(value)

    def text(self, value: float) -> str:
        """Return a number as it is printed."""
        if np.isnan(value):
            return MISSING
        if np.isinf(value):
            return "∞" if value > 0 else "−∞"
        sign = "+" if self.signed else ""
        if self.fixed:
            return f"{value:{sign}.{self.digits}f}"
        return f"{value:{sign}.{self.digits}g}"


class Shown(NamedTuple):
    """A cell as printed, and what it was made of."""

    text: str
    made_of: Cell

    @property
    def links(self) -> Sequence[tuple[str, str]]:
        """Texts and addresses, of a cell of links."""
        return self.made_of.pairs if isinstance(self.made_of, Links) else ()

    @property
    def divisible(self) -> bool:
        """Whether an interval or a count is beside a mean, and may stand on a line of its own."""
        return isinstance(self.made_of, Estimate) and " " in self.text

    @property
    def number(self) -> float | None:
        """What the cell is sorted by, if that is a number."""
        value = self.made_of.mean if isinstance(self.made_of, Estimate) else self.made_of
        return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


@dataclass(frozen=True)
class Table:
    """A table with a file name; a cell is text, a number, an estimate, links, or None if missing.

    ``sortable``: whether the reader of the page can sort it by a column.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False

    @property
    def legend(self) -> str:
        """The caption, and what marks in the cells mean."""
        found = self._estimates
        cut = any(each.cut for each in found)
        spread = any(each.half_width is not None and not each.skewed for each in found)
        ratios = any(each.skewed and not each.cut for each in found)
        return self.caption + SPREAD_NOTE * spread + RATIO_NOTE * ratios + CUT_NOTE * cut + self._count_note

    @property
    def _estimates(self) -> list[Estimate]:
        return [cell for row in self.rows for cell in row if isinstance(cell, Estimate)]

    @property
    def _usual(self) -> int | None:
        """The most common number of values; None if no cell is an estimate."""
        counts = [each.n for each in self._estimates]
        return max(counts, key=lambda n: (n > 1, counts.count(n)), default=None)

    @property
    def _count_note(self) -> str:
        """A sentence on the number of values, if no column or caption says it."""
        usual = self._usual
        if usual is None or any(column.counted or column.heading in COUNTS for column in self.columns):
            return ""
        differ = any(each.n != usual for each in self._estimates)
        return f" n = {counted(usual, 'seed')}{' unless a cell says otherwise' * differ}."

    @property
    def _expected(self) -> list[int | None]:
        """For each row the number of values that its estimates have, unless a cell says otherwise."""
        told = [i for i, column in enumerate(self.columns) if column.heading in COUNTS]
        counts = [row[told[0]] if told else self._usual for row in self.rows]
        return [n if isinstance(n, int) else None for n in counts]

    def cells(self) -> list[list[Shown]]:
        """Return the cells as printed, each with what it was made of."""
        return [
            [Shown(c.cell(v, n), v) for c, v in zip(self.columns, row, strict=True)]
            for row, n in zip(self.rows, self._expected, strict=True)
        ]

    def numeric(self) -> list[bool]:
        """Return for each column whether it holds numbers, which are right-aligned."""
        columns = range(len(self.columns))
        return [not any(isinstance(row[i], str | Links) for row in self.rows) for i in columns]

    def names(self) -> int:
        """Return how many of the first three columns name a row: those to the first with text, or one."""
        texts = [i for i, numeric in enumerate(self.numeric()[:3]) if not numeric]
        return texts[0] + 1 if texts else 1

    def csv(self) -> str:
        """Return the table as CSV in full precision, an estimate with its ends, and its n where these differ.

        A spreadsheet takes text that begins like a formula for one, and computes it, so that text follows an
        apostrophe.
        """
        pairs = zip(self.rows, self._expected, strict=True)
        differ = any(cell.n != n for row, n in pairs for cell in row if isinstance(cell, Estimate))
        ends = [_further(c, [row[i] for row in self.rows], differ) for i, c in enumerate(self.columns)]
        lines: list[list[object]] = [[]]
        for column, further in zip(self.columns, ends, strict=True):
            lines[0] += [column.heading, *(f"{column.heading} {end}" for end in further)]
        for row in self.rows:
            line: list[object] = []
            for value, further in zip(row, ends, strict=True):
                line += _raw(value, further)
            lines.append(line)
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([[*map(_inert, line)] for line in lines])
        return out.getvalue()

    def tex(self) -> str:
        """Return the table as LaTeX, without columns of links; see `hemnet.report.tex_table.tex_table`."""
        kept = [not any(isinstance(row[i], Links) for row in self.rows) for i in range(len(self.columns))]
        head = compress([column.heading for column in self.columns], kept)
        rows = [list(compress([cell.text for cell in row], kept)) for row in self.cells()]
        return tex_table(self.name, self.legend, list(head), rows, list(compress(self.numeric(), kept)))


def _inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = re.sub("\r\n?", "\n", value)  # a line of a CSV file would end at a lone carriage return
    return f"'{text}" if FORMULA.match(text) else text


def _further(column: Column, cells: Sequence[Cell], differ: bool) -> list[str]:
    """Return the attributes of estimates that a CSV has beside the means of a column.

    Args:
        column: the column.
        cells: its cells.
        differ: whether some cell of the table has another number of values than its row tells.
    """
    found = [cell for cell in cells if isinstance(cell, Estimate)]
    spread = any(not isinstance(cell, Mean) for cell in found)
    return ["low", "high"] * spread + ["n"] * bool(found and (column.counted or differ))


def _raw(value: Cell, further: Sequence[str]) -> list[object]:
    if isinstance(value, Estimate):
        return [value.mean, *(getattr(value, end) for end in further)]
    if isinstance(value, Links):
        return [" ".join(address for _, address in value.pairs)]
    return [value, *(None for _ in further)]


@dataclass(frozen=True)
class Chart:
    """A figure of a definition; ``draw`` runs when it is saved, so one is in memory at a time.

    Attributes:
        slug: begins the names of its files: what runs it is of.
        definition: what it shows.
        note: how to read it, as a sentence or more.
        draw: draws it.
        part: ends the names of its files, where several are of one definition.
        of: ends the title of the definition: which part it is of.
    """

    slug: str
    definition: Definition
    note: str
    draw: Callable[[], Figure]
    part: str = ""
    of: str = ""

    @property
    def name(self) -> str:
        """The name of its files, without their endings."""
        return f"{self.slug}_{self.definition.key}{self.part}"

    @property
    def caption(self) -> str:
        """What it shows, and how to read it."""
        return f"{self.definition.title}{self.of}. {self.note}".strip()


@dataclass(frozen=True)
class Picture:
    """A raster image as a data URI."""

    caption: str
    data: str


@dataclass
class Block:
    """A heading, paragraphs, items below them, and findings for the top of the page, a sentence each.

    Paragraphs and items are folded away if ``folded`` says what the reader will see when he opens it.
    """

    title: str
    paragraphs: list[str] = field(default_factory=list)
    items: list[Table | Chart | Picture] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    folded: str = ""

    def kinds(self) -> list[tuple[str, Table | Chart | Picture]]:
        """Return each item with the lower-case name of its class, for the template."""
        return [(type(item).__name__.lower(), item) for item in self.items]
