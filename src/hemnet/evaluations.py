"""What evaluations leave in a run, and how they are found again.

RUN/evaluation/NAME/ holds one evaluation, and in folders T<n> those with n EM iterations: result.json,
classes.csv, images.csv, confusion.png and worst.png of each. NAME says what was evaluated, see `folder_name`.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from hemnet.callbacks.evaluation_record import EvaluationRecord
from hemnet.checkpoints import fingerprint
from hemnet.data import DatasetSpec
from hemnet.figures import confusion_figure, predictions_page
from hemnet.files import write_table
from hemnet.identity import below, job_name
from hemnet.inference import PLAIN, Inference
from hemnet.metrics import iou, recall
from hemnet.runs import Checkpoint, result_at, write_json

FOLDER = "evaluation"
# Changes to a run's configuration under which its network sees other images, or sees them otherwise.
IMAGES = ("data.val", "data.eval_transform")


def folder_name(which: Checkpoint, inference: Inference, assignments: Sequence[str] = ()) -> str:
    """Return a name for all that an evaluation's scores depend on, as far as it is not the run's own.

    Args:
        which: the checkpoint.
        inference: each way in which it is not plain is named.
        assignments: ``key=value`` changes; those of `IMAGES`, such as the split, are named. Where a data set
            lies is not: it is taken for the same everywhere.
    """
    parts: list[str] = [which]
    for item in fields(inference):
        value, default = getattr(inference, item.name), getattr(PLAIN, item.name)
        if isinstance(value, Sequence):
            value, default = tuple(value), default and tuple(default)
        if value == default:
            continue
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        parts += [item.name, *(f"{number:g}" for number in values)]
    keys = {assignment: assignment.partition("=")[0] for assignment in assignments}
    changed = [a for a, key in keys.items() if below(key, IMAGES) and not key.endswith(".root")]
    return "-".join([*parts, *([job_name(changed)] if changed else [])])


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


def write_report(place: Path, result: dict[str, Any], record: EvaluationRecord, spec: DatasetSpec) -> None:
    """Write the files of one evaluation; result.json last, so that it stands for all of them."""
    place.mkdir(parents=True, exist_ok=True)
    matrix = torch.from_numpy(record.matrix)
    columns = zip(
        spec.classes, iou(matrix).tolist(), recall(matrix).tolist(), record.matrix.sum(1), strict=True
    )
    rows = [[name, _cell(iou_k), _cell(recall_k), pixels] for name, iou_k, recall_k, pixels in columns]
    write_table(place / "classes.csv", ["class", "iou", "accuracy", "pixels"], rows)
    images = [[score.name, _cell(score.miou), _cell(score.pixel_accuracy)] for score in record.images]
    write_table(place / "images.csv", ["image", "miou", "pixel_accuracy"], images)
    confusion_figure(record.matrix, spec, place / "confusion.png")
    (place / "worst.png").unlink(missing_ok=True)  # that of an evaluation before
    if record.rows:
        predictions_page(record.rows, spec, place / "worst.png")
    write_json(place / "result.json", result)


def write_iterations(folder: Path, checkpoint: Path, keys: Sequence[str]) -> None:
    """Write iterations.csv: a row for each T that a folder has, those of earlier evaluations too."""
    rows = [
        [T, *(_cell(result["metrics"].get(key)) for key in keys)]
        for T, result in read_results(folder, checkpoint).items()
        if T is not None
    ]
    write_table(folder / "iterations.csv", ["iterations", *keys], rows)


def _cell(score: float | None) -> str:
    """Return a score, or an empty cell for a class or image that has none."""
    return "" if score is None or math.isnan(score) else f"{score:.6f}"
