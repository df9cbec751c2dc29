"""Deadlines that a busy machine does not break.

A test waits for an event, not for a time. Where it must tell a hang from a wait, a hang in this process is
told by the processor time it takes (`within`), and one in another process by `CEILING`, which is far above
what anything takes. HEMNET_TEST_PATIENCE=3 makes every deadline three times as long.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = float(os.environ.get("HEMNET_TEST_PATIENCE", "1"))
CEILING = 600.0 * PATIENCE  # seconds; what is not to end by itself sleeps for 3600
BOUND = 60.0 * PATIENCE  # seconds; for what took minutes if it were not cut short


def until(happened: Callable[[], object], what: str, process: subprocess.Popen | None = None) -> None:
    """Wait until something has happened; fail if the process that is to do it has ended."""
    began = time.monotonic()
    while not happened():
        # Asked for again: it may have happened just before the end.
        if process is not None and process.poll() is not None and not happened():
            said = process.stdout.read() if process.stdout else ""
            raise AssertionError(f"ended with {process.returncode} before {what}: {said}")
        assert time.monotonic() - began < CEILING, f"still waiting for {what}"
        time.sleep(0.02)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail the block once it has taken ``seconds`` of processor time, or `CEILING` by the clock."""

    def ring(number: int, _: object) -> None:
        said = f"{seconds} s of processor time" if number == signal.SIGPROF else f"{CEILING} s"
        raise AssertionError(f"still running after {said}")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, seconds), signal.ITIMER_REAL: (signal.SIGALRM, CEILING)}
    before = {number: signal.signal(number, ring) for number, _ in timers.values()}
    for timer, (_, limit) in timers.items():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
