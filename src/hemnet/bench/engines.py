"""The benchmark of the EM engines: every contender is compared with float64, then all are timed in turns."""

import argparse
from dataclasses import dataclass
from functools import partial

import torch

from hemnet.bench import agreement, layer, roofline
from hemnet.bench.arguments import CONTENDERS, say, setting
from hemnet.bench.contenders import HIGHWAY_SCALE, Contender, LeftOut, enlist
from hemnet.bench.problem import Problem, Shape, draw
from hemnet.bench.results import Absence, EngineFindings, EngineTimes, HighwayPair
from hemnet.bench.timing import Budget, interleave, peak_extra_memory

SHAPES = {"cpu": Shape(2, 4225, 256, 64), "cuda": Shape(16, 4225, 512, 64)}
DTYPES = {"cpu": ["float32"], "cuda": ["bfloat16", "float32"]}
HIGHWAY_ENGINES = ("recompute", "triton")


def measure(options: argparse.Namespace) -> EngineFindings:
    """Measure every dtype and T that the options name."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    shape = Shape(*options.shape) if options.shape else SHAPES[device.type]
    say("measuring the device")
    named = dict(zip("BNCK", shape, strict=True))
    found = EngineFindings(setting(), device.type, named, roofline.measure_bandwidth(device))
    if device.type == "cpu" and "layer" in options.parts:
        shapes = (shape,) if options.shape else layer.SHAPES
        depths = tuple(depth for depth in layer.ITERATIONS if depth in options.iterations)
        compiles = "compiled" in options.engines and options.compile_up_to >= layer.COMPILED_ITERATIONS
        budget = Budget(options.seconds / 5, options.repeats)  # many settings: less time for each
        found.layer = layer.measure(layer.Plan(shapes, depths, budget, compiles, options.clock))
    if "engines" not in options.parts:
        return found
    for dtype in options.dtype or DTYPES[device.type]:
        problem = draw(shape, getattr(torch, dtype), device)
        for iterations in sorted(set(options.iterations)):
            _Depth(found, options, problem, dtype, iterations).measure()
    return found


@dataclass(frozen=True)
class _Depth:
    """One T on one problem: which contenders run, whether they agree, and their times."""

    found: EngineFindings
    options: argparse.Namespace
    problem: Problem
    dtype: str
    iterations: int

    def measure(self) -> None:
        """Check every contender before any is timed, and add the times to the findings."""
        say(f"{self.dtype}, T={self.iterations}: comparing with float64")
        contenders = self.contenders()
        pairs = [
            (c, enlist(c.name, self.problem, self.iterations, highway_scale=0.0))
            for c in contenders if c.name in HIGHWAY_ENGINES
        ]  # fmt: skip
        errors = self.check(contenders, HIGHWAY_SCALE)
        self.check([plain for _, plain in pairs], 0.0)
        say(f"{self.dtype}, T={self.iterations}: timing")
        forward = self.interleave([partial(c.forward, self.problem) for c in contenders])
        both = self.interleave([partial(c.forward_backward, self.problem) for c in contenders])
        self.found.results += [
            EngineTimes(self.dtype, self.iterations, c.name, forward[i], both[i], errors[i], self.peak(c),
                        *self.bounds(c), c.compile_seconds)
            for i, c in enumerate(contenders)
        ]  # fmt: skip
        for highway, plain in pairs:
            on, off = self.interleave([partial(c.forward_backward, self.problem) for c in (highway, plain)])
            peaks = self.peak(highway), self.peak(plain)
            self.found.pairs.append(HighwayPair(self.dtype, self.iterations, highway.name, on, off, *peaks))

    def contenders(self) -> list[Contender]:
        """Return the contenders that were asked for and can run, the reference first."""
        able = []
        for name in CONTENDERS:
            if name == "reference" or name in self.options.engines:
                up_to = self.options.compile_up_to
                try:
                    able.append(enlist(name, self.problem, self.iterations, compile_up_to=up_to))
                except LeftOut as reason:
                    self.found.absences.append(Absence(self.dtype, self.iterations, name, str(reason)))
        return able

    def check(self, contenders: list[Contender], highway_scale: float) -> list[dict[str, float]]:
        """Return the errors of each contender, all within the limits."""
        if not contenders:
            return []
        true = agreement.truth(self.problem, self.iterations, highway_scale)
        return [agreement.check(contender, self.problem, self.iterations, true) for contender in contenders]

    def interleave(self, passes: list[partial]) -> list[list[float]]:
        """Return the times of each pass."""
        return interleave(passes, self.problem.device, Budget(self.options.seconds, self.options.repeats))

    def peak(self, contender: Contender) -> int:
        """Return the peak extra memory of forward + backward, in bytes."""
        return peak_extra_memory(partial(contender.forward_backward, self.problem), self.problem.device)

    def bounds(self, contender: Contender) -> tuple[float, float]:
        """Return the roofline of both passes, in seconds."""
        dtype, rates = str(contender.multiplies_in).removeprefix("torch."), self.found.rates
        if dtype not in rates:
            rates[dtype] = roofline.measure_rate(self.problem.device, contender.multiplies_in)
        size, limit = (self.problem.shape, self.iterations, self.problem.x_BNC.itemsize), self.found.bandwidth
        forward, both = roofline.forward_work(*size), roofline.forward_backward_work(*size)
        return forward.bound(limit, rates[dtype]), both.bound(limit, rates[dtype])
