"""Waiting for what happens in another process, or thread: until it does, however busy the machine is.

The ceiling tells a hang from a wait. It is far above what anything takes, for a deadline that is near to that
is decided by what else the machine has to do.
"""

import subprocess
import time
from collections.abc import Callable

CEILING = 600.0  # what is not to end by itself sleeps for 3600


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
