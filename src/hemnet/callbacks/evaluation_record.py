"""Collects what the report of an evaluation shows: all scores and the worst images, over all ranks.

Shapes: K classes; C_KK the confusion matrix of `hemnet.training.metrics`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from hemnet.data import Batch, DatasetSpec, denormalize
from hemnet.figures.predictions import Row, predictions_page
from hemnet.figures.scores import confusion_figure
from hemnet.processes.ranks import all_ranks
from hemnet.runs.evaluations import COUNTS, cell
from hemnet.runs.run import RESULT
from hemnet.storage.files import replacing_in, write_json, write_table
from hemnet.training.metrics import confusion, iou, mean_iou, pixel_accuracy, recall
from hemnet.training.task import SegmentationTask

TakeMask = Callable[[str, np.ndarray, DatasetSpec], None]


class ImageScore(NamedTuple):
    """Scores of one image, from its own confusion matrix; NaN if no pixel counts.

    ``miou`` is the mean over the classes that occur in this image's truth or prediction. It serves to order
    images; its mean over images is not the mIoU of the split. ``counts`` are those of `class_counts`, from
    which the scores of the split, or of any other choice of its images, can be added up.
    """

    miou: float
    name: str
    pixel_accuracy: float
    counts: tuple[tuple[int, ...], ...]


def class_counts(C_KK: Tensor) -> tuple[tuple[int, ...], ...]:
    """Return class, pixels in truth and prediction, in either, and in the truth, of each class in either."""
    hit_K, truth_K = C_KK.diagonal(), C_KK.sum(1)
    either_K = truth_K + C_KK.sum(0) - hit_K
    found = torch.stack([torch.arange(len(C_KK)), hit_K, either_K, truth_K], dim=1)
    return tuple(tuple(row) for row in found[found[:, 2] > 0].tolist())


class EvaluationRecord(pl.Callback):
    """Keeps the matrix of a split, the score of each image, and the worst images; the same on every rank.

    Args:
        worst: how many of the worst images to keep with their truth and prediction.
        masks: takes each image's name, its predicted classes, (H, W) uint8 at the size of the labels, and
            what the classes are, on the rank that has the image.
        origin: written inside each picture, see `hemnet.figures.save`.

    Attributes:
        matrix: C_KK, int64, of the last evaluation.
        images: the score of each image, lowest first, images without a score last.
        rows: the worst images, worst first, with the score in the name.
    """

    def __init__(self, worst: int = 0, masks: TakeMask | None = None, origin: str = "{}") -> None:
        self.worst, self.masks, self.origin = worst, masks, origin
        self._begin()

    def _begin(self) -> None:
        self.matrix = np.zeros((0, 0), np.int64)
        self.images: list[ImageScore] = []
        self.rows: list[Row] = []
        self._candidates: list[tuple[ImageScore, Row]] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discard the previous evaluation."""
        self._begin()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Score each image of a batch; ``outputs`` are the predicted classes."""
        assert isinstance(pl_module, SegmentationTask)
        metric = pl_module.confusion
        for i, name in enumerate(batch["name"]):
            C_KK = confusion(outputs[i], batch["mask"][i], metric.num_classes, metric.ignore_index).cpu()
            score = ImageScore(mean_iou(C_KK), name, pixel_accuracy(C_KK), class_counts(C_KK))
            self.images.append(score)
            if self._among_the_worst(score):
                truth, prediction = (m[i].to("cpu", torch.uint8).numpy() for m in (batch["mask"], outputs))
                label = f"{name} {100 * score.miou:.1f} %"
                self._keep(score, Row(label, denormalize(batch["image"][i]), truth, prediction))
            if self.masks is not None:
                self.masks(name, outputs[i].to("cpu", torch.uint8).numpy(), pl_module.spec)

    def _among_the_worst(self, score: ImageScore) -> bool:
        if self.worst < 1 or math.isnan(score.miou):
            return False
        return len(self._candidates) < self.worst or score <= self._candidates[-1][0]

    def _keep(self, score: ImageScore, row: Row) -> None:
        self._candidates.append((score, row))
        self._candidates.sort(key=lambda candidate: candidate[0])
        del self._candidates[self.worst :]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Combine the ranks, before the task resets its counts."""
        assert isinstance(pl_module, SegmentationTask)
        self.matrix = np.atleast_2d(pl_module.confusion.compute().cpu().numpy())
        shares = all_ranks((self.images, self._candidates))
        images = [score for scores, _ in shares for score in scores]
        self.images = sorted(images, key=lambda score: (math.isnan(score.miou), score))
        candidates = sorted((c for _, found in shares for c in found), key=lambda candidate: candidate[0])
        self.rows = [row for _, row in candidates[: self.worst]]
        self._candidates = []

    def write(self, place: Path, spec: DatasetSpec, result: dict[str, Any], title: str = "") -> None:
        """Write the files of this evaluation, all or none; an earlier evaluation's are replaced.

        Args:
            place: the folder.
            spec: the classes.
            result: the content of result.json.
            title: of the figures.

        Raises:
            OSError: a file cannot be written.
        """
        with replacing_in(place, last=RESULT) as folder:
            self._write_tables(folder, spec)
            confusion_figure(self.matrix, spec, folder / "confusion.png", title, self.origin)
            if self.rows:
                predictions_page(self.rows, spec, folder / "worst.png", title=title, origin=self.origin)
            write_json(folder / RESULT, result)
        if not self.rows:
            (place / "worst.png").unlink(missing_ok=True)  # an earlier evaluation's

    def _write_tables(self, folder: Path, spec: DatasetSpec) -> None:
        matrix = torch.from_numpy(self.matrix)
        columns = zip(
            spec.classes, iou(matrix).tolist(), recall(matrix).tolist(), self.matrix.sum(1), strict=True
        )
        rows = [[name, cell(iou_k), cell(recall_k), pixels] for name, iou_k, recall_k, pixels in columns]
        write_table(folder / "classes.csv", ["class", "iou", "accuracy", "pixels"], rows)
        images = [[score.name, cell(score.miou), cell(score.pixel_accuracy)] for score in self.images]
        write_table(folder / "images.csv", ["image", "miou", "pixel_accuracy"], images)
        counts = [
            [score.name, spec.classes[k], *pixels]
            for score in sorted(self.images, key=lambda score: score.name)
            for k, *pixels in score.counts
        ]
        write_table(folder / "counts.csv", COUNTS, counts)
