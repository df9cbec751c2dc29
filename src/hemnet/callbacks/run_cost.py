"""The cost of a run: time per step, memory, parameters, floating-point operations."""

import resource
import statistics
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from hemnet.callbacks.em_probe import evaluating, last_step, log_metrics
from hemnet.data import Batch
from hemnet.em import HighwayEM
from hemnet.nets import Segmenter
from hemnet.nets.flops import count_flops, count_parameters
from hemnet.training.task import SegmentationTask

# The first steps, in which libraries initialise and choose their algorithms.
WARM_UP = 10
# On CUDA, the time of a step is read this many steps later: by then the step has ended, so nothing waits.
BEHIND = 100


class RunCost(pl.Callback):
    """Logs cost/* once, at the end of training, at its last step.

    - ``cost/seconds_per_step``: median time of an optimizer step, over all steps but the first ten (all, if
      there are no more). The time of a step includes forward pass, backward pass and optimizer for all its
      batches, but neither data loading nor validation. On CUDA it is measured by events on the stream, so
      that nothing waits for the device.
    - ``cost/peak_memory_mib``: the peak memory of rank 0: on CUDA, of tensors since training began; on other
      devices, of the process.
    - ``cost/parameters``: parameters of the network, including an auxiliary head.
    - ``cost/em_parameters``: parameters of the modules that hold an EM layer, such as
      `hemnet.nets.heads.EMUnit`: what EM adds to an FCN head.
    - ``cost/gflops``: 10⁹ floating-point operations of a forward pass in evaluation mode over one image of
      the size of the training crop, counted by `hemnet.nets.flops`.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._step = -1
        self._this_step = 0.0
        self._started = 0.0
        self._pending: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = []
        self._crop: tuple[int, int] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the record of the peak memory."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
            self._pending = [[]]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Start the clock."""
        self._crop = (batch["image"].shape[-2], batch["image"].shape[-1])
        self._step = trainer.global_step
        if self._pending:
            self._pending[-1].append((_recorded(), torch.cuda.Event(enable_timing=True)))
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the clock; the time of a step is the sum over its batches."""
        self._this_step += time.perf_counter() - self._started
        if self._pending:
            self._pending[-1][-1][1].record()
        if trainer.global_step == self._step:
            return
        if self._pending:
            self._pending.append([])
            if len(self._pending) > BEHIND:
                self._read(self._pending.pop(0))
        else:
            self._seconds.append(self._this_step)
        self._this_step = 0.0

    def _read(self, events: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> None:
        if events:
            self._seconds.append(sum(start.elapsed_time(end) for start, end in events) / 1000)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log all values."""
        assert isinstance(pl_module, SegmentationTask)
        if not trainer.is_global_zero or self._crop is None:
            return
        if self._pending:
            torch.cuda.synchronize(pl_module.device)
            for events in self._pending:
                self._read(events)
        network = pl_module.network
        metrics = {
            "cost/peak_memory_mib": peak_memory_mib(pl_module.device),  # before counting FLOPs takes memory
            "cost/parameters": count_parameters(network)["total"],
            "cost/em_parameters": em_parameters(network),
            "cost/gflops": self._gflops(pl_module, self._crop),
        }
        if self._seconds:
            metrics["cost/seconds_per_step"] = statistics.median(self._seconds[WARM_UP:] or self._seconds)
        log_metrics(trainer, metrics, last_step(trainer))

    def _gflops(self, task: SegmentationTask, crop: tuple[int, int]) -> float:
        parameter = next(task.network.parameters())
        image_BCHW = torch.zeros(1, 3, *crop, device=task.device, dtype=parameter.dtype)
        with evaluating(task.network):
            return count_flops(task.network, image_BCHW)["total"] / 1e9


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory in MiB: of tensors on a CUDA device, of the whole process for other devices."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # ru_maxrss is in bytes on macOS, in KiB elsewhere.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def em_parameters(network: Segmenter) -> int:
    """Return the number of parameters of the modules that hold an EM layer."""
    holders = [
        module
        for module in network.modules()
        if any(isinstance(child, HighwayEM) for child in module.children())
    ]
    found: set[nn.Parameter] = {parameter for module in holders for parameter in module.parameters()}
    return sum(parameter.numel() for parameter in found)


def _recorded() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
