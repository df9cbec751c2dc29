"""Signals that ask a run to stop: SIGTERM and Ctrl-C, and on a SLURM cluster SIGUSR1 and SIGUSR2.

Training finishes its step, saves, and ends as `Interrupted`. A second signal, or one outside of training,
ends the run at once. What comes within `SAME_SECONDS` of a signal is that signal once more: a batch system, a
launcher and ``timeout`` signal a process, and each other, and so does each who hands a signal on.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)
SAME_SECONDS = 1.0


class Interrupted(SystemExit):
    """A signal ended the run. Uncaught, the process exits with 128 + the signal's number, as shells expect.

    Attributes:
        signal: which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}"


class _Listener:
    """What signals have asked for; one for the process, as signals are."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.deferring = False
        self.latest = -SAME_SECONDS

    def handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self.latest < SAME_SECONDS:
            return
        self.latest = now
        if self.asked is not None or not self.deferring:
            raise Interrupted(number)
        self.asked = number
        log.warning(
            "%s: training stops after this step, or after the validation that is under way; a second "
            "signal stops it at once", signal.Signals(number).name,
        )  # fmt: skip


_listener = _Listener()


def signals() -> list[signal.Signals]:
    """Return the signals that ask to stop; SLURM's users choose SIGUSR1, submitit SIGUSR2, as a warning."""
    asking = [signal.SIGTERM, signal.SIGINT]
    return [*asking, signal.SIGUSR1, signal.SIGUSR2] if "SLURM_JOB_ID" in os.environ else asking


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn signals that ask to stop into `Interrupted` within the block.

    Whoever handled the signal before, such as submitit, which puts the job in line again, is called
    afterwards, when the run has recorded how it ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not for other threads to handle
        return
    before = {number: signal.signal(number, _listener.handle) for number in signals()}
    try:
        yield
    except Interrupted as interrupted:
        _restore(before)
        earlier = before[interrupted.signal]
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(interrupted.signal, None)
        raise
    finally:
        _restore(before)


@contextmanager
def foremost() -> Iterator[None]:
    """Let `Interrupted` be what ends the block, also where something fails in cleaning up after it.

    Lightning does where the signal came while it was making its iterators.
    """
    try:
        yield
    except Exception as error:
        first: BaseException | None = error
        while first is not None and not isinstance(first, Interrupted):
            first = first.__context__
        if first is None:
            raise
        raise first from None


def _restore(before: dict[signal.Signals, Callable | int | None]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
    _listener.asked, _listener.deferring, _listener.latest = None, False, -SAME_SECONDS


def defer(wanted: bool) -> None:
    """Say whether a signal waits to be asked for by `asked`, within `interruptible`."""
    if wanted and _listener.handle in map(signal.getsignal, signals()):
        for number in signals():  # Lightning puts handlers of its own before these
            signal.signal(number, _listener.handle)
    _listener.deferring = wanted


def asked() -> int | None:
    """Return the signal that asks training to stop; None if none does."""
    return _listener.asked
