"""Signals that ask a run to stop: SIGTERM and Ctrl-C, and on a SLURM cluster SIGUSR1 and SIGUSR2.

Training finishes its step, saves a checkpoint, and raises `Interrupted`. A second signal, or a signal outside
of training, raises it at once. Signals within `SAME_SECONDS` of one another count as one: a batch system may
signal every process of a job, and the launcher forwards that signal once more.
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
    """A signal ended the run. If not caught, the process exits with 128 + the signal's number, as in shells.

    Attributes:
        signal: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}"


class _Listener:
    """The handler of signals, and what they have asked for; one per process, as signal handlers are."""

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
    """Return the signals that ask to stop; under SLURM, users and submitit warn by SIGUSR1 and SIGUSR2."""
    asking = [signal.SIGTERM, signal.SIGINT]
    return [*asking, signal.SIGUSR1, signal.SIGUSR2] if "SLURM_JOB_ID" in os.environ else asking


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` within the block when a signal asks to stop.

    After the block, when the run has recorded how it ended, the earlier handler of the signal is called:
    submitit's, for example, requeues the job.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
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
    """Raise `Interrupted` from the block even if the clean-up after it raised another error.

    Lightning's clean-up does so if the signal came while Lightning was creating its data iterators.
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
    """Within `interruptible`, set whether a first signal is only noted for `asked`, or raises at once."""
    if wanted and _listener.handle in map(signal.getsignal, signals()):
        for number in signals():  # Lightning has replaced some of these handlers by its own
            signal.signal(number, _listener.handle)
    _listener.deferring = wanted


def asked() -> int | None:
    """Return the signal that has asked training to stop; None if there was none."""
    return _listener.asked
