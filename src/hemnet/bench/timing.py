"""Times and memory of competing functions, measured so that load on the machine favours none of them.

In every round each function runs once, and each round starts with another function. A ratio is the median of
the ratios within the rounds: load during a round slows both sides of its ratio.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

# The profiler measures memory on CPU; without this it prints two lines whenever it is used.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

FEWEST_ROUNDS = 5
# Up to this many times the budget is spent to complete FEWEST_ROUNDS.
PATIENCE = 4


class Ratio(NamedTuple):
    """The median of paired ratios, and their quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Budget:
    """Stops after `repeats` rounds or `seconds`; five rounds may take up to four times `seconds`."""

    seconds: float
    repeats: int

    def allows(self, rounds: int, elapsed: float) -> bool:
        """Whether another round is allowed after so many rounds and seconds."""
        if rounds == 0:
            return True
        patience = PATIENCE if rounds < FEWEST_ROUNDS else 1
        return rounds < self.repeats and elapsed < patience * self.seconds


def interleave(
    functions: Sequence[Callable[[], object]],
    device: torch.device,
    budget: Budget,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Return the seconds of every function in every round, after one round that is not counted.

    Args:
        functions: what is compared.
        device: where they run.
        budget: when to stop.
        clock: what is read before and after a call on a CPU.
    """
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        seconds(function, device, clock)
    start, rounds = time.perf_counter(), 0
    while budget.allows(rounds, time.perf_counter() - start):
        for turn in range(len(functions)):
            which = (turn + rounds) % len(functions)
            times[which].append(seconds(functions[which], device, clock))
        rounds += 1
    return times


def seconds(
    function: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds that one call takes on the device."""
    if device.type != "cuda":
        start = clock()
        function()
        return clock() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    before.record()
    function()
    after.record()
    torch.cuda.synchronize(device)
    return before.elapsed_time(after) / 1000


def paired(times: list[float], base: list[float]) -> Ratio:
    """Return the ratio of two functions timed in the same rounds."""
    low, median, high = np.percentile(np.array(times) / np.array(base), [25, 50, 75])
    return Ratio(float(median), float(low), float(high))


def peak_extra_memory(function: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes of tensors alive during a call, on top of those alive before it.

    On CPU this is counted from the allocator's events; memory that BLAS and oneDNN allocate is not included.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    assert recorded.profiler is not None
    assert recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
