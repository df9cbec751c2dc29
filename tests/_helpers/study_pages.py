"""Fake runs of the study, and the page that experiments/study.py makes of them."""

from collections.abc import Sequence
from pathlib import Path

import study
from _helpers.fake_runs import write_run

from hemnet.runs.stored_config import PARTS

ROWS = [{"step": 0, "val/miou": 0.0}]
PRIMARY = "h = 0.5, T = 3, Eq. 8 against h = 0, T = 3, Eq. 8"
GAINS = (0.01, 0.02, 0.03, 0.02, 0.01, 0.03, 0.02, 0.02)
"""Of the primary contrast: mean 0.02; squared deviations sum to 4e-4."""


def at(family: str, values: Sequence[float], step: int = 0) -> dict[str, float]:
    return {"step": step} | {f"{family}/{t:02d}": value for t, value in enumerate(values)}


def write(
    root: Path,
    seed: int,
    miou: float | None = 0.5,
    *,
    head: str = "hem",
    rows=ROWS,
    name="",
    **keys,
) -> Path:
    """Write a run; ``keys`` are those of the head, or with two underscores for a dot any others."""
    label = "_".join([head, *(f"{key}-{value}" for key, value in keys.items()), f"s{seed}", name])
    dotted = {key.replace("__", ".") if "__" in key else f"model.head.{key}": v for key, v in keys.items()}
    overrides = () if head == "hem" else (f"model/head={head}",)
    about = {"seed": seed, "miou": miou, "rows": rows, "keys": dotted}
    return write_run(root / label, overrides, **about, parts=("sweep", *PARTS))


def write_primary(root: Path, gains: Sequence[float] = GAINS, half=ROWS, none=ROWS) -> None:
    for seed, gain in enumerate(gains):
        write(root, seed, 0.5 + 0.05 * seed + gain, rows=half)
        write(root, seed, 0.5 + 0.05 * seed, rows=none, highway_scale=0.0)


def page(*folders: Path) -> str:
    return "\n".join(map(str, study.study(folders, "synthetic_hem")))


def cells(text: str, begins: str) -> list[str]:
    """The cells of the one row that begins so, without the first."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {begins} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]
