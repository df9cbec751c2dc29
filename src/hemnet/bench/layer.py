"""The layer on a CPU beside what a user would write in its place: ten lines of plain autograd, also compiled.

All are called on images in both memory formats, with one thread and with two, and timed in turns. With one
thread, time is the processor time of the process, which other work on the machine hardly changes; with two it
is that of the clock. On a busy machine, two threads can be compared by the processor time of both (--clock
process), if they do not spin while they wait for each other (OMP_WAIT_POLICY=passive).

Shape suffixes: B images, C channels, H rows and W columns of positions, N positions, K components.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hemnet.bench.agreement import check
from hemnet.bench.arguments import say
from hemnet.bench.contenders import HIGHWAY_SCALE, Contender, Reconstruction
from hemnet.bench.problem import Problem, Shape, draw
from hemnet.bench.results import LayerTimes
from hemnet.bench.timing import Budget, interleave
from hemnet.em import HighwayEM
from hemnet.em.engine import products

SHAPES = (Shape(2, 4225, 256, 64), Shape(4, 1350, 128, 32), Shape(8, 2304, 64, 32))
ITERATIONS = (1, 3, 16)
COMPILED_ITERATIONS = 3
LAYOUTS = {"channels last": False, "contiguous": True}
"""Whether the features lie channel after channel, by the name of the memory format."""
CLOCKS = {"process": time.process_time, "wall": time.perf_counter}
# A process that trains a network has freed tensors of this size. glibc's malloc keeps smaller ones from then
# on, so that none of the ways, by the order of its tensors, pays for pages that another one is given.
FREED_BYTES = 31 * 2**20


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        shapes: of the features and means.
        iterations: every T.
        budget: of the rounds of one setting, forward or with backward.
        compiles: whether torch.compile takes part at `COMPILED_ITERATIONS`.
        clock: a key of `CLOCKS`; by the number of threads if None.
    """

    shapes: tuple[Shape, ...]
    iterations: tuple[int, ...]
    budget: Budget
    compiles: bool
    clock: str | None = None


def measure(plan: Plan) -> list[LayerTimes]:
    """Compare each way with float64, then time all in turns, with one thread and with two if there are two.

    Raises:
        Disagreement: a way computes something else, so its times mean nothing.
    """
    torch.empty(FREED_BYTES, dtype=torch.uint8).fill_(1)
    available = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2)[:available]:
            torch.set_num_threads(threads)
            found += [times for shape in plan.shapes for times in _measure_shape(plan, shape)]
    finally:
        torch.set_num_threads(available)
    return found


def _measure_shape(plan: Plan, shape: Shape) -> Iterator[LayerTimes]:
    drawn, threads = draw(shape, torch.float32, torch.device("cpu")), torch.get_num_threads()
    clock = CLOCKS[plan.clock or ("process" if threads == 1 else "wall")]
    for iterations in plan.iterations:
        true = _truth(drawn, iterations)
        for layout, by_channel in LAYOUTS.items():
            say(f"layer, {threads} threads, {tuple(shape)}, {layout}, T={iterations}")
            problem = _laid_out(drawn, by_channel)
            ways = _ways(shape, iterations, plan.compiles and iterations == COMPILED_ITERATIONS)
            for way in ways:
                check(way, problem, iterations, true)
            passes = [[partial(run, problem) for run in (way.forward, way.forward_backward)] for way in ways]
            forward, both = (
                interleave(list(of_ways), problem.device, plan.budget, clock)
                for of_ways in zip(*passes, strict=True)
            )
            names = [way.name for way in ways]
            yield LayerTimes(
                shape._asdict(), layout, threads, iterations, clock.__name__, products.library(threads),
                dict(zip(names, forward, strict=True)), dict(zip(names, both, strict=True)),
            )  # fmt: skip


def _ways(shape: Shape, iterations: int, compiles: bool) -> list[Contender]:
    plain = partial(plain_unroll, iterations=iterations)
    layer = HighwayEM(
        shape.channels, shape.components, iterations, HIGHWAY_SCALE, means="learned"
    )  # whose own means have no part: each image has means of its own
    ways: dict[str, Reconstruction] = {"plain": plain, "layer": layer}
    if compiles:
        torch.compiler.reset()
        ways["compiled"] = torch.compile(plain, fullgraph=True, dynamic=False)
    return [Contender(name, _on_images(way), torch.float32) for name, way in ways.items()]


def plain_unroll(x_BCHW: Tensor, mu_BKC: Tensor, iterations: int) -> Tensor:
    """T >= 1 iterations as a user would write them; equations and memory formats are those of the layer."""
    x_BNC, variance = x_BCHW.flatten(2).mT, math.sqrt(x_BCHW.shape[1])
    for _ in range(iterations):
        z_BNK = torch.softmax(x_BNC @ (mu_BKC / variance).mT, dim=2)
        m_BKC = (z_BNK.mT @ x_BNC) / z_BNK.sum(dim=1).unsqueeze(2)
        mu_BKC = HIGHWAY_SCALE * mu_BKC + (1 - HIGHWAY_SCALE) * m_BKC
    y_BCN = mu_BKC.mT @ z_BNK.mT if x_BCHW.is_contiguous() else (z_BNK @ mu_BKC).mT
    return y_BCN.unflatten(2, x_BCHW.shape[2:])


def _on_images(way: Reconstruction) -> Reconstruction:
    """Let what takes and returns images take and return their positions, as views."""

    def reconstruction(x_BNC: Tensor, mu_BKC: Tensor) -> Tensor:
        positions = x_BNC.shape[1]
        width = next(width for width in range(math.isqrt(positions), 0, -1) if positions % width == 0)
        return way(x_BNC.mT.unflatten(2, (-1, width)), mu_BKC).flatten(2).mT

    return reconstruction


def _laid_out(problem: Problem, by_channel: bool) -> Problem:
    x_BNC, dy_BNC = (
        products.ready(tensor.detach(), by_channel) for tensor in (problem.x_BNC, problem.dy_BNC)
    )
    return Problem(x_BNC.requires_grad_(), problem.mu_BKC, dy_BNC)


def _truth(problem: Problem, iterations: int) -> list[Tensor]:
    plain = Contender("plain", _on_images(partial(plain_unroll, iterations=iterations)), torch.float64)
    images = [problem.image(index) for index in range(problem.shape.images)]
    found = [plain.forward_backward(image) for image in images]
    return [torch.cat(parts) for parts in zip(*found, strict=True)]
