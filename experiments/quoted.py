"""Compare the numbers of a Markdown page with the CSV files that they are quoted from.

    python experiments/quoted.py [PAGE ...]            # experiments/FINDINGS*.md
    python experiments/quoted.py [PAGE ...] --write    # first replaces the rows of tables by their file's

Before each table stands a comment that says where its numbers are from. If the columns have the names of the
CSV file's, the first one tells the rows apart and the table has them all, it is

    <!-- quoted: results/study/primary.csv -->

where several columns tell them apart, ``<!-- quoted: results/study/e_step.csv by setting, t -->``, where rows
are left out, ``<!-- quoted: results/study/e_step.csv; some rows -->``, and otherwise YAML:

    <!-- quoted
    file: results/study/{set[name]}_gradient_halfway.csv
    names: {set: {CamVid: {name: camvid}}}      # what stands for the content of a cell below
    where: {T: "{T}", phase: end}               # the row of the CSV file, with the row's cells in braces
    cells:
      h = 0: [this h, p]                        # the columns of the numbers in a cell, in their order
      h = 0.5: {where: {h: 0.5}, take: [mIoU, mIoU high - mIoU]}    # a further condition; a difference
      gain: {where: {h: 0.5}, minus: {h: 0}, take: [scores]}        # mean and half of the 95% interval of the
    -->                                         # paired differences of `scores`, one per seed, with spaces

A cell may have a ``file`` of its own, so may ``minus``, and a cell may be empty. ``each: ...`` in the place
of ``cells`` holds for every column but the first; ``{column}`` is its name there. The columns that are not
under ``cells`` say which row is meant: each has to be in braces somewhere. A table without such a file says
why: ``<!-- not quoted: reason -->``. A number agrees if it is the file's, rounded to the digits shown.

In the text, a number with two decimals or more (4 % is 0.04) has to be in a quoted
table of its ``##`` section (before the first ``##``: of the page), in a file that a comment of the section
names, whole or by columns, ``<!-- in the text: FILE [COLUMN, COLUMN], FILE -->``, or in a comment of the
section that says why it is in none, ``<!-- not quoted: 4.16 is log 64 -->``. Code in
backticks is no text. That finds numbers that are nowhere, and not one that stands for another of the section.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from quoted_cells import PLAIN, Number, Source, numbers, read_source, row_problems, table_of
from quoted_text import text_problems

from hemnet.storage.files import replacing

PAGES = sorted(Path(__file__).parent.glob("FINDINGS*.md"))
SECTION = re.compile(r"^## ", re.MULTILINE)
TABLE = re.compile(r"^\|.*\n\|[-:| ]+\n(?:\|.*\n?)*", re.MULTILINE)
# The second line of whatever may be shown as a table.
RULE = re.compile(r"^[\s>]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*$", re.MULTILINE)
COMMENT = re.compile(r"<!--\s*(not quoted|quoted)((?:(?!-->).)*)-->\s*\Z", re.DOTALL)


def problems(page: Path) -> Iterator[str]:
    """Yield what is wrong with the numbers of a page, and nothing if all of them are the files'."""
    text = page.read_text("utf-8")
    sections = [*pairwise([0, *(match.start() for match in SECTION.finditer(text)), len(text)])]
    tables = [(table, comment_of(table)) for table in TABLE.finditer(text)]
    for rule in RULE.finditer(text):
        if not any(table.start() < rule.start() < table.end() for table, _ in tables):
            yield f"{page.name}:{_line(text, rule.start())}: begin and end each line of a table with |"
    for table, comment in tables:
        yield from table_problems(page, _line(text, table.start()), table[0], comment)
    for begin, end in sections:
        own = [pair for pair in tables if begin <= pair[0].start() < end]
        known = [number for pair in (own if begin else tables) for number in shown_in(*pair)]
        try:
            for position, said in text_problems(page.parent, text[begin:end], known):
                yield f"{page.name}:{_line(text, begin + position)}: {said}"
        except ValueError as error:
            yield f"{page.name}:{_line(text, begin)}: a comment of this section: {error}"


def comment_of(table: re.Match[str]) -> re.Match[str] | None:
    """Return the comment that stands before a table of a page."""
    return COMMENT.search(table.string[: table.start()])


def shown_in(table: re.Match[str], comment: re.Match[str] | None) -> list[Number]:
    """Return the numbers in the cells of a table that are compared with a file's."""
    if comment is None or comment[1] != "quoted":
        return []
    header, rows = _cells(table[0])
    try:
        columns = read_source(comment[2], header).cells
    except (yaml.YAMLError, LookupError, ValueError, TypeError, AttributeError):
        return []  # `table_problems` says what is wrong
    return [
        number
        for row in rows
        for column, cell in zip(header, row, strict=False)
        if column in columns
        for number in numbers(cell)
    ]


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _cells(table: str) -> tuple[list[str], list[list[str]]]:
    """Return the header of a table and its rows, in whose cells a backslash may stand before a bar."""
    lines = (
        re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
        for line in table.splitlines()
    )
    header, _, *rows = ([cell.strip().replace(r"\|", "|") for cell in line] for line in lines)
    return header, rows


def table_problems(page: Path, line: int, table: str, comment: re.Match[str] | None) -> Iterator[str]:
    """Yield what is wrong with a table, which begins in this line, and the comment before it."""
    header, rows = _cells(table)
    if comment is None:
        yield f"{page.name}:{line}: no comment says which file the table is quoted from"
    elif comment[1] == "not quoted":
        if not comment[2].strip(": \n"):
            yield f"{page.name}:{line}: a table that is not quoted gives no reason"
    else:
        try:
            for further, said in quoted_problems(page.parent, read_source(comment[2], header), header, rows):
                yield f"{page.name}:{line + further}: {said}"
        except (yaml.YAMLError, LookupError, ValueError, TypeError, AttributeError) as error:
            yield f"{page.name}:{line}: the comment cannot be understood: {error!r}"


def quoted_problems(
    folder: Path, source: Source, header: list[str], rows: list[list[str]]
) -> Iterator[tuple[int, str]]:
    """Yield the line of a table, from 0, and what is wrong there, compared with its source."""
    for what, lines in (("columns", header), ("rows", [*map(tuple, rows)])):
        if len({*lines}) != len(lines):
            yield 0, f"two {what} are the same"
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            yield number, f"{len(row)} cells under {len(header)} columns"
            continue
        for said in row_problems(folder, source, dict(zip(header, row, strict=True))):
            yield number, said
    if source.whole and len(rows) != (known := len(table_of(folder / source.file))):
        yield 0, f"{len(rows)} of the {known} rows of {source.file}"


def rewritten(page: Path) -> str:
    """Return a page whose tables that have all of their file have what is in the file now."""

    def of_file(table: re.Match[str]) -> str:
        comment = comment_of(table)
        if comment is None or comment[1] != "quoted" or not comment[2].startswith(PLAIN):
            return table[0]
        header, _ = _cells(table[0])
        source = read_source(comment[2], header)
        with (page.parent / source.file).open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        if not source.whole or not {*header} <= {*columns}:
            return table[0]
        rows = (
            [row.get(name, "").replace("|", r"\|") for name in header]
            for row in table_of(page.parent / source.file)
        )
        lines = table[0].splitlines(keepends=True)[:2]
        return "".join([*lines, *(f"| {' | '.join(row)} |\n" for row in rows)])

    return TABLE.sub(of_file, page.read_text("utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is wrong, and end with status 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, metavar="PAGE")
    parser.add_argument("--write", action="store_true", help="first update the tables that are whole files")
    options = parser.parse_args(arguments)
    try:
        for page in options.pages if options.write else ():
            text = rewritten(page)
            with replacing(page) as part:
                part.write_text(text, "utf-8")
        found = [said for page in options.pages for said in problems(page)]
    except (OSError, UnicodeDecodeError) as error:
        said = "a page, or a file that it quotes, cannot be read or written"
        sys.exit(f"{said} ({error}): name Markdown files, and in them files that exist")
    print("\n".join(found) or "every number is that of its file")
    sys.exit(int(bool(found)))


if __name__ == "__main__":
    main()
