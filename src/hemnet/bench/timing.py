"""Times and memory of competing functions, measured so that a busy machine is unfair to none.

In every round each contender runs once, and each round starts with another one. A ratio is the median of
the ratios within the rounds: what slows a round down slows both sides of its ratio.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

# The profiler, which measures memory on CPU, else writes two lines to the terminal whenever it is used.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

FEWEST_ROUNDS = 5
# Up to this many times the budget is spent to complete FEWEST_ROUNDS.
PATIENCE = 4

Run = Callable[[], object]


class Ratio(NamedTuple):
    """The median of paired ratios, and their quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Budget:
    """When to stop: after `repeats` rounds, or `seconds`, but with five rounds if four times that allows."""

    seconds: float
    repeats: int

    def allows(self, rounds: int, elapsed: float) -> bool:
        """Whether another round is due."""
        if rounds == 0:
            return True
        patience = PATIENCE if rounds < FEWEST_ROUNDS else 1
        return rounds < self.repeats and elapsed < patience * self.seconds


def interleave(runs: Sequence[Run], device: torch.device, budget: Budget) -> list[list[float]]:
    """Return the seconds of every run in every round, after one round that is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        seconds(run, device)
    start, rounds = time.perf_counter(), 0
    while budget.allows(rounds, time.perf_counter() - start):
        for turn in range(len(runs)):
            which = (turn + rounds) % len(runs)
            times[which].append(seconds(runs[which], device))
        rounds += 1
    return times


def seconds(run: Run, device: torch.device) -> float:
    """How long one run takes on the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    run()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1000


def paired(times: list[float], base: list[float]) -> Ratio:
    """The ratio of two runs of the same rounds."""
    low, median, high = np.percentile(np.array(times) / np.array(base), [25, 50, 75])
    return Ratio(float(median), float(low), float(high))


def peak_extra_memory(run: Run, device: torch.device) -> int:
    """The most bytes of tensors that were alive during a run on top of those before it.

    On CPU by the allocator's own events; what BLAS and oneDNN take for themselves is not among them.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
