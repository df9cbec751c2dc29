"""Compare the numbers of a Markdown page with the CSV files that they are quoted from.

    python experiments/quoted.py [PAGE ...]            # FINDINGS*.md, and the other pages that state results
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
why: ``<!-- not quoted: reason -->``; if the reason begins with ``words``, what is said below of the text
holds for the table. A number agrees if it is the file's, rounded to the digits shown.

In the text, a number with two decimals or more (4 % is 0.04) has to be in a quoted table of its ``##``
section (before the first ``##``: of the page), in a file that a comment of the section names, whole or by
columns, ``<!-- in the text: FILE [COLUMN, COLUMN], FILE -->``, or in a comment of the section that says why
it is in none, ``<!-- not quoted: 4.16 is log 64 -->``. Code in backticks is no text. That finds numbers that
are nowhere, and not one that stands for another of the section.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import yaml
from quoted_cells import Number, Source, numbers, read_source, row_problems, table_of
from quoted_text import blank, text_problems

from hemnet.storage.files import replacing

HERE = Path(__file__).resolve().parent
FINDINGS = sorted(HERE.glob("FINDINGS*.md"))
PAGES = [*FINDINGS, HERE / "results/README.md", HERE.parent / "README.md", HERE.parent / "docs/method.md"]
SECTION = re.compile(r"^## ", re.MULTILINE)
TABLE = re.compile(r"^\|.*\n\|[-:| ]+\n(?:\|.*\n?)*", re.MULTILINE)
# The second line of whatever may be shown as a table.
RULE = re.compile(r"^[\s>]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*$", re.MULTILINE)
COMMENT = re.compile(r"<!--\s*(not quoted|quoted)((?:(?!-->).)*)-->\s*\Z", re.DOTALL)
# What a comment that says something else than the docstring allows ends in.
MISTAKES = (yaml.YAMLError, LookupError, ValueError, TypeError, AttributeError)
NEWLINE = "\n"


class Table(NamedTuple):
    """A table of a page: where it begins and ends, its cells, and the source that its comment names.

    ``wrong`` is what is wrong with that comment; a table that is not quoted, with a reason, has neither, and
    is text if it ``is_text``.
    """

    begin: int
    end: int
    header: list[str]
    rows: list[list[str]]
    source: Source | None = None
    wrong: str = ""
    is_text: bool = False

    def shown(self) -> Iterator[Number]:
        """Yield the numbers in the cells that are compared with a file's."""
        for row in self.rows if self.source else ():
            for column, cell in zip(self.header, row, strict=False):
                if column in self.source.cells:
                    yield from numbers(cell)


def table_in(found: re.Match[str]) -> Table:
    """Return the table that `TABLE` has found; a cell may have a bar after a backslash."""
    lines = (
        re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
        for line in found[0].splitlines()
    )
    header, _, *rows = ([cell.strip().replace(r"\|", "|") for cell in line] for line in lines)
    table = Table(*found.span(), header, rows)
    comment = COMMENT.search(found.string[: found.start()])
    if comment is None:
        return table._replace(wrong="no comment says which file the table is quoted from")
    if comment[1] == "not quoted":
        reason = comment[2].strip(": \n")
        wrong = "" if reason else "a table that is not quoted gives no reason"
        return table._replace(wrong=wrong, is_text=reason.startswith("words"))
    try:
        return table._replace(source=read_source(comment[2], header))
    except MISTAKES as error:
        return table._replace(wrong=f"the comment cannot be understood: {error!r}")


def problems(page: Path) -> Iterator[str]:
    """Yield what is wrong with the numbers of a page, and nothing if all of them are the files'."""
    text = page.read_text("utf-8")
    name = page.relative_to(HERE.parent) if page.is_relative_to(HERE.parent) else page.name
    for at, said in page_problems(page.parent, text):
        yield f"{name}:{text[:at].count(NEWLINE) + 1}: {said}"


def page_problems(folder: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield the position in a page, and what is wrong there."""
    tables = [table_in(found) for found in TABLE.finditer(text)]
    for rule in RULE.finditer(text):
        if not any(table.begin < rule.start() < table.end for table in tables):
            yield rule.start(), "begin and end each line of a table with |"
    for table in tables:
        yield from [(table.begin, table.wrong)] if table.wrong else table_problems(folder, table, text)
    plain = text
    for table in (table for table in tables if not table.is_text):
        plain = plain[: table.begin] + blank(text[table.begin : table.end]) + plain[table.end :]
    starts = [0, *(match.start() for match in SECTION.finditer(text)), len(text)]
    for begin, end in pairwise(starts):
        own = [table for table in tables if begin <= table.begin < end]
        known = [number for table in (own if begin else tables) for number in table.shown()]
        try:
            for at, said in text_problems(folder, plain[begin:end], known):
                yield begin + at, said
        except ValueError as error:
            yield begin, f"a comment of this section: {error}"


def table_problems(folder: Path, table: Table, text: str) -> Iterator[tuple[int, str]]:
    """Yield the position in a page, and what is wrong there, of a table that is compared with its source."""
    source, header, rows = table.source, table.header, table.rows
    if source is None:
        return
    for what, lines in (("columns", header), ("rows", [*map(tuple, rows)])):
        if len({*lines}) != len(lines):
            yield table.begin, f"two {what} are the same"
    at = text.index("\n", text.index("\n", table.begin) + 1) + 1
    try:
        for row in rows:
            if len(row) != len(header):
                yield at, f"{len(row)} cells under {len(header)} columns"
            else:
                for said in row_problems(folder, source, dict(zip(header, row, strict=True))):
                    yield at, said
            at = text.find("\n", at) + 1
        if source.whole and len(rows) != (known := len(table_of(folder / source.file))):
            yield table.begin, f"{len(rows)} of the {known} rows of {source.file}"
    except MISTAKES as error:
        yield table.begin, f"the comment cannot be understood: {error!r}"


def rewritten(page: Path) -> str:
    """Return a page whose tables that have all of their file have what is in the file now."""

    def of_file(found: re.Match[str]) -> str:
        table = table_in(found)
        if table.source is None or not table.source.whole:
            return found[0]
        path = page.parent / table.source.file
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        if not {*table.header} <= {*columns}:
            return found[0]
        rows = ([row.get(name, "").replace("|", r"\|") for name in table.header] for row in table_of(path))
        lines = found[0].splitlines(keepends=True)[:2]
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
