"""The processes of a run on several devices of one machine: started, watched and ended together.

One process looks after the others and computes nothing. They find in their environment what torchrun would
have told them, so that to Lightning and torch there is no difference. Unlike torchrun it lets a run that is
asked to stop take its time, and ends one of which a process has failed at once.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from lightning_fabric.plugins.environments import SLURMEnvironment
from torch.distributed import TCPStore

from hemnet.errors import HemnetError
from hemnet.processes.children import die_with_parent, signal_group
from hemnet.processes.signals import Interrupted, signals

POLL_SECONDS = 0.1
# How long the others may take to say why they fail too, or to end, when one has.
SETTLE_SECONDS = 10.0
# How long, when one has ended well or as asked: the first may still have its figures and W&B to finish.
FINISH_SECONDS = 30.0
HOST = "127.0.0.1"


class RankError(HemnetError):
    """A process of the run failed, was killed, or did not end with the others.

    Attributes:
        rank: of that process.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


def launched() -> bool:
    """Return whether this process is one of several that something else has started for one run."""
    return "LOCAL_RANK" in os.environ or "RANK" in os.environ or SLURMEnvironment.detect()


def run_ranks(command: Sequence[str], count: int, message: bytes) -> None:
    """Run ``count`` processes as the ranks of one run, and return when all have ended well.

    Signals that ask to stop are handed on to them. If one fails, the others are ended.

    Args:
        command: of each.
        count: how many.
        message: what each can read from its standard input.

    Raises:
        RankError: one failed, was killed, or ended long before or after the others.
        Interrupted: they were asked to stop, and did so.
    """
    # Kept by this process, so that no other can take the port between its choice and its use.
    store = TCPStore(HOST, 0, count, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=30))
    ranks: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def hand_on(number: int, _: object) -> None:
        asked.append(number)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in signals()}
    try:
        for rank in range(count):
            ranks.append(_start(command, _environment(rank, count, store.port), message))
            if asked:  # while this one was not there yet
                ranks[-1].send_signal(asked[-1])
        _watch(ranks, asked)
    finally:
        for process in ranks:
            signal_group(process, signal.SIGKILL)
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(command: Sequence[str], environment: Mapping[str, str], message: bytes) -> subprocess.Popen[bytes]:
    # A group of its own: Ctrl-C reaches it once, handed on, and it can be ended with all that it has started.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, start_new_session=True, preexec_fn=die_with_parent
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which its exit status will explain
        process.stdin.write(message)
        process.stdin.close()
    return process


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the environment of a rank, as torchrun makes it."""
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
    """Wait until all ranks have ended; from the first end on, not long for the others."""
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
    # One that is left may wait for another that has ended as it was asked: it was asked to end, too.
    if asked and set(codes) <= {None, *_as_asked(asked)}:
        raise Interrupted(asked[0])
    left = [rank for rank in range(len(ranks)) if rank not in ended]
    first = next(rank for rank in [*ended, *left] if codes[rank] not in _as_asked(()))
    raise RankError(f"rank {first} of {len(ranks)} {_fate(codes[first], patience)}", first)


def _as_asked(numbers: Sequence[int]) -> set[int]:
    """Return the exit statuses of a process that has ended well, or by one of the signals it was sent."""
    return {0, *(128 + number for number in numbers), *(-number for number in numbers)}


def _fate(code: int | None, patience: float) -> str:
    if code is None:
        return f"went on for {patience:.0f} s after the others had ended, and was killed"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"failed with exit status {code}; what it said stands above"
