"""The sections of gpu_check.py that measure in one process: kernels, engines, blocks, steps, sizes.

Shape suffixes: B images, N positions, C channels, K components, T iterations.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from torch import Tensor

from hemnet.bench.problem import Shape, draw
from hemnet.bench.timing import peak_extra_memory, seconds
from hemnet.config.build import build_network, build_task
from hemnet.config.compose import load
from hemnet.data import Batch, DatasetSpec
from hemnet.em import unroll
from hemnet.em.engine import triton_launch, triton_passes
from hemnet.em.engine.passes import TorchPasses
from hemnet.em.engine.triton_limits import trial, why_not
from hemnet.em.engine.triton_passes import TritonPasses
from hemnet.em.gradient.step import pull_step, take_step
from hemnet.em.options import Mixture
from hemnet.training.arithmetic import use_float32
from hemnet.training.task import SegmentationTask

# Relative to the norm of the result; the reasons are those of tests/em/engine/test_triton.py.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Sizes:
    """What is run: on a GPU at full size, or dry on a CPU.

    Attributes:
        device: torch's name of it; trainer: the option of the group of that name.
        problems: (C, K) of the kernels; positions: N of them.
        layer: the shape of the engines' features; depths: T; repeats: timed calls.
        network: changes of voc_hem's network; crop: side of an image; batch: images; steps: of training.
        sizes: images of the validation; run_steps, run_changes, evaluation: of the commands.
    """

    device: str
    trainer: str
    problems: Sequence[tuple[int, int]]
    positions: int
    layer: Shape
    depths: Sequence[int]
    repeats: int
    network: Sequence[str]
    crop: int
    batch: int
    steps: int
    sizes: int
    run_steps: int
    run_changes: Sequence[str]
    evaluation: Sequence[str]


FULL = Sizes(
    device="cuda",
    trainer="gpu",
    problems=[(512, 64), (1024, 64), (256, 32), (300, 21), (512, 256)],
    positions=4225,
    layer=Shape(16, 4225, 512, 64),
    depths=(1, 3, 8),
    repeats=30,
    network=(),
    crop=513,
    batch=16,
    steps=60,
    sizes=40,
    run_steps=300,
    run_changes=("data.batch_size=8", "data.num_workers=8"),
    evaluation=("--flip",),
)
DRY = Sizes(
    device="cpu",
    trainer="cpu",
    problems=[(20, 5)],
    positions=40,
    layer=Shape(1, 40, 20, 5),
    depths=(1,),
    repeats=1,
    network=(
        "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=16",
        "model.num_components=4",
    ),
    crop=33,
    batch=2,
    steps=2,
    sizes=2,
    run_steps=4,
    run_changes=(
        "data.train.length=16", "data.batch_size=2", "data.num_workers=0", "data.train.size=64",
        "data.val.length=2", "data.val.size=64", "data.train.cells=4", "data.val.cells=4",
        "model.backbone.width=4", "model.head.channels=8",
    ),
    evaluation=(),
)  # fmt: skip


def has_gpu() -> bool:
    """Whether torch finds a GPU."""
    return torch.cuda.is_available()


def machine(sizes: Sizes, folder: Path) -> list[str]:
    """What this is."""
    lines = [f"- torch {torch.__version__}, CUDA {torch.version.cuda}, Triton {triton.__version__}"]
    if sizes.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        lines += [
            f"- {torch.cuda.device_count()} of {about.name}, compute capability {about.major}.{about.minor}, "
            f"{about.total_memory / 2**30:.0f} GiB, {about.multi_processor_count} multiprocessors, "
            f"{about.shared_memory_per_block_optin // 1024} KB of shared memory for a program",
        ]
    tried = trial(torch.device(sizes.device), torch.bfloat16, *reversed(sizes.problems[0]), weighted=False)
    return [*lines, f"- a trial of the kernels: {tried or 'works'}"]


def kernels(sizes: Sizes, folder: Path) -> list[str]:
    """The largest relative error of every pass and step, of features of every type."""
    lines, wrong = ["| type | C | K | worst error | of | allowed |", "|---|---|---|---|---|---|"], []
    for (channels, components), (dtype, allowed) in itertools.product(sizes.problems, TOLERANCES.items()):
        errors = _errors(sizes, dtype, components, channels)
        worst = max(errors, key=lambda name: errors[name])
        kind = str(dtype).removeprefix("torch.")
        lines.append(
            f"| {kind} | {channels} | {components} | {errors[worst]:.1e} | {worst} | {allowed:.0e} |"
        )
        wrong += [f"{kind} C={channels} K={components}: {worst}"] if not errors[worst] <= allowed else []
    if wrong:
        raise ArithmeticError("\n".join([*lines, "beyond the tolerance: " + "; ".join(wrong)]))
    return lines


def _errors(sizes: Sizes, dtype: torch.dtype, components: int, channels: int) -> dict[str, float]:
    problem = draw(Shape(2, sizes.positions, channels, components), dtype, torch.device(sizes.device))
    x_BNC, mu_BKC, dy_BNC = (t.detach() for t in (problem.x_BNC, problem.mu_BKC.float(), problem.dy_BNC))
    mixture = Mixture(channels**0.5, "gaussian", "none")
    weights_BN = torch.rand_like(x_BNC[:, :, 0], dtype=torch.float32)
    found = []
    for wide in (False, True):
        to = torch.float64 if wide else torch.float32
        mu, d = mu_BKC.to(to), dy_BNC[:, :components].to(to).contiguous()
        h_B, moving_B = torch.full_like(mu[:, 0, 0], 0.5), torch.ones_like(mu[:, 0, 0], dtype=torch.bool)
        kind = TorchPasses if wide else TritonPasses
        passes = kind(x_BNC.to(to) if wide else x_BNC, mixture, weights_BN.to(to))
        dy = dy_BNC.to(to) if wide else dy_BNC
        step = take_step(passes, mu, h_B, mixture)
        results: dict[str, Tensor] = dict(zip(("next means", "mass"), step, strict=False))
        results["readout"] = passes.readout(mu, step.mu_BKC)
        results["gradient of the readout"] = passes.readout_vjp(mu, dy)
        for readout in (None, (dy, mu)):
            back = pull_step(passes, mu, h_B, moving_B, step, d, mixture, readout)
            results["gradient to the means" + (" with a readout" if readout else "")] = back[0]
        results["gradient to the features"] = passes.features_vjp()
        found.append(results)
    return {
        name: ((value.double() - found[1][name]).norm() / found[1][name].norm()).item()
        for name, value in found[0].items()
    }


def engines(sizes: Sizes, folder: Path) -> list[str]:
    """Every engine, eagerly and as a CUDA graph; float32 also with TF32; and the peak memory."""
    lines = ["| type | T | engine | eager | CUDA graph | peak MiB |", "|---|---|---|---|---|---|"]
    cases = [(torch.bfloat16, "highest"), (torch.float32, "highest"), (torch.float32, "high")]
    for (dtype, precision), depth in itertools.product(cases, sizes.depths):
        use_float32("high" if precision == "high" else "highest")
        for engine in ("reference", "recompute", "triton"):
            problem = draw(sizes.layer, dtype, torch.device(sizes.device))
            if engine == "triton" and (reason := why_not(problem.x_BNC, problem.mu_BKC)):
                lines.append(f"| {dtype} | {depth} | triton | {reason} | | |")
                continue
            call = _forward_backward(problem, engine, depth)
            call()
            eager, memory = _median(call, sizes), peak_extra_memory(call, problem.device) / 2**20
            graph = "" if sizes.device == "cpu" else f"{_median(_graph(call), sizes):.3f}"
            kind = str(dtype).removeprefix("torch.") + (" (TF32)" if precision == "high" else "")
            lines.append(f"| {kind} | {depth} | {engine} | {eager:.3f} | {graph} | {memory:.0f} |")
    moved = 2 * sizes.layer.images * sizes.layer.positions * sizes.layer.channels
    return [f"{sizes.layer}; the features are {moved / 2**20:.0f} MiB in bfloat16.", "", *lines]


def _forward_backward(problem, engine, depth: int) -> Callable[[], object]:  # type: ignore[no-untyped-def]
    def call() -> object:
        fit = unroll(problem.x_BNC, problem.mu_BKC, iterations=depth, engine=engine, variance=None)
        return torch.autograd.grad(fit.reconstruction, (problem.x_BNC, problem.mu_BKC), problem.dy_BNC)

    return call


def _graph(call: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _median(call: Callable[[], object], sizes: Sizes) -> float:
    device = torch.device(sizes.device)
    return 1000 * statistics.median(seconds(call, device) for _ in range(sizes.repeats))


def blocks(sizes: Sizes, folder: Path) -> list[str]:
    """The rule's blocks and others, which tells whether another rule would be faster on this GPU."""
    lines = ["| type | positions | channels | width | ms |", "|---|---|---|---|---|"]
    *_, channels, components = sizes.layer
    for dtype, tile, halves in itertools.product((torch.bfloat16, torch.float32), (16, 32, 64), (1, 2)):
        rule = triton_launch.choose_blocks(dtype, components, channels)
        chosen = rule._replace(positions=tile, width=max(16, rule.width // halves))
        call = _forward_backward(
            draw(sizes.layer, dtype, torch.device(sizes.device)), "triton", sizes.depths[-1]
        )
        try:
            with mock.patch.object(triton_passes, "choose_blocks", lambda *_, chosen=chosen: chosen):
                call()
                said = f"{_median(call, sizes):.3f}"
        except Exception as error:  # such as too much shared memory, which is an answer too
            said = type(error).__name__
        mark = " (the rule's)" if chosen == rule else ""
        kind = str(dtype).removeprefix("torch.")
        lines.append(f"| {kind} | {chosen.positions} | {chosen.channels} | {chosen.width} | {said}{mark} |")
    return lines


def steps(sizes: Sizes, folder: Path) -> list[str]:
    """Steps of voc_hem's network on drawn images: with each engine, compiled, and without an EM layer."""
    ways = {
        "triton": ["model.head.engine=triton"],
        "recompute": ["model.head.engine=recompute"],
        "auto, compiled": ["task.compile=true"],
        "fcn, no EM layer": ["model/head=fcn"],
    }
    lines = ["| way | first step, s | median ms | peak GiB | loss |", "|---|---|---|---|---|"]
    for name, changes in ways.items():
        if "task.compile=true" in changes and sizes.device == "cpu":
            continue  # minutes
        lines.append(f"| {name} | {' | '.join(_train_steps(sizes, changes))} |")
    return [f"{sizes.batch} images of {sizes.crop} x {sizes.crop}, bf16-mixed, SGD.", "", *lines]


def _made(sizes: Sizes, changes: Sequence[str]) -> SegmentationTask:
    config = load(["experiment=voc_hem", *sizes.network, "model.backbone.weights=null", *changes])
    torch.manual_seed(0)
    spec = DatasetSpec("drawn", *zip(*((f"class {k}", (k, k, k)) for k in range(21)), strict=True))
    return build_task(config, build_network(config, 21, pretrained=False).to(sizes.device), spec)


def _batch(sizes: Sizes, images: int, height: int, width: int) -> Batch:
    drawn = torch.Generator().manual_seed(0)
    return Batch(
        image=torch.randn(images, 3, height, width, generator=drawn).to(sizes.device),
        mask=torch.randint(0, 21, (images, height, width), generator=drawn).to(sizes.device, torch.uint8),
        name=[f"image {i}" for i in range(images)],
    )


def _train_steps(sizes: Sizes, changes: Sequence[str]) -> list[str]:
    device = torch.device(sizes.device)
    torch.backends.cudnn.benchmark = True
    task, batch = _made(sizes, changes).train(), _batch(sizes, sizes.batch, sizes.crop, sizes.crop)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    optimizer, _ = task.optimization.build(task.network, sizes.steps)
    losses = []

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = task.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    first = seconds(step, device)
    times = [seconds(step, device) for _ in range(sizes.steps)]
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    if not torch.stack(losses).isfinite().all():
        raise ArithmeticError("a loss is not finite")
    median = 1000 * statistics.median(times)
    return [
        f"{first:.1f}",
        f"{median:.1f}",
        f"{memory:.1f}",
        f"{losses[0].item():.3f} to {losses[-1].item():.3f}",
    ]


def many_sizes(sizes: Sizes, folder: Path) -> list[str]:
    """Validation of images of many sizes, with cuDNN's search and without it, as validation has it."""
    lines = []
    for search in (False, True):
        torch.backends.cudnn.benchmark = search
        task = _made(sizes, []).eval()
        started = time.monotonic()
        for number in range(sizes.sizes):
            batch = _batch(sizes, 1, 32 + 8 * number if sizes.device == "cpu" else 320 + 8 * number, 65)
            with torch.no_grad(), torch.autocast(sizes.device, torch.bfloat16):
                task.validation_step(batch, number)
        lines.append(f"- cuDNN's search {'on' if search else 'off'}: {time.monotonic() - started:.1f} s")
    return lines
