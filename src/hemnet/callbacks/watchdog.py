"""Ends a run that hangs: if a rank waits for another that is gone, or a file system does not answer."""

import faulthandler
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl

from hemnet.errors import HemnetError

STDERR = 2
# How long a process may take to end by the error, and write result.json, before it is killed.
GRACE_SECONDS = 30.0


class HangError(HemnetError):
    """No batch was finished for too long."""


class Watchdog(pl.Callback):
    """Raises an error, and prints the stacks of all threads, if no batch is finished for ``minutes``.

    Each rank watches itself. A rank that hangs inside a collective operation cannot raise a Python error; it
    is killed `GRACE_SECONDS` later, with exit status 1.

    Args:
        minutes: the longest time for a batch and the checkpoint or the figures that follow it, > 0.

    Raises:
        ValueError: ``minutes`` is not above 0.
    """

    def __init__(self, minutes: float = 30.0) -> None:
        if not minutes > 0:
            raise ValueError(f"minutes is {minutes}; it must be above 0")
        self.seconds = 60 * minutes
        self._handler_before: Any = None

    # In no earlier hook: Lightning restores the signal handlers that it finds when training starts.
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start watching."""
        in_main = threading.current_thread() is threading.main_thread()  # only it gets signals
        if self._handler_before is None and in_main:
            self._handler_before = signal.signal(signal.SIGALRM, self._bark)
        self.on_train_batch_end()

    on_train_start = on_sanity_check_start

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Restart the clock."""
        if self._handler_before is not None:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            faulthandler.dump_traceback_later(self.seconds + GRACE_SECONDS, exit=True, file=STDERR)

    on_validation_batch_end = on_train_batch_end

    def teardown(self, *_: Any, **__: Any) -> None:
        """Stop watching."""
        if self._handler_before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, self._handler_before)
            self._handler_before = None

    on_exception = teardown

    def _bark(self, number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(file=STDERR)
        raise HangError(
            f"no batch was finished for {self.seconds:g} s; the stacks above show where each thread was. "
            "Resume with resume=.., or give slow batches more time with callbacks.watchdog.minutes"
        )
