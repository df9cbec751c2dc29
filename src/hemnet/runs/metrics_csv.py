"""metrics.csv of a run: a row for each optimizer step at which something was logged.

Shapes: S steps at which a metric was logged.
"""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import repr as shown

import numpy as np

from hemnet.storage.files import read_cells, read_table, write_records


def read(path: Path) -> list[dict[str, float]]:
    """Return the rows in order, each without its empty cells; [] if there is no file.

    Raises:
        ValueError: a cell is not a number, or a row has more or fewer cells than the heading. The last may
            have fewer, since a process that is killed leaves it so, see `is_cut`.
    """
    try:
        table = read_cells(path)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    short = [row for row in table if None in row.values()]
    if short and (short[0] is not table[-1] or not is_cut(path)):
        raise ValueError("a row has fewer cells than the heading: it was cut short")
    rows = []
    for row in table:
        try:
            rows.append({key: float(value) for key, value in row.items() if value})
        except (TypeError, ValueError) as error:  # a cell beyond the heading is in a list
            raise ValueError(f"a row is not of numbers under a heading each: {shown(row)}") from error
    return rows


def is_cut(path: Path) -> bool:
    """Return whether the last row lacks its end: the writing process was killed, or the disk was full."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read() not in (b"", b"\n")


def curves(rows: Sequence[dict[str, float]], wanted: Callable[[str], object] = bool) -> dict[str, np.ndarray]:
    """Return the rows by metric.

    Args:
        rows: as `read` returns them.
        wanted: takes a metric's name and returns whether to include it; by default all are included.

    Returns:
        (S, 2) float64 per metric: optimizer step and value at the S steps where it was logged.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and "step" in row and wanted(name):
                points.setdefault(name, []).append((row["step"], value))
    return {name: np.array(found) for name, found in points.items()}


def forget_from(path: Path, step: int) -> None:
    """Remove the rows of ``step`` and later ones, and the file if none is left."""
    rows = read_table(path)
    if rows and is_cut(path):
        rows.pop()
    kept = [row for row in rows if int(row["step"]) < step]
    if not kept:
        path.unlink(missing_ok=True)
        return
    write_records(path, sorted(set().union(*kept)), kept)
