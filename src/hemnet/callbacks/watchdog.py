"""An end for a run that hangs: a rank that waits for one that is gone, a file system that does not answer."""

import faulthandler
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from hemnet.errors import HemnetError

STDERR = 2
# What a process may take to end by itself, with a word and a record, before it is ended without.
GRACE_SECONDS = 30.0


class HangError(HemnetError):
    """No batch came to its end for too long."""


class Watchdog(pl.Callback):
    """Ends this process with an error, after the stacks of all its threads, if no batch ends for a while.

    Each rank watches itself. One that hangs within a collective operation, where Python is not asked, is
    ended `GRACE_SECONDS` later, with exit status 1.

    Args:
        minutes: that a batch may take, with the checkpoint or the validation's figures that follow it, > 0.

    Raises:
        ValueError: ``minutes`` is not above 0.
    """

    def __init__(self, minutes: float = 30.0) -> None:
        if not minutes > 0:
            raise ValueError(f"minutes is {minutes}; it must be above 0")
        self.seconds = 60 * minutes
        self._handler_before: Any = None

    # Not before: Lightning puts back the handlers that it finds when it begins to train.
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        self._begin()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to watch."""
        self._begin()

    def on_train_batch_end(self, *_: Any) -> None:
        """Begin to count anew."""
        self._alive()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Begin to count anew."""
        self._alive()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Watch no more."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, _: BaseException) -> None:
        """Watch no more."""
        self._end()

    def _begin(self) -> None:
        in_main = threading.current_thread() is threading.main_thread()  # signals are not for others
        if self._handler_before is None and in_main:
            self._handler_before = signal.signal(signal.SIGALRM, self._bark)
        self._alive()

    def _alive(self) -> None:
        if self._handler_before is not None:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            faulthandler.dump_traceback_later(self.seconds + GRACE_SECONDS, exit=True, file=STDERR)

    def _end(self) -> None:
        if self._handler_before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, self._handler_before)
            self._handler_before = None

    def _bark(self, number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=STDERR)
        raise HangError(
            f"no batch came to its end for {self.seconds:g} s; the stacks above say where each thread was. "
            "Go on with resume=.., or give slow batches more time by callbacks.watchdog.minutes"
        )
