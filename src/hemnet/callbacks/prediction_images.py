"""A page of predictions next to the truth, renewed at every validation."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from hemnet.data import Batch, denormalize
from hemnet.figures import Row, predictions_page
from hemnet.task import SegmentationTask


class PredictionImages(pl.Callback):
    """Writes image, truth and prediction of the split's first samples, and hands the page to the loggers.

    Args:
        path: the PNG file to write.
        count: how many samples to show.
    """

    def __init__(self, path: str, count: int = 6) -> None:
        self.path = Path(path)
        self.count = count
        self._rows: list[Row] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new page."""
        self._rows = []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Keep what the page needs of the first samples; ``outputs`` are the predicted classes."""
        if isinstance(outputs, Tensor):
            for i in range(min(len(batch["name"]), self.count - len(self._rows))):
                mask, prediction = batch["mask"][i].cpu().numpy(), outputs[i].cpu().numpy()
                self._rows.append(Row(batch["name"][i], denormalize(batch["image"][i]), mask, prediction))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the page on the first rank."""
        assert isinstance(pl_module, SegmentationTask)
        if trainer.sanity_checking or not trainer.is_global_zero or not self._rows:
            return
        predictions_page(self._rows, pl_module.spec, self.path)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(key="val/predictions", images=[str(self.path)])
