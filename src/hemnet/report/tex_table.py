"""A table as LaTeX that stays on its page: small type, columns that wrap, and as many pages as it needs.

A table of more columns than fit side by side is several, which repeat what names the rows: its first
columns, up to the first of texts.
"""

import math
import re
from collections.abc import Sequence

from hemnet.report.latex import BREAK, SPECIAL, escape_tex

PACKAGES = r"\usepackage{array,booktabs,longtable}"
LINE = 345.0
"""Points: the width of the text of LaTeX's class ``article``."""
GAP = 4.0
"""Points between columns."""
SIZES = {"footnotesize": 4.5, "scriptsize": 4.2, "tiny": 3.6}
"""Sizes of type, with the points that a letter takes."""
MOST_NAMES = 3
"""Most columns that are repeated."""
TALLEST = 40
"""Most lines of a table that is kept on one page."""
LONG = re.compile(r"\S{17,}")
"""A word that may be broken, after a `PIECE`: a path, the key of a setting."""
PIECE = re.compile(r"(?:\d{1,12}(?:\.\d{1,12})*|[^/_.=,:;]){1,16}[/_.=,:;]*|[/_.=,:;]+")
"""No number is broken."""
Row = Sequence[str]


def tex_table(name: str, caption: str, head: Row, rows: Sequence[Row], numeric: Sequence[bool]) -> str:
    """Return a table as LaTeX, which needs `PACKAGES`.

    Args:
        name: follows ``tab:`` in its label; that of a further part ends in its number.
        caption: above it.
        head: the headings of the columns.
        rows: the cells.
        numeric: whether a column holds numbers, which are right-aligned.
    """
    columns = [[escape_tex(_breakable(cell)) for cell in column] for column in zip(head, *rows, strict=True)]
    parts = _parts(columns, numeric)
    tables = []
    for i, part in enumerate(parts):
        which = f" Part {i + 1} of {len(parts)}." if len(parts) > 1 else ""
        label = f"tab:{name}_{i + 1}" if i else f"tab:{name}"
        title = f"\\caption{{{escape_tex(_breakable(caption + which))}}}\n\\label{{{label}}}"
        tables.append(_table(title, [columns[j] for j in part], [numeric[j] for j in part]))
    return f"% {PACKAGES}\n" + "".join(tables)


def _parts(columns: Sequence[Row], numeric: Sequence[bool]) -> list[list[int]]:
    """Return which columns stand side by side: as many as fit in the smallest type, after those of names."""
    least = [_least(column) * SIZES["tiny"] + GAP for column in columns]
    names = [*range(min([i + 1 for i, number in enumerate(numeric[:MOST_NAMES]) if not number], default=1))]
    parts = [[*names]]
    for i in range(len(names), len(columns)):
        if len(parts[-1]) > len(names) and sum(least[j] for j in (*parts[-1], i)) - GAP > LINE:
            parts.append([*names])
        parts[-1].append(i)
    return parts


def _least(column: Row) -> int:
    """Return how many letters wide a column is at least."""
    return max(map(_longest_piece, column))


def _table(title: str, columns: Sequence[Row], numeric: Sequence[bool]) -> str:
    """Return one table that is as wide as the page at most."""
    size, widths = _layout(columns, numeric)
    spec = "".join(
        _column(number, width, _longest(column), SIZES[size])
        for column, width, number in zip(columns, widths, numeric, strict=True)
    )
    head, *rows = zip(*columns, strict=True)
    lines = [" & ".join(row) + " \\\\\n" for row in (head, *rows)]
    height = sum(max(map(_height, row, widths)) for row in rows)
    top, body = f"\\toprule\n{lines[0]}\\midrule\n", "".join(lines[1:])
    look = f"\\{size}\n\\setlength{{\\tabcolsep}}{{{GAP / 2:g}pt}}\n"
    if height <= TALLEST:
        inner = f"\\begin{{tabular}}{{@{{}}{spec}@{{}}}}\n{top}{body}\\bottomrule\n\\end{{tabular}}\n"
        return f"\\begin{{table}}\n\\centering\n{title}\n{look}{inner}\\end{{table}}\n"
    return (
        f"\\begingroup\n{look}\\setlength{{\\LTcapwidth}}{{\\linewidth}}\n"
        f"\\begin{{longtable}}{{@{{}}{spec}@{{}}}}\n{title} \\\\\n{top}\\endfirsthead\n{top}\\endhead\n"
        f"\\bottomrule\n\\endfoot\n{body}\\end{{longtable}}\n\\endgroup\n"
    )


def _layout(columns: Sequence[Row], numeric: Sequence[bool]) -> tuple[str, list[float]]:
    """Return the size of type, and the width of each column in letters.

    What wraps first is headings, then texts, then numbers, before their intervals.
    """
    full = [_longest(column) for column in columns]
    torn = [_least(column) for column in columns]
    cells = [max(low, _longest(column[1:])) for low, column in zip(torn, columns, strict=True)]
    numbers = [cell if number else low for cell, low, number in zip(cells, torn, numeric, strict=True)]
    room = LINE - GAP * (len(columns) - 1)
    ways = (("footnotesize", cells), *(("scriptsize", way) for way in (cells, numbers, torn)), ("tiny", torn))
    fitting = (way for way in ways if sum(way[1]) * SIZES[way[0]] <= room)
    size, least = next(fitting, ways[-1])
    most = full if least is cells else cells
    spare, lack = max(0.0, room / SIZES[size] - sum(least)), max(1, sum(most) - sum(least))
    share = min(1.0, spare / lack)
    return size, [low + share * (high - low) for low, high in zip(least, most, strict=True)]


def _column(number: bool, width: float, full: int, letter: float) -> str:
    """Return the alignment of a column, and its width as a share of the line if it wraps."""
    if width >= full:
        return "r" if number else "l"
    side = "left" if number else "right"
    return f">{{\\ragged{side}\\arraybackslash}}p{{{width * letter / LINE:.5f}\\linewidth}}"


def _breakable(text: str) -> str:
    """Return a text in which a line may end within a long word and Chinese."""
    text = LONG.sub(lambda word: BREAK.join(PIECE.findall(word[0])), text)
    return re.sub(r"(?<=[\u2e80-\uffff])(?=\S)", BREAK, text)


def _height(cell: str, width: float) -> int:
    """Return about how many lines a cell takes in a column of so many letters."""
    return math.ceil(_letters(cell) / max(1, width))


def _longest(cells: Row) -> int:
    return max(map(_letters, cells), default=0)


def _longest_piece(cell: str) -> int:
    return _longest(re.split(rf" |{re.escape(SPECIAL[BREAK])}", cell))


def _letters(tex: str) -> int:
    """Return about how many letters of lower case are as wide as LaTeX."""
    bare = re.sub(r"\\[A-Za-z]+|\\.", "x", tex.replace(SPECIAL[BREAK], ""))
    return len(re.sub("[{}$]", "", bare)) + sum(map(str.isupper, bare)) // 2
