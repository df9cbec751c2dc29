"""Progress of the run: a bar with the remaining time on a terminal, and a line per validation in the log."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger(__name__)


class RunProgress(pl.Callback):
    """Shows the progress of a run over all its epochs, and the remaining time."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._started = 0.0
        self._first_step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar if there is a terminal."""
        self._started, self._first_step = time.monotonic(), trainer.global_step
        console = Console(stderr=True)
        if trainer.is_global_zero and console.is_terminal:
            note = TextColumn("{task.fields[note]}")
            times = TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn()
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), *times, note)
            self._bar = Progress(*columns, console=console)
            self._bar.add_task("training", total=int(trainer.estimated_stepping_batches), note="")
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Advance the bar."""
        if self._bar is not None:
            loss = trainer.callback_metrics.get("train/loss")
            note = "" if loss is None else f"loss {loss.item():.3f}"
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, note=note)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log one line: step, loss, score, speed, remaining time."""
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        total, step = int(trainer.estimated_stepping_batches), trainer.global_step
        per_step = (time.monotonic() - self._started) / max(step - self._first_step, 1)
        scores = {k: v.item() for k, v in trainer.callback_metrics.items()}
        log.info(
            "epoch %d  step %d/%d  train/loss %.4f  val/miou %.4f  %.2f s/step  eta %s",
            trainer.current_epoch + 1, step, total, scores.get("train/loss", float("nan")),
            scores.get("val/miou", float("nan")), per_step, _clock(per_step * (total - step)),
        )  # fmt: skip

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar; Lightning calls this after errors too."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:d}:{minute:02d}:{second:02d}"
