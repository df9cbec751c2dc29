"""What evaluations leave in a run, and how they are found again.

RUN/evaluation/NAME/ holds one evaluation, and in folders T<n> those with n EM iterations: result.json,
classes.csv, images.csv, confusion.png and worst.png of each. NAME says what was evaluated, see `folder_name`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.identity import below, job_name
from hemnet.runs.run import Checkpoint, result_at
from hemnet.storage.files import write_table

FOLDER = "evaluation"
# Changes to a run's configuration under which its network sees other images, or sees them otherwise.
IMAGES = ("data.val", "data.eval_transform")


def folder_name(which: Checkpoint, inference: Sequence[str] = (), assignments: Sequence[str] = ()) -> str:
    """Return a name for all that an evaluation's scores depend on, as far as it is not the run's own.

    Args:
        which: the checkpoint.
        inference: how the network was run, as far as it was not plain: see `Inference.settings`.
        assignments: ``key=value`` changes; those of `IMAGES`, such as the split, are named. Where a data set
            lies is not: it is taken for the same everywhere.
    """
    keys = {assignment: assignment.partition("=")[0] for assignment in assignments}
    changed = [a for a, key in keys.items() if below(key, IMAGES) and not key.endswith(".root")]
    return "-".join([which, *inference, *([job_name(changed)] if changed else [])])


def at_iterations(folder: Path, iterations: int | None) -> Path:
    """Return where the evaluation with T iterations is in a folder; None stands for the run's own T."""
    return folder if iterations is None else folder / f"T{iterations}"


def read_results(folder: Path, checkpoint: Path) -> dict[int | None, dict[str, Any]]:
    """Return the result.json of each evaluation in a folder by its T, None for that with the run's own T.

    Those of a checkpoint that another has since replaced are left out. A ``checkpoint`` that is gone replaces
    nothing.
    """
    found: dict[int | None, dict[str, Any]] = {None: result_at(folder)}
    depths = sorted(int(path.name[1:]) for path in folder.glob("T*") if path.name[1:].isdecimal())
    found |= {T: result_at(at_iterations(folder, T)) for T in depths}
    known = fingerprint(checkpoint)
    return {
        T: result for T, result in found.items()
        if result.get("metrics") and known in (None, result.get("checkpoint_sha256"))
    }  # fmt: skip


def write_iterations(folder: Path, checkpoint: Path, keys: Sequence[str]) -> None:
    """Write iterations.csv: a row for each T that a folder has, those of earlier evaluations too."""
    rows = [
        [T, *(cell(result["metrics"].get(key)) for key in keys)]
        for T, result in read_results(folder, checkpoint).items()
        if T is not None
    ]
    write_table(folder / "iterations.csv", ["iterations", *keys], rows)


def cell(score: float | None) -> str:
    """Return a score, or an empty cell for a class or image that has none."""
    return "" if score is None or math.isnan(score) else f"{score:.6f}"
