"""Compare the numbers in the tables of a Markdown page with the CSV files that they are quoted from.

    python experiments/quoted.py [PAGE ...]    # experiments/FINDINGS*.md

Before each table stands a comment that says where its numbers are from. If the columns have the names of the
CSV file's and the first one tells the rows apart, it is

    <!-- quoted: results/study/primary.csv -->

where several columns do, ``<!-- quoted: results/study/e_step.csv by setting, t -->``, and otherwise YAML:

    <!-- quoted
    file: results/study/{set[name]}_gradient_halfway.csv
    names: {set: {CamVid: {name: camvid}}}      # what stands for the content of a cell below
    where: {T: "{T}", phase: end}               # the row of the CSV file, with the row's cells in braces
    cells:
      h = 0: [this h, p]                        # the columns of the numbers in a cell, in their order
      h = 0.5: {where: {h: 0.5}, take: [mIoU, mIoU high - mIoU]}    # a further condition; a difference
    -->

A cell may have a ``file`` of its own, and may be empty. ``each: ...`` in the place of ``cells`` holds for
every column but the first; ``{column}`` is its name there. The columns that are not under ``cells`` say which
row is meant: each has to be in braces somewhere. A table without such a file says why:
``<!-- not quoted: reason -->``. A number agrees if it is the file's, rounded to the digits that are shown.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hemnet.storage.files import read_table

PAGES = sorted(Path(__file__).parent.glob("FINDINGS*.md"))
COMMENT = re.compile(r"<!--\s*(not quoted|quoted)((?:(?!-->).)*)-->\s*\Z", re.DOTALL)
NUMBER = re.compile(
    r"(?P<below><\s*)?(?P<digits>[-+]?\d+(?:\.(?P<decimals>\d+))?)(?:e(?P<exponent>[-+]?\d+))?"
)
TABLE = re.compile(r"^\|.*\n\|[-:| ]+\n(?:\|.*\n?)*", re.MULTILINE)
_table = cache(read_table)


class Number(NamedTuple):
    """A number as it is written: its value, the size of its last digit, and whether it is an upper bound."""

    value: float
    unit: float
    below: bool


class Source(NamedTuple):
    """Where the numbers of a table are from."""

    file: str
    where: Mapping[str, Any]
    cells: Mapping[str, Any]
    names: Mapping[str, Any]


def numbers(text: str) -> list[Number]:
    """Return the numbers in a text; a minus may be a hyphen or the sign U+2212."""
    found = []
    for match in NUMBER.finditer(text.replace("−", "-")):
        exponent = int(match["exponent"] or 0)
        unit = 10.0 ** (exponent - len(match["decimals"] or ""))
        found.append(Number(float(f"{match['digits']}e{exponent}"), unit, match["below"] is not None))
    return found


def agrees(shown: Number, known: Number) -> bool:
    """Return whether a number is the other one, rounded to its digits, or a bound that it keeps."""
    if shown.below:
        return known.value <= shown.value
    return abs(shown.value - known.value) <= 0.5 * shown.unit * (1 + 1e-9) and not known.below


def problems(page: Path) -> Iterator[str]:
    """Yield what is wrong with the tables of a page, and nothing if all their numbers are the files'."""
    text = page.read_text("utf-8")
    for table in TABLE.finditer(text):
        header, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in table[0].splitlines())
        line = text.count("\n", 0, table.start()) + 1
        comment = COMMENT.search(text[: table.start()])
        if comment is None:
            yield f"{page.name}:{line}: no comment says which file the table is quoted from"
        elif comment[1] == "not quoted":
            if not comment[2].strip(": \n"):
                yield f"{page.name}:{line}: a table that is not quoted gives no reason"
        else:
            try:
                source = read_source(comment[2], header)
                for number, row in enumerate(rows, line + 2):
                    if len(row) != len(header):
                        yield f"{page.name}:{number}: {len(row)} cells under {len(header)} columns"
                        continue
                    cells = dict(zip(header, row, strict=True))
                    for said in row_problems(page.parent, source, cells):
                        yield f"{page.name}:{number}: {said}"
            except (yaml.YAMLError, LookupError, ValueError, TypeError, AttributeError) as error:
                yield f"{page.name}:{line}: the comment cannot be understood: {error!r}"


def read_source(text: str, header: Sequence[str]) -> Source:
    """Return what a comment says of its table."""
    if text.startswith(":"):
        file, _, told = text[1:].strip().partition(" by ")
        keys = [key.strip() for key in told.split(",")] if told else header[:1]
        own = {name: [name] for name in header if name not in keys}
        return Source(file.strip(), {key: f"{{{key}}}" for key in keys}, own, {})
    told = {"where": {}, "names": {}} | yaml.safe_load(text)
    cells = dict.fromkeys(header[1:], told["each"]) if "each" in told else told["cells"]
    return Source(told["file"], told["where"], {str(k): v for k, v in cells.items()}, told["names"])


def row_problems(folder: Path, source: Source, cells: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with a row, its cells by their column."""
    names = {column: _named(source.names.get(column), cell) for column, cell in cells.items()}
    if unknown := source.cells.keys() - cells.keys():
        yield f"the table has no column {', '.join(sorted(unknown))}"
    templates = f"{source.file} {source.where} {source.cells}"
    for column, shown in cells.items():
        if column not in source.cells:
            if f"{{{column}}}" not in templates and f"{{{column}[" not in templates:
                yield f"column {column!r} is compared with nothing"
            continue
        told = source.cells[column]
        told = told if isinstance(told, Mapping) else {"take": told}
        if shown:
            known = names | {"column": column}
            path = str(told.get("file", source.file)).format_map(known)
            conditions = {**source.where, **told.get("where", {})}
            where = {key: str(value).format_map(known) for key, value in conditions.items()}
            take = [name.format_map(known) for name in told["take"]]
            said = cell_problem(_table(folder / path), where, take, shown)
            yield from [f"{column!r}: {said} ({path})"] if said else []


def cell_problem(
    rows: Sequence[Mapping[str, str]], where: Mapping[str, str], take: Sequence[str], shown: str
) -> str | None:
    """Return what is wrong with a cell, given the rows of its file; None if nothing is."""
    found = [row for row in rows if all(_same(row.get(key, ""), value) for key, value in where.items())]
    if len(found) != 1:
        return f"{len(found)} rows with {dict(where)}"
    quoted = [_value(found[0], column) for column in take]
    known = [number for value in quoted for number in numbers(value)]
    if not known:
        return None if shown == " ".join(quoted) else f"{shown!r} is not {' '.join(quoted)!r}"
    given = numbers(shown)
    if len(given) == len(known) and all(map(agrees, given, known)):
        return None
    return f"{shown!r} is not {', '.join(quoted)}"


def _value(row: Mapping[str, str], column: str) -> str:
    """Return a column of a row, or the difference of two."""
    first, minus, second = column.partition(" - ")
    if column in row or not minus:
        return row.get(column, "")
    return repr(float(row[first]) - float(row[second]))


def _named(names: Mapping[Any, Any] | None, cell: str) -> Any:
    """Return what stands for the content of a cell: by its text, or by its number."""
    return cell if names is None else {str(key): value for key, value in names.items()}.get(cell, cell)


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is wrong, and end with status 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, metavar="PAGE")
    try:
        found = [said for page in parser.parse_args(arguments).pages for said in problems(page)]
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"a page cannot be read ({error}): name Markdown files")
    print("\n".join(found) or "every number in a table is that of its file")
    sys.exit(int(bool(found)))


if __name__ == "__main__":
    main()
