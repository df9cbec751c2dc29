"""The tables of experiments/study.py: one and the same as Markdown and as a CSV file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hemnet.report.estimates import Estimate
from hemnet.storage.files import write_table


class Table(NamedTuple):
    """A table of the page; ``name`` is that of its CSV file, and its text is Markdown."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

    def write(self, folder: Path) -> None:
        """Write the CSV file."""
        write_table(folder / f"{self.name}.csv", self.header, self.rows)


def slug(title: str) -> str:
    """Return a title as the name of a file: ``T_eval, h = 0.5`` as ``t_eval_h_0_5``."""
    words = title.lower().replace("β", "beta").replace("σ²", "variance")
    return re.sub(r"[^a-z0-9]+", "_", words).strip("_")


def mean_and_interval(found: Estimate | None, signed: bool = False) -> list[str]:
    """Return two cells, the mean and its interval."""
    if found is None:
        return ["", ""]
    interval = "" if found.low is None or found.high is None else to_text((found.low, found.high), signed)
    return [f"{found.mean:{'+' if signed else ''}.4f}", interval]


def to_text(interval: tuple[float, float] | None, signed: bool = True) -> str:
    """Return an interval as a cell."""
    sign = "+" if signed else ""
    return "" if interval is None else " to ".join(f"{end:{sign}.4f}" for end in interval)
