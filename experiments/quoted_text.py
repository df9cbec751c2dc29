"""The numbers in the text of a page, and where each of them should be; see experiments/quoted.py."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from quoted_cells import NUMBER, Number, agrees, number_of, numbers, table_of

LEAST_DIGIT = 0.011  # a number whose last digit is worth less is rounded, and has to be a file's
IN_THE_TEXT = re.compile(r"<!--\s*(in the text|not quoted)\s*:(.*?)-->", re.DOTALL)
FILE = re.compile(r"\s*([^\s\[,]+)\s*(?:\[([^\]]*)\])?\s*(?:,|\Z)")
# Comments, code and the targets of links.
NO_TEXT = re.compile(r"<!--[\s\S]*?-->|`[^`\n]*`|\]\([^)\n]*\)")


def blank(text: str) -> str:
    """Return as many spaces as a text has letters, in its lines."""
    return re.sub(r"[^\n]", " ", text)


def text_problems(folder: Path, section: str, shown: Sequence[Number]) -> Iterator[tuple[int, str]]:
    """Yield the position in a section, and what is wrong, of each number of its text that is nowhere else.

    Args:
        folder: of the page.
        section: its Markdown, tables left blank.
        shown: the numbers of the quoted tables.
    """
    section = section.replace("−", "-")
    known = [*shown]
    for what, said in IN_THE_TEXT.findall(section):
        known += numbers(said) if what == "not quoted" else _of_files(folder, said)
    words = NO_TEXT.sub(lambda match: blank(match[0]), section)
    for match in NUMBER.finditer(words):
        number, said = number_of(match), match[0]
        if percent := re.match(r"\s?%", words[match.end() :]):
            number, said = Number(number.value / 100, number.unit / 100, number.below), said + percent[0]
        stands = any(agrees(number, each) and number.below == each.below for each in known)
        if number.unit < LEAST_DIGIT and not stands:
            yield match.start(), f"{said} is in no quoted table of its section"


def _of_files(folder: Path, said: str) -> list[Number]:
    """Return the numbers in the columns of CSV files that a comment names, and in other files whole."""
    found: list[Number] = []
    for file, columns in FILE.findall(said):
        if not columns:
            found += numbers((folder / file).read_text("utf-8"))
            continue
        rows = table_of(folder / file)
        names = [name.strip() for name in columns.split(",")]
        if missing := [name for name in names if not any(name in row for row in rows)]:
            raise ValueError(f"{file} has no column {', '.join(missing)}")
        found += [number for row in rows for name in names for number in numbers(row.get(name, ""))]
    return found
