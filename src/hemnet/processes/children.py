"""Processes that do not outlive those who started them, and do not end before they are told to."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator

PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """On Linux, have the kernel send this process a signal when its parent is gone, however that ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process that leads a group of its own, and to all of the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def held(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Let signals wait within the block, and in processes forked in it until they say what to do with them.

    Where `obey_parent_alone` can do nothing, this does nothing either.
    """
    if not hasattr(signal, "sigwaitinfo"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent_alone(numbers: Collection[signal.Signals]) -> None:
    """Have this process end at once when its parent sends one of these signals, and ignore anyone else's.

    Batch systems signal every process of a job and terminals a whole group, but a helper is needed until its
    parent has no more use for it. To be called before the process has other threads. Where the system does
    not tell who has sent a signal (macOS), nothing is changed.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        threading.Thread(target=_obey_parent, args=(numbers,), daemon=True, name="signals").start()


def _obey_parent(numbers: Collection[signal.Signals]) -> None:
    parent = multiprocessing.parent_process()  # a fork server's process has two
    while signal.sigwaitinfo(numbers).si_pid != (parent.pid if parent else os.getppid()):
        pass
    os._exit(0)  # as torch's own handler does: the main thread may be stuck
