"""Where the results of evaluations are in a run directory.

RUN/evaluation/NAME/ holds the result.json, classes.csv, images.csv, confusion.png and worst.png of one
evaluation, and the same files in T<n>/ for one with n EM iterations. `folder_name` makes NAME.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.identity import below, job_name
from hemnet.runs.run import RESULT, Checkpoint
from hemnet.storage.files import read_json, write_table

FOLDER = "evaluation"
# Configuration keys that change which images are evaluated, or what is done to them.
IMAGES = ("data.val", "data.eval_transform")


def folder_name(which: Checkpoint, inference: Sequence[str] = (), assignments: Sequence[str] = ()) -> str:
    """Return the folder's name for an evaluation: all that its scores depend on besides the run.

    Args:
        which: the checkpoint.
        inference: the inference options that differ from plain inference, see `Inference.settings`.
        assignments: ``key=value`` changes to the configuration. Those below `IMAGES`, such as the split, are
            part of the name, except ``data.*.root``: a data set is assumed to be the same wherever it is.
    """
    keys = {assignment: assignment.partition("=")[0] for assignment in assignments}
    changed = [a for a, key in keys.items() if below(key, IMAGES) and not key.endswith(".root")]
    return "-".join([which, *inference, *([job_name(changed)] if changed else [])])


def at_iterations(folder: Path, iterations: int | None) -> Path:
    """Return the folder of the evaluation with T iterations; None stands for the T of the run."""
    return folder if iterations is None else folder / f"T{iterations}"


def read_results(folder: Path, checkpoint: Path) -> dict[int | None, dict[str, Any]]:
    """Return the result.json of each evaluation in a folder, by T; key None has the T of the run.

    Results whose checkpoint had another hash than ``checkpoint`` has are left out. If no hash is
    recorded there, all results are returned.
    """
    depths = sorted(int(path.name[1:]) for path in folder.glob("T*") if path.name[1:].isdecimal())
    found = {T: read_json(at_iterations(folder, T) / RESULT) for T in (None, *depths)}
    known = fingerprint(checkpoint)
    return {
        T: result for T, result in found.items()
        if result.get("metrics") and known in (None, result.get("checkpoint_sha256"))
    }  # fmt: skip


def results_of(
    run: Path, which: Checkpoint = "last", inference: Sequence[str] = (), assignments: Sequence[str] = ()
) -> dict[int | None, dict[str, Any]]:
    """Return what `read_results` does of a run directory's evaluations of one kind, see `folder_name`."""
    folder = run / FOLDER / folder_name(which, inference, assignments)
    return read_results(folder, run / "checkpoints" / f"{which}.ckpt")


def write_iterations(folder: Path, checkpoint: Path, keys: Sequence[str]) -> None:
    """Write iterations.csv: a row for each T with a result in the folder, also from earlier evaluations."""
    rows = [
        [T, *(cell(result["metrics"].get(key)) for key in keys)]
        for T, result in read_results(folder, checkpoint).items()
        if T is not None
    ]
    write_table(folder / "iterations.csv", ["iterations", *keys], rows)


def cell(score: float | None) -> str:
    """Return the table cell for a score, empty for None or NaN: a class or image that has no score."""
    return "" if score is None or math.isnan(score) else f"{score:.6f}"
