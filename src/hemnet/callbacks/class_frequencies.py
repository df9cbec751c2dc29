"""Counts the classes in the training masks, for losses whose class weights follow from their frequencies.

Shapes: K classes.
"""

import logging

import pytorch_lightning as pl
import torch
from torch import Tensor

from hemnet.data import SegmentationData
from hemnet.data.readers import Reader
from hemnet.processes.ranks import all_ranks
from hemnet.training.loss import class_weights
from hemnet.training.task import SegmentationTask
from hemnet.wording import counted

log = logging.getLogger(__name__)


class ClassFrequencies(pl.Callback):
    """Sets class weights that are to follow from frequencies, before the first step.

    Each rank reads its share of the training masks, as they are, before any augmentation. A resumed run has
    the weights in its checkpoint, and reads none.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count, if there are such weights."""
        assert isinstance(pl_module, SegmentationTask)
        missing = [weights for weights in class_weights(pl_module.training_loss) if weights.missing]
        data = getattr(trainer, "datamodule", None)
        if not missing or not isinstance(data, SegmentationData):
            return
        reader = data.train_dataset.reader
        log.info(
            "counting the classes in %s, for class_weights; numbers in their place would save that",
            counted(len(reader), "training mask"),
        )
        share = range(trainer.global_rank, len(reader), trainer.world_size)
        pixels_K, around_K = (sum(found) for found in zip(*all_ranks(count(reader, share)), strict=True))
        for weights in missing:
            weights.count(pixels_K, around_K)


def count(reader: Reader, share: range) -> tuple[Tensor, Tensor]:
    """Return, (K,) int64 each, the pixels of each class, and the labelled pixels of the masks that show it.

    Args:
        reader: the samples.
        share: which of them.
    """
    classes = reader.spec.num_classes
    pixels_K, around_K = torch.zeros(2, classes, dtype=torch.int64)
    for index in share:
        own_K = torch.bincount(torch.from_numpy(reader.read(index).mask_HW).flatten(), minlength=256)[
            :classes
        ]
        pixels_K += own_K
        around_K += (own_K > 0) * own_K.sum()
    return pixels_K, around_K
