"""Training steps by several processes at once, and by one that they leave the machine to.

Crews take turns: one works when it is told to, and otherwise waits without taking time. Its processes take
the step of training in one thread, each with a batch of its own that stays the same.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.nn.parallel import DistributedDataParallel

from hemnet.bench.options import BenchError
from hemnet.bench.timing import seconds
from hemnet.config.build import build_data, build_evaluator, build_network, build_task
from hemnet.config.command_line import log_to_terminal
from hemnet.config.compose import load
from hemnet.data import Batch
from hemnet.processes.children import die_with_parent
from hemnet.training.task import SegmentationTask

# DDP's own size of the pieces in which gradients are all-reduced.
BUCKET_BYTES = 25 * 2**20
ABOUT, TOGETHER, APART, REDUCE = "about", "together", "apart", "reduce"


class Crew:
    """Processes that train together; one alone trains without torch.distributed, as a run on one device does.

    Args:
        size: how many, >= 1.
        overrides: of the training configuration.
        folder: empty, for them to meet in.
    """

    def __init__(self, size: int, overrides: list[str], folder: str) -> None:
        context = get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        for rank in range(size):
            own, other = context.Pipe()
            process = context.Process(target=_work, args=(other, rank, size, overrides, folder), daemon=True)
            process.start()
            other.close()  # so that this end tells when the process is gone
            self._connections.append(own)
            self._processes.append(process)

    def do(self, what: str) -> list[Any]:
        """Have all do one thing at once; return what each answers, which for work is its seconds.

        Raises:
            BenchError: a process has ended.
        """
        try:
            for connection in self._connections:
                connection.send(what)
            return [connection.recv() for connection in self._connections]
        except (EOFError, OSError) as error:
            raise BenchError("a process of the benchmark ended; what it said stands above") from error

    def dismiss(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def crews(sizes: list[int], overrides: list[str]) -> Iterator[list[Crew]]:
    """Start crews of these sizes; end them with the block."""
    with tempfile.TemporaryDirectory() as folder:
        found: list[Crew] = []
        try:
            for i, size in enumerate(sizes):
                found.append(Crew(size, overrides, f"{folder}/{i}"))
            yield found
        finally:
            for crew in found:
                crew.dismiss()


def _work(orders: Connection, rank: int, size: int, overrides: list[str], meeting: str) -> None:
    """Be a process of a crew, until the other end of the connection is gone."""
    die_with_parent()
    log_to_terminal()
    warnings.filterwarnings("ignore", message="You are trying to `self.log")  # no trainer is there to listen
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(minutes=5)
        )
    jobs = _jobs(overrides, size)
    while (job := _order(orders)) is not None:
        orders.send(jobs[job]())


def _jobs(overrides: list[str], size: int) -> dict[str, Callable[[], Any]]:
    """Return what a process of a crew can be told to do."""
    config = load([*overrides, "trainer.accelerator=cpu", "trainer.devices=1"])
    data = build_data(config)
    batch = next(iter(data.train_dataloader()))
    precision = build_evaluator(config).precision_plugin.forward_context

    def step(shared: bool) -> Step:
        network = build_network(config, data.spec.num_classes, pretrained=False)
        return Step(build_task(config, network, data.spec), batch, precision, shared)

    apart = step(shared=False)
    gradients = [torch.zeros_like(p) for p in apart.task.parameters() if p.requires_grad]
    about = {
        "name": config.name, "batch": len(batch["image"]), "crop": list(batch["image"].shape[-2:]),
        "precision": config.trainer.precision, "gradient_bytes": sum(g.nbytes for g in gradients),
    }  # fmt: skip
    jobs: dict[str, Callable[[], Any]] = {ABOUT: lambda: about, APART: _timed(apart)}
    if size > 1:
        jobs |= {TOGETHER: _timed(step(shared=True)), REDUCE: _timed(_reduction(gradients))}
    return jobs


def _order(orders: Connection) -> str | None:
    try:
        return orders.recv()
    except EOFError:
        return None


def _timed(job: Callable[[], object]) -> Callable[[], float]:
    return lambda: seconds(job, torch.device("cpu"))


class _Loss(nn.Module):
    """The loss of a task as a forward pass, which is what DDP wraps."""

    def __init__(self, task: SegmentationTask) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        return self.task.training_step(batch, 0)


class Step:
    """A training step: forward pass, backward pass, optimizer.

    Args:
        task: whose; an attribute too.
        batch: of every step.
        precision: context of the forward pass.
        shared: whether gradients are averaged over the processes.
    """

    def __init__(
        self, task: SegmentationTask, batch: Batch, precision: Callable[[], Any], shared: bool = False
    ) -> None:
        self.task = task.train()
        loss = _Loss(task)
        self._loss = DistributedDataParallel(loss) if shared else loss
        self._optimizer, _ = task.optimization.build(task.network, 1)
        self._batch, self._precision = batch, precision

    def __call__(self) -> None:
        """Take it."""
        with self._precision():
            loss = self._loss(self._batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def _reduction(gradients: list[Tensor]) -> Callable[[], None]:
    """Return the all-reduce of a step's gradients alone, in pieces as DDP makes them."""
    pieces = torch.cat([g.flatten() for g in gradients]).split(BUCKET_BYTES // 4)

    def reduce() -> None:
        for work in [dist.all_reduce(piece, async_op=True) for piece in pieces]:
            work.wait()

    return reduce
