"""metrics.csv of a run: a row for each optimizer step at which something was logged.

Shapes: S steps at which a metric was logged.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hemnet.storage.files import read_table, write_records


def read(path: Path) -> list[dict[str, float]]:
    """Return the rows in order, each without its empty cells; [] if there is no file.

    Raises:
        ValueError: a cell is not a number.
    """
    return [{key: float(value) for key, value in row.items()} for row in read_table(path)]


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
    if rows and not path.read_bytes().endswith(b"\n"):
        rows.pop()  # incomplete: the process was killed while it wrote this row, or the disk was full
    kept = [row for row in rows if int(row["step"]) < step]
    if not kept:
        path.unlink(missing_ok=True)
        return
    write_records(path, sorted(set().union(*kept)), kept)
