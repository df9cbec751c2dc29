"""Training steps of several processes on this machine, timed: alone, all at once, with averaged gradients.

Each process uses one thread and trains on one batch of its own, the same in every step. A process that waits
for the others takes no CPU time.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from hemnet.bench.arguments import BenchError, say
from hemnet.bench.timing import Ratio, paired, seconds
from hemnet.config.build import build_data, build_evaluator, build_network, build_task
from hemnet.config.command_line import log_to_terminal
from hemnet.config.compose import load
from hemnet.data import Batch
from hemnet.processes.children import die_with_parent
from hemnet.training.task import SegmentationTask

# DDP's default size of the buckets in which gradients are all-reduced.
BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class Measured:
    """Seconds, one per round; of several processes those of the slowest.

    Attributes:
        about: name, batch and crop of the recipe, precision, bytes of its gradients.
        processes: how many train together.
        alone: step of one process while the others wait.
        apart: step of all processes at once, each training for itself: what they lose by sharing the machine.
        together: step of all processes at once, gradients averaged.
        reduce: the all-reduce of as many bytes as the gradients have, and nothing else.
    """

    about: dict[str, Any]
    processes: int
    alone: list[float]
    apart: list[float]
    together: list[float]
    reduce: list[float]

    def efficiency(self, times: list[float]) -> Ratio:
        """Return the step of one process alone over the steps ``times``."""
        return paired(self.alone, times)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a process sends, and at once receives, in the all-reduce around a ring."""
        sent = 2 * (self.processes - 1) / self.processes * self.about["gradient_bytes"]
        return sent / median(self.reduce)


def measure(overrides: list[str], processes: int, rounds: int) -> Measured:
    """Start the processes, and time the four kinds of work in rounds, each starting with another kind.

    Args:
        overrides: of the training configuration.
        processes: how many train together, >= 2.
        rounds: how many are counted, >= 1, after one that is not.

    Raises:
        hemnet.errors.HemnetError: the configuration is wrong, or a process ends.
    """
    load(overrides)  # a wrong configuration is then reported once, not by every process
    say(f"starting {processes + 1} processes")
    times = torch.zeros(4, rounds + 1, processes + 1).share_memory_()
    barrier = multiprocessing.get_context("spawn").Barrier(processes + 1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            multiprocessing.spawn(_work, (barrier, times, overrides, folder), processes + 1, daemon=True)
        except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
            reason = str(error).strip().splitlines()[-1]
            raise BenchError(f"a process of the benchmark ended: {reason}") from error
        about = json.loads(Path(folder, "about.json").read_text("utf-8"))
    return Measured(about, processes, *times.amax(2)[:, 1:].tolist())


def _work(number: int, barrier: Barrier, times: Tensor, overrides: list[str], folder: str) -> None:
    """Be process 0, which works alone and without torch.distributed, or one of those that train together."""
    die_with_parent()
    log_to_terminal()
    warnings.filterwarnings("ignore", message="You are trying to `self.log")  # there is no trainer
    torch.set_num_threads(1)
    kinds, rounds, processes = times.shape
    if number > 0:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=number - 1, world_size=processes - 1,
            timeout=timedelta(minutes=5),
        )  # fmt: skip
    jobs = _jobs(number == 0, overrides, folder)
    for round_ in range(rounds):
        if number == 0:
            say(f"round {round_} of {rounds - 1}")
        for turn in range(kinds):
            which = (turn + round_) % kinds
            barrier.wait()
            if job := jobs[which]:
                times[which, round_, number] = seconds(job, torch.device("cpu"))
    barrier.wait()


def _jobs(alone: bool, overrides: list[str], folder: str) -> Sequence[Callable[[], object] | None]:
    """Return what a process does of the four kinds of work; the one alone writes facts about the recipe."""
    config = load([*overrides, "trainer.accelerator=cpu", "trainer.devices=1"])
    data = build_data(config)
    batch = next(iter(data.train_dataloader()))
    precision = build_evaluator(config).precision_plugin.forward_context

    def step(shared: bool) -> TrainingStep:
        network = build_network(config, data.spec.num_classes, pretrained=False)
        return TrainingStep(build_task(config, network, data.spec), batch, precision, shared)

    apart = step(shared=False)
    gradients = [torch.zeros_like(p) for p in apart.task.parameters() if p.requires_grad]
    if not alone:
        return None, apart, step(shared=True), _reduction(gradients)
    about = {
        "name": config.name, "batch": len(batch["image"]), "crop": list(batch["image"].shape[-2:]),
        "precision": config.trainer.precision, "gradient_bytes": sum(g.nbytes for g in gradients),
    }  # fmt: skip
    Path(folder, "about.json").write_text(json.dumps(about), "utf-8")
    return apart, None, None, None


class _Loss(nn.Module):
    """The loss of a task as a forward pass, which DDP can wrap."""

    def __init__(self, task: SegmentationTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        return self.task.training_step(batch, 0)


class TrainingStep:
    """A training step as a function: forward pass, backward pass, optimizer.

    Args:
        task: what is trained; an attribute too.
        batch: the batch of every step.
        precision: returns the context of the forward pass.
        shared: whether gradients are averaged over the processes.
    """

    def __init__(
        self, task: SegmentationTask, batch: Batch, precision: Callable[[], Any], shared: bool
    ) -> None:
        self.task = task.train()
        loss = _Loss(task)
        self._loss = DistributedDataParallel(loss) if shared else loss
        self._optimizer, _ = task.optimization.build(task.network, 1)
        self._batch, self._precision = batch, precision

    def __call__(self) -> None:
        """Take the step."""
        with self._precision():
            loss = self._loss(self._batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def _reduction(gradients: list[Tensor]) -> Callable[[], None]:
    """Return the all-reduce of a step's gradients alone, in buckets of DDP's size."""
    buckets = torch.cat([g.flatten() for g in gradients]).split(BUCKET_BYTES // 4)

    def reduce() -> None:
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            work.wait()

    return reduce
