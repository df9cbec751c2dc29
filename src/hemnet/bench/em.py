"""Time and peak memory of the EM engines, beside plain autograd, torch.compile and checkpointing.

Every contender is first compared with plain autograd in float64 on the same inputs; if one disagrees,
nothing is reported and the exit status is 1. Then they run in turns, forward without a graph and forward
with backward, and the figures are held against the roofline of the device and the project's bars.
"""

import argparse
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from hemnet.bench import agreement, roofline
from hemnet.bench.contenders import HIGHWAY_SCALE, NAMES, Contender, LeftOut, enlist
from hemnet.bench.options import BenchError, count, positive, require_place, say, setting
from hemnet.bench.problem import Problem, Shape, draw
from hemnet.bench.report import Absence, Pair, Report, Result
from hemnet.bench.tables import print_report
from hemnet.bench.timing import Budget, Run, interleave, peak_extra_memory
from hemnet.bench.verdicts import verdicts
from hemnet.storage.files import write_json

SHAPES = {"cpu": Shape(2, 4225, 256, 64), "cuda": Shape(16, 4225, 512, 64)}
DTYPES = {"cpu": ["float32"], "cuda": ["bfloat16", "float32"]}
ITERATIONS = [1, 3, 8, 16, 64]
HIGHWAY_ENGINES = ("recompute", "triton")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option(
        "--iterations", type=count, nargs="+", default=ITERATIONS, metavar="T", help="default: 1 3 8 16 64"
    )
    option("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    option("--dtype", choices=("float32", "bfloat16"), nargs="+", help="of the features; default: float32, "
           "on CUDA bfloat16 too")  # fmt: skip
    option("--shape", type=count, nargs=4, metavar=("B", "N", "C", "K"), help="images, positions, channels, "
           "components; default: 2 4225 256 64, on CUDA 16 4225 512 64")  # fmt: skip
    option("--engines", choices=NAMES, nargs="+", default=list(NAMES), help="default: all; reference always")
    option("--repeats", type=count, default=50, metavar="N", help="rounds at most; default: 50")
    option("--seconds", type=positive, default=20.0, help="for the rounds of one pass at one T, up to four "
           "times that to complete five; default: 20")  # fmt: skip
    option("--compile-up-to", type=count, default=8, metavar="T", help="largest T to compile; default: 8")
    option("--threads", type=count, metavar="N", help="CPU threads; default: PyTorch's")
    option("--json", type=Path, metavar="FILE", help="write everything that was measured there")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what was asked for.

    Raises:
        BenchError: if there is no such device, or no folder for the file.
        hemnet.bench.agreement.Disagreement: if a contender is wrong.
    """
    require_place(options.json)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    report = measure(options)
    report.verdicts = verdicts(report)
    print_report(report)
    if options.json is not None:
        write_json(options.json, asdict(report))
        print(f"\nwritten to {options.json}")


def measure(options: argparse.Namespace) -> Report:
    """Measure every type and T that the options name."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    shape = Shape(*options.shape) if options.shape else SHAPES[device.type]
    say("measuring the device")
    named = dict(zip("BNCK", shape, strict=True))
    report = Report(setting(), device.type, named, roofline.measure_bandwidth(device))
    for dtype in options.dtype or DTYPES[device.type]:
        problem = draw(shape, getattr(torch, dtype), device)
        for iterations in sorted(set(options.iterations)):
            _Depth(report, options, problem, dtype, iterations).measure()
    return report


@dataclass(frozen=True)
class _Depth:
    """One T on one problem: who takes part, whether they agree, and how they do."""

    report: Report
    options: argparse.Namespace
    problem: Problem
    dtype: str
    iterations: int

    def measure(self) -> None:
        """Add to the report; nothing is timed before all that will be has been checked."""
        say(f"{self.dtype}, T={self.iterations}: comparing with float64")
        contenders = self.enlist()
        twins = [
            (c, enlist(c.name, self.problem, self.iterations, highway_scale=0.0))
            for c in contenders
            if c.name in HIGHWAY_ENGINES
        ]
        errors = self.check(contenders, HIGHWAY_SCALE)
        self.check([plain for _, plain in twins], 0.0)
        say(f"{self.dtype}, T={self.iterations}: timing")
        self.race(contenders, errors)
        for highway, plain in twins:
            self.pair(highway, plain)

    def enlist(self) -> list[Contender]:
        """The contenders that were asked for and can run, the reference first."""
        found = []
        for name in NAMES:
            if name != "reference" and name not in self.options.engines:
                continue
            try:
                found.append(
                    enlist(name, self.problem, self.iterations, compile_up_to=self.options.compile_up_to)
                )
            except LeftOut as reason:
                self.report.absences.append(Absence(self.dtype, self.iterations, name, str(reason)))
        return found

    def check(self, contenders: list[Contender], highway_scale: float) -> list[dict[str, float]]:
        """Their errors, all within the limits."""
        if not contenders:
            return []
        true = agreement.truth(self.problem, self.iterations, highway_scale)
        return [agreement.check(contender, self.problem, self.iterations, true) for contender in contenders]

    def race(self, contenders: list[Contender], errors: list[dict[str, float]]) -> None:
        """Let all of them run in turns, each pass in rounds of its own."""
        forward = self.interleave([partial(c.forward, self.problem) for c in contenders])
        both = self.interleave([partial(c.forward_backward, self.problem) for c in contenders])
        for i, contender in enumerate(contenders):
            self.report.results.append(
                Result(
                    self.dtype,
                    self.iterations,
                    contender.name,
                    forward[i],
                    both[i],
                    errors[i],
                    self.peak(contender),
                    *self.bounds(contender),
                    contender.compile_seconds,
                )
            )

    def pair(self, highway: Contender, plain: Contender) -> None:
        """Let an engine run with and without the highway, alternately."""
        on, off = self.interleave([partial(c.forward_backward, self.problem) for c in (highway, plain)])
        peaks = self.peak(highway), self.peak(plain)
        self.report.pairs.append(Pair(self.dtype, self.iterations, highway.name, on, off, *peaks))

    def interleave(self, runs: list[Run]) -> list[list[float]]:
        """The times of each."""
        return interleave(runs, self.problem.device, Budget(self.options.seconds, self.options.repeats))

    def peak(self, contender: Contender) -> int:
        """Peak extra memory of forward + backward."""
        return peak_extra_memory(partial(contender.forward_backward, self.problem), self.problem.device)

    def bounds(self, contender: Contender) -> tuple[float, float]:
        """The roofline of both passes, in seconds."""
        dtype, rates = str(contender.multiplies_in).removeprefix("torch."), self.report.rates
        if dtype not in rates:
            rates[dtype] = roofline.measure_rate(self.problem.device, contender.multiplies_in)
        size = self.problem.shape, self.iterations, self.problem.x_BNC.itemsize
        forward, both = roofline.forward_work(*size), roofline.forward_backward_work(*size)
        bandwidth = self.report.bandwidth
        return forward.bound(bandwidth, rates[dtype]), both.bound(bandwidth, rates[dtype])
