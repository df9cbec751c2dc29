"""A figure of predictions next to the truth, updated at some validations and at the end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from hemnet.data import Batch, denormalize
from hemnet.figures.predictions import Row, predictions_page
from hemnet.training.task import SegmentationTask


class PredictionImages(pl.Callback):
    """Draws image, truth and prediction of some samples, and passes the figure to the loggers.

    Drawing takes seconds, so it is done after the last validation, and before that at few.

    Args:
        path: the PNG file to write.
        count: number of samples to show.
        show_images: whether to show the images beside the class maps.
        every_n_validations: draw at every n-th validation; null draws at the first, second,
            fourth, eighth, ...

    Raises:
        ValueError: ``every_n_validations`` is below 1.
    """

    def __init__(
        self,
        path: str | Path,
        count: int = 6,
        show_images: bool = True,
        every_n_validations: int | None = None,
    ) -> None:
        if every_n_validations is not None and every_n_validations < 1:
            raise ValueError(f"every_n_validations is {every_n_validations}: give 1 or more")
        self.path = Path(path)
        self.count = count
        self.show_images = show_images
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._drawn = False
        self._rows: list[Row] = []
        self._wanted: set[int] = set()
        self._seen = 0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start a new figure, of samples spread over the split."""
        loader = trainer.val_dataloaders
        assert loader is not None
        self._wanted = set(spread(self.count, len(loader.sampler)))
        self._rows, self._seen, self._drawn = [], 0, False

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Keep the samples that the figure shows; ``outputs`` are the predicted classes."""
        for i, name in enumerate(batch["name"]):
            if self._seen + i in self._wanted:
                mask, prediction = batch["mask"][i].cpu().numpy(), outputs[i].cpu().numpy()
                self._rows.append(Row(name, denormalize(batch["image"][i]), mask, prediction))
        self._seen += len(batch["name"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the figure if it is due."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        n, every = self._validations, self.every_n_validations
        if n % every == 0 if every else n & (n - 1) == 0:
            self._write(trainer, pl_module)

    # Not in on_train_end: the last validation may come after it.
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the figure of the last validation."""
        self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the figure of the last validation on rank 0, unless it has been written."""
        assert isinstance(pl_module, SegmentationTask)
        if not trainer.is_global_zero or not self._rows or self._drawn:
            return
        predictions_page(self._rows, pl_module.spec, self.path, show_images=self.show_images)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image(key="val/predictions", images=[str(self.path)], step=trainer.global_step)
        self._drawn = True


def spread(count: int, total: int) -> list[int]:
    """Return ``count`` of ``total`` indices, or all if there are fewer.

    The indices are evenly spread, since neighbouring samples may be frames of one video.
    """
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
