"""Starts the ranks of a run on the devices of one machine, watches them, and ends them together.

The launching process computes nothing. It sets the environment variables that torchrun sets, so Lightning and
torch need nothing else. Unlike torchrun, it gives a run that is asked to stop the time to save, and ends all
ranks as soon as one fails.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from hemnet.errors import HemnetError
from hemnet.processes.children import die_with_parent, signal_group
from hemnet.processes.signals import Interrupted, signals

POLL_SECONDS = 0.1
# How long the other ranks may take to end after one has failed, and to report errors of their own.
SETTLE_SECONDS = 10.0
# How long they may take after one has finished or stopped as asked: rank 0 still has figures and W&B to
# finish.
FINISH_SECONDS = 30.0
HOST = "127.0.0.1"


class RankError(HemnetError):
    """A rank failed, was killed, or did not end with the others.

    Attributes:
        rank: the number of that rank.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


def launched() -> bool:
    """Return whether torchrun, SLURM or `run_ranks` has started this process as a rank of a run."""
    return "LOCAL_RANK" in os.environ or "RANK" in os.environ or in_slurm()


def in_slurm() -> bool:
    """Return whether SLURM has started this process as a task of a job, as Lightning sees it."""
    if "SLURM_NTASKS" not in os.environ:
        return False
    from lightning_fabric.plugins.environments import SLURMEnvironment  # here: slow to import

    return SLURMEnvironment.detect()


def run_ranks(command: Sequence[str], count: int, message: bytes) -> None:
    """Run ``count`` processes as the ranks of one run, and return when all have finished.

    Signals that ask to stop are forwarded to all ranks. If one fails, the others are ended.

    Args:
        command: the command of each process.
        count: the number of processes.
        message: what each process can read from its standard input.

    Raises:
        RankError: a rank failed, was killed, or ended long before or after the others.
        Interrupted: the ranks were asked to stop, and did so.
    """
    from torch.distributed import TCPStore

    # The store listens in this process, so that no other process can take its port before the ranks connect.
    store = TCPStore(HOST, 0, count, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=30))
    ranks: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def forward(number: int, _: object) -> None:
        asked.append(number)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in signals()}
    try:
        for rank in range(count):
            ranks.append(_start(command, _environment(rank, count, store.port), message))
            if asked:  # a signal came before this rank was started
                ranks[-1].send_signal(asked[-1])
        _watch(ranks, asked)
    finally:
        for process in ranks:
            signal_group(process, signal.SIGKILL)
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], environment: Mapping[str, str], message: bytes) -> subprocess.Popen[bytes]:
    # Each rank leads a process group: so Ctrl-C reaches it only once, forwarded, and its children end with
    # it.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, start_new_session=True, preexec_fn=die_with_parent
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the process has ended already; `_watch` reports how
        process.stdin.write(message)
        process.stdin.close()
    return process


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the environment variables of a rank, as torchrun sets them."""
    threads = max(1, (os.cpu_count() or 1) // count)
    return {
        "OMP_NUM_THREADS": str(threads), **os.environ,
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": HOST, "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"hemnet-{os.getpid()}", "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip


def _watch(ranks: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> None:
    """Wait until all ranks have ended, or until the time that the others have after the first end is over."""
    ended: list[int] = []
    patience, deadline = 0.0, float("inf")
    while len(ended) < len(ranks) and time.monotonic() < deadline:
        for rank, process in enumerate(ranks):
            if rank not in ended and process.poll() is not None:
                ended.append(rank)
                patience = FINISH_SECONDS if process.returncode in _as_asked(asked) else SETTLE_SECONDS
                deadline = min(deadline, time.monotonic() + patience)
        time.sleep(POLL_SECONDS)
    codes = [process.returncode for process in ranks]
    if not any(codes) and len(ended) == len(ranks):
        return
    # A rank that still runs may be waiting for one that has stopped as asked; the run was stopped, not
    # failed.
    if asked and set(codes) <= {None, *_as_asked(asked)}:
        raise Interrupted(asked[0])
    left = [rank for rank in range(len(ranks)) if rank not in ended]
    first = next(rank for rank in [*ended, *left] if codes[rank] not in _as_asked(()))
    raise RankError(f"rank {first} of {len(ranks)} {_fate(codes[first], patience)}", first)


def _as_asked(numbers: Sequence[int]) -> set[int]:
    """Return the exit statuses of a process that has finished, or stopped because of one of these signals."""
    return {0, *(128 + number for number in numbers), *(-number for number in numbers)}


def _fate(code: int | None, patience: float) -> str:
    if code is None:
        return f"still ran {patience:.0f} s after the others had ended, and was killed"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"failed with exit status {code}; its messages are above"
