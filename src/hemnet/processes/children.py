"""Child processes: they end when their parent is gone, and only their parent's signals end them earlier."""

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
    """On Linux, let the kernel send this process a signal when its parent ends, whatever ended the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the process group that ``process`` leads; nothing happens if the group is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def held(numbers: Collection[signal.Signals]) -> Iterator[None]:
    """Block signals within the block; processes forked in it do so until they call `obey_parent_alone`.

    On systems where that function does nothing, this one does nothing either.
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
    """End this process at once if its parent sends one of these signals; ignore those from other processes.

    Batch systems signal every process of a job, and terminals a whole process group, but training still needs
    its data loaders to finish the step. Call this before the process starts other threads. On systems that
    do not report the sender of a signal (macOS), nothing is changed.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        threading.Thread(target=_obey_parent, args=(numbers,), daemon=True, name="signals").start()


def _obey_parent(numbers: Collection[signal.Signals]) -> None:
    parent = multiprocessing.parent_process()  # for a child of a fork server, os.getppid() is that server
    while signal.sigwaitinfo(numbers).si_pid != (parent.pid if parent else os.getppid()):
        pass
    os._exit(0)  # the main thread may be stuck; torch's own handler does the same
