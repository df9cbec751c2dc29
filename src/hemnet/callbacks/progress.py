"""Progress of the run: a bar with the remaining time on a terminal, and lines in the log."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytorch_lightning as pl
from rich.console import Console
from rich.file_proxy import FileProxy
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
    """Shows the progress of a run over all its epochs, and the remaining time.

    A line is logged at each validation; where no terminal shows the bar, also every ``every_minutes`` between
    them. Time per step and remaining time are measured from the first step of this process, so those of a
    resumed run are right too.

    Args:
        every_minutes: minutes between two lines without a terminal, > 0.

    Raises:
        ValueError: ``every_minutes`` is not above 0.
    """

    def __init__(self, every_minutes: float = 1.0) -> None:
        if not every_minutes > 0:
            raise ValueError(f"every_minutes is {every_minutes}; it must be above 0")
        self.every_minutes = every_minutes
        self._bar: Progress | None = None
        self._shown = ExitStack()
        self._started = self._said = 0.0
        self._first_step = 0

    # Not in on_fit_start, where a resumed run has not yet got its number of steps from the checkpoint.
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and open the bar if there is a terminal."""
        self._started = self._said = time.monotonic()
        self._first_step = trainer.global_step
        console = Console(stderr=True)
        if trainer.is_global_zero and console.is_terminal:
            note = TextColumn("{task.fields[note]}")
            times = TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn()
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), *times, note)
            self._bar = Progress(*columns, console=console)
            total = int(trainer.estimated_stepping_batches)
            self._bar.add_task("training", total=total, completed=self._first_step, note="")
            self._shown.enter_context(_logging_above(console))
            self._shown.enter_context(self._bar)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Advance the bar, or log a line if it is time."""
        if self._bar is not None:
            loss = trainer.callback_metrics.get("train/loss")
            note = "" if loss is None else f"loss {loss.item():.3f}"
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, note=note)
        elif trainer.is_global_zero and time.monotonic() - self._said >= 60 * self.every_minutes:
            self._say(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log one line, with the score."""
        if not trainer.sanity_checking and trainer.is_global_zero and trainer.state.fn == "fit":
            self._say(trainer, f"val/miou {_metric(trainer, 'val/miou')}  ")

    def _say(self, trainer: pl.Trainer, score: str = "") -> None:
        """Log step, loss, score, speed, remaining time."""
        self._said = time.monotonic()
        total, step = int(trainer.estimated_stepping_batches), trainer.global_step
        taken = step - self._first_step
        speed = ""
        if taken > 0 and self._started:
            per_step = (self._said - self._started) / taken
            speed = f"{per_step:.2f} s/step  eta {_clock(per_step * (total - step))}"
        epoch = trainer.fit_loop.epoch_progress.current.ready
        loss = _metric(trainer, "train/loss")
        more = (score + speed).strip()
        log.info("epoch %d  step %d/%d  train/loss %s  %s", epoch, step, total, loss, more)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the bar; Lightning calls this after errors too."""
        self._shown.close()
        self._bar = None


@contextmanager
def _logging_above(console: Console) -> Iterator[None]:
    """Within the block, print what is logged to the terminal above the bar, not into its line."""
    changed = []
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "isatty", lambda: False)():
            proxy = cast(Any, FileProxy(console, handler.stream))
            changed.append((handler, handler.setStream(proxy)))
    try:
        yield
    finally:
        for handler, stream in changed:
            handler.setStream(stream)


def _metric(trainer: pl.Trainer, name: str) -> str:
    value = trainer.callback_metrics.get(name)
    return "nan" if value is None else f"{value.item():.4f}"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:d}:{minute:02d}:{second:02d}"
