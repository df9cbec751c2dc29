"""Warns of labels from which nothing can be learnt: classes that never occur, splits without labels.

Such labels are no error of a file, and training on them looks well. They are counted as training meets them,
since reading all masks beforehand would take as long as an epoch.
"""

import logging
import math
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from hemnet.data import Batch, DatasetSpec, SegmentationData
from hemnet.data.degenerate import LabelCounts, degenerate
from hemnet.data.readers import Reader
from hemnet.data.spec import IGNORE_INDEX
from hemnet.processes.ranks import all_ranks
from hemnet.training.task import SegmentationTask

log = logging.getLogger(__name__)
PROBES = 16
FEW = 16
"""After the first epoch, one batch in so many is counted."""
SECONDS = {"train": 0.0, "val": 5.0}
"""How long further masks of a split are looked at: what validation lacks is to be known before training."""


class LabelCheck(pl.Callback):
    """Counts labels over all ranks and warns where they are degenerate, see `hemnet.data.degenerate`.

    Before the first step it looks at `PROBES` masks of each split, and at as many more of the validation
    split as it can read in some seconds. What a validation has seen is in the confusion matrix of its scores.
    The training crops are counted until each class has occurred: all of an epoch, after which it is said that
    one never does, and a few of later epochs, in case it does after all. A split is warned of at the first
    look, and again once all of it was seen.

    Attributes:
        warnings: on rank 0, what is wrong with the labels, as far as they were seen; for result.json.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._train, self._val = LabelCounts(), LabelCounts()
        self._val_pixels = 0
        self._batches, self._epoch = 0, math.inf
        self._probed: dict[str, LabelCounts] = {}
        self._warned: set[tuple[str, bool]] = set()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at some masks of each split, on rank 0."""
        data = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero and isinstance(data, SegmentationData):
            readers = {"train": data.train_dataset.reader, "val": data.val_dataset.reader}
            self._probed = {split: _probe(reader, SECONDS[split]) for split, reader in readers.items()}
            self._judge(data.spec, self._probed)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Count the labels of a training batch, unless each class has occurred."""
        assert isinstance(pl_module, SegmentationTask)
        due = self._batches < self._epoch or batch_idx % FEW == 0
        if due and self._train.absent(pl_module.spec):
            pixels = torch.bincount(batch["mask"].flatten(), minlength=256)
            self._train.add(len(batch["mask"]), pixels.cpu().numpy())
            self._batches, self._epoch = self._batches + 1, trainer.num_training_batches

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discard the counts of the last validation."""
        self._val, self._val_pixels = LabelCounts(), 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Count the images and pixels of an evaluation batch."""
        self._val.images += len(batch["mask"])
        self._val_pixels += batch["mask"].numel()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the labels of all ranks from the confusion matrix, before the task resets it."""
        assert isinstance(pl_module, SegmentationTask)
        labelled_K = torch.atleast_2d(pl_module.confusion.compute()).sum(1).cpu().numpy()
        shares = all_ranks((self._val.images, self._val_pixels))
        self._val = LabelCounts(sum(images for images, _ in shares))
        self._val.pixels[: len(labelled_K)] = labelled_K
        self._val.pixels[IGNORE_INDEX] = sum(pixels for _, pixels in shares) - labelled_K.sum()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Judge the labels of all ranks."""
        assert isinstance(pl_module, SegmentationTask)
        if trainer.sanity_checking:
            return
        shares = all_ranks((self._train, self._batches >= self._epoch))
        train, val = LabelCounts(unit="crop", whole=all(epoch for _, epoch in shares)), self._val
        for of_train, _ in shares:
            train.add(of_train.images, of_train.pixels)
        data = getattr(trainer, "datamodule", None)
        val.whole = isinstance(data, SegmentationData) and val.images >= len(data.val_dataset)
        if trainer.is_global_zero:
            self._judge(pl_module.spec, {"train": train, "val": val} | self._wholly_probed())

    def _wholly_probed(self) -> dict[str, LabelCounts]:
        return {split: counts for split, counts in self._probed.items() if counts.whole}

    def _judge(self, spec: DatasetSpec, found: dict[str, LabelCounts]) -> None:
        wrong = degenerate(spec, found)
        self.warnings = [f"{split}: {message}" for split, message in wrong.items()]
        for split, message in wrong.items():
            if (key := (split, found[split].whole)) not in self._warned:
                self._warned.add(key)
                log.warning("%s: %s", split, message)


def _probe(reader: Reader, seconds: float) -> LabelCounts:
    first = np.unique(np.linspace(0, len(reader) - 1, PROBES).astype(int)).tolist()
    counts, until = LabelCounts(whole=True), time.monotonic() + seconds
    for number, index in enumerate([*first, *sorted({*range(len(reader))} - {*first})]):
        if number >= len(first) and time.monotonic() >= until:
            counts.whole = False
            break
        try:
            mask_HW = reader.read(index).mask_HW
        except Exception:  # training and validation say what is wrong with a sample, when they meet it
            counts.whole = False
            continue
        counts.add(1, np.bincount(mask_HW.ravel(), minlength=256))
    return counts
