"""The cells of a table that is quoted from CSV files, and what they should be; see experiments/quoted.py."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hemnet.report.significance import compare
from hemnet.storage.files import read_table

PLAIN = ": "  # begins a comment whose table has the columns of its file
SOME = "; some rows"
NUMBER = re.compile(
    r"(?P<below><\s*)?(?P<digits>[-+]?\d+(?:\.(?P<decimals>\d+))?)(?:e(?P<exponent>[-+]?\d+))?"
)
table_of = cache(read_table)


class NoRow(Exception):
    """Not one row of a file is the one that is quoted, or its scores have no pairs."""


class Number(NamedTuple):
    """A number as it is written: its value, the size of its last digit, and whether it is an upper bound."""

    value: float
    unit: float
    below: bool


class Source(NamedTuple):
    """Where the numbers of a table are from; ``whole``: the table has to have all rows of the file."""

    file: str
    where: Mapping[str, Any]
    cells: Mapping[str, Any]
    names: Mapping[str, Any]
    whole: bool = False


def numbers(text: str) -> list[Number]:
    """Return the numbers in a text; a minus may be a hyphen or the sign U+2212."""
    return [number_of(match) for match in NUMBER.finditer(text.replace("−", "-"))]


def number_of(match: re.Match[str]) -> Number:
    """Return the number that `NUMBER` has found."""
    exponent = int(match["exponent"] or 0)
    unit = 10.0 ** (exponent - len(match["decimals"] or ""))
    return Number(float(f"{match['digits']}e{exponent}"), unit, match["below"] is not None)


def agrees(shown: Number, known: Number) -> bool:
    """Return whether a number is the other one, rounded to its digits, or a bound that it keeps.

    What is a bound in the file is the same bound here.
    """
    if known.below:
        return shown.below and shown.value == known.value
    if shown.below:
        return known.value <= shown.value
    return abs(shown.value - known.value) <= 0.5 * shown.unit * (1 + 1e-9)


def read_source(text: str, header: Sequence[str]) -> Source:
    """Return what a comment says of its table."""
    if text.startswith(PLAIN):
        plain, some, _ = text[len(PLAIN) :].partition(SOME)
        file, _, told = plain.strip().partition(" by ")
        keys = [key.strip() for key in told.split(",")] if told else header[:1]
        own = {name: [name] for name in header if name not in keys}
        return Source(file.strip(), {key: f"{{{key}}}" for key in keys}, own, {}, not some)
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
        elif shown or source.whole:
            told = source.cells[column]
            told = told if isinstance(told, Mapping) else {"take": told}
            try:
                expected = _expected(folder, source, told, names | {"column": column})
                # Of a difference the words are the page's: "+0.1 ± 0.2".
                same = _is(shown, expected) and (
                    "minus" in told or len(expected) > 1 or _words(shown) == _words(*expected)
                )
                said = None if same else f"{shown!r} is not {', '.join(expected)}"
            except NoRow as error:
                said = str(error)
            yield from [f"{column!r}: {said}"] if said else []


def _expected(folder: Path, source: Source, told: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return what the file has for a cell, given what stands for the braces of its source.

    Raises:
        NoRow: see there.
    """
    take = [name.format_map(known) for name in told["take"]]
    first = _row(folder, source, told.get("file"), told.get("where", {}), known)
    if "minus" not in told:
        return [_value(first, name) for name in take]
    minus = dict(told["minus"])
    second = _row(folder, source, minus.pop("file", told.get("file")), minus, known)
    return [_paired(first.get(name, ""), second.get(name, "")) for name in take]


def _row(
    folder: Path, source: Source, file: str | None, where: Mapping[str, Any], known: Mapping[str, Any]
) -> Mapping[str, str]:
    """Return the row of a file, that of the table by default, with these values and those of the table."""
    path = str(file or source.file).format_map(known)
    conditions = {key: str(value).format_map(known) for key, value in {**source.where, **where}.items()}
    found = [
        row
        for row in table_of(folder / path)
        if all(_same(row.get(key, ""), value) for key, value in conditions.items())
    ]
    if len(found) != 1:
        raise NoRow(f"{len(found)} rows with {conditions} ({path})")
    return found[0]


def _value(row: Mapping[str, str], column: str) -> str:
    """Return a column of a row, or the difference of two."""
    first, minus, second = column.partition(" - ")
    if column in row or not minus:
        return row.get(column, "")
    return repr(float(row[first]) - float(row[second]))


def _paired(first: str, second: str) -> str:
    """Return mean and half of the 95% interval of the differences of two lists with a score per seed."""
    sides = [dict(enumerate(map(float, side.split()))) for side in (first, second)]
    found = compare("", ("", sides[0]), ("", sides[1])).difference
    if found is None or found.half_width is None or len(sides[0]) != len(sides[1]):
        raise NoRow(f"no pairs of scores: {first!r}, {second!r}")
    return f"{float(found.mean)!r} {float(found.half_width)!r}"


def _is(shown: str, expected: Sequence[str]) -> bool:
    """Return whether a cell has the numbers of these texts, or, where they have none, their words."""
    known, given = ([n for text in texts for n in numbers(text)] for texts in (expected, [shown]))
    if not known:
        return shown.strip("*") == " ".join(expected)
    return len(given) == len(known) and all(map(agrees, given, known))


def _words(text: str) -> str:
    """Return what is around the numbers of a cell, without what emphasises it."""
    return NUMBER.sub("#", text.replace("−", "-")).strip("*")


def _named(names: Mapping[Any, Any] | None, cell: str) -> Any:
    """Return what stands for the content of a cell: by its text, or by its number."""
    return cell if names is None else {str(key): value for key, value in names.items()}.get(cell, cell)


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
