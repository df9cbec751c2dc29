"""Losses and gradients that are not finite: training stops and names the images, or skips the step."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from hemnet.callbacks.em_probe import em_layers
from hemnet.callbacks.last_checkpoint import LastCheckpoint
from hemnet.callbacks.lightning_state import callbacks_of, loss_scaler
from hemnet.data import Batch
from hemnet.errors import HemnetError
from hemnet.processes.ranks import all_ranks
from hemnet.runs import checkpoints
from hemnet.training.task import SegmentationTask
from hemnet.wording import counted, shortened

log = logging.getLogger(__name__)
Policy = Literal["stop", "skip"]


class NotFiniteError(HemnetError):
    """A loss, a gradient or an output of the network is not finite, and training stops."""


class Part(NamedTuple):
    """One batch of a step: whether its loss is finite, and the names of its images."""

    finite: bool
    names: list[str]


class FiniteSteps(pl.Callback):
    """Prevents optimizer steps whose loss or gradient is not finite; all ranks decide alike.

    A loss that is not finite on one rank makes the averaged gradient of all ranks not finite, which
    `SegmentationTask.training_step` ensures. If the precision is 16, the losses are finite and only a
    gradient overflows, the loss scaler skips the step, as it does without this callback, and lowers the
    scale.

    A validation in which the network's output is not finite stops training too, before a checkpoint of those
    weights is saved.

    A skipped step changes no weight, optimizer state, batch statistic or mean of an EM layer. It still counts
    as a step in the learning-rate schedule and in ``max_steps``.

    Args:
        policy: ``stop`` ends training with an error. ``skip`` skips the step, logs the number of skipped
            steps as ``train/skipped_steps``, and only warns after a validation.
        most: how many steps in a row may be skipped, >= 0; one more ends training.

    Raises:
        ValueError: an argument is out of range.
        NotFiniteError: during training.
    """

    def __init__(self, policy: Policy = "stop", most: int = 10) -> None:
        if policy not in get_args(Policy):
            raise ValueError(f"policy is {policy!r}; it must be one of {get_args(Policy)}")
        if most < 0:
            raise ValueError(f"most is {most}; it must be 0 or more steps in a row")
        self.policy = policy
        self.most = most
        self.skipped = 0
        self._in_a_row = 0
        self._begin()

    def _begin(self) -> None:
        """Discard what was noted about the last step."""
        self._names: list[list[str]] = []
        self._losses: list[Tensor] = []
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discard what an earlier training of this process may have left."""
        self._begin()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note the images' names and, at the first batch of a step, copy what the forward pass changes."""
        if self.policy == "skip" and not self._names:
            self._before = [tensor.clone() for tensor in _changing(pl_module)]
        self._names.append(batch["name"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss as a tensor, so that nothing waits for the device."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradient: averaged over the ranks and without the loss scale, not yet clipped.

        Raises:
            NotFiniteError: the gradient is not finite, and the step must not be skipped.
        """
        bad = _not_finite(pl_module)
        if bad:
            self._judge(trainer, pl_module, optimizer, bad)
        else:
            self._in_a_row = 0
        if self.policy == "skip":
            pl_module.log("train/skipped_steps", float(self.skipped), on_step=True, on_epoch=False)
        self._begin()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check whether the network's output was finite in the validation.

        Raises:
            NotFiniteError: the network's output is not finite for some image, on any rank.
        """
        assert isinstance(pl_module, SegmentationTask)
        names = [name for own in all_ranks(pl_module.not_finite) for name in own]
        if not names or self.policy == "skip":
            return
        when, last = "", ""
        if trainer.state.fn == TrainerFn.FITTING:
            steps = trainer.global_step
            when, last = f" after {counted(steps, 'step')}", f" {_last_good(trainer, before=steps)}"
        raise NotFiniteError(
            f"validation{when}: the network's output is not finite for {shortened(names)}, so its scores "
            f"mean nothing.{last} What may help: {_remedies(trainer)}; or callbacks.finite.policy=skip "
            "to be warned only"
        )

    def _judge(
        self, trainer: pl.Trainer, task: pl.LightningModule, optimizer: torch.optim.Optimizer, bad: list[str]
    ) -> None:
        """Raise for a step that is not finite, skip it, or leave it to the loss scaler."""
        own = [Part(bool(loss.isfinite()), n) for loss, n in zip(self._losses, self._names, strict=True)]
        parts = all_ranks(own)
        scaled = loss_scaler(trainer) is not None
        if scaled and all(part.finite for rank in parts for part in rank):
            return
        self._in_a_row += 1
        what = _describe(trainer.global_step, parts, bad)
        if self.policy == "stop" or self._in_a_row > self.most:
            raise NotFiniteError(f"{what} {self._ending(trainer)}")
        if trainer.is_global_zero:
            log.warning("%s The step is skipped.", what)
        self._skip(task, optimizer, scaled)

    def _skip(self, task: pl.LightningModule, optimizer: torch.optim.Optimizer, scaled: bool) -> None:
        self.skipped += 1
        for tensor, before in zip(_changing(task), self._before, strict=True):
            tensor.copy_(before)
        if not scaled:  # a scaler skips the step by itself, and needs the gradient for it
            optimizer.zero_grad(set_to_none=True)  # the optimizer ignores parameters whose gradient is None

    def _ending(self, trainer: pl.Trainer) -> str:
        """Return the part of the error message that says what to do."""
        row = f"callbacks.finite.policy=skip to skip such steps, up to {self.most} in a row"
        if self.policy == "skip":
            skipped = counted(self.most, "step")
            row = f"a larger callbacks.finite.most: {skipped} in a row were skipped before this one"
        return f"The step was not taken. {_last_good(trainer)} What may help: {_remedies(trainer)}; or {row}"

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, for the checkpoint."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts from a checkpoint."""
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def _remedies(trainer: pl.Trainer) -> str:
    found = ["a lower learning rate (optim.optimizer.lr)"]
    if trainer.gradient_clip_val is None:
        found.append("trainer.gradient_clip_val=1")
    if trainer.precision not in ("32-true", "64-true"):
        found.append("trainer.precision=32")
    return ", ".join(found)


def _not_finite(module: nn.Module) -> list[str]:
    """Return the names of the parameters whose gradient is not finite."""
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    # One number to wait for instead of many. The norm may overflow even if all gradients are finite, so only
    # a finite norm is conclusive.
    if bool(get_total_norm(list(gradients.values())).isfinite()):
        return []
    return [name for name, gradient in gradients.items() if not gradient.isfinite().all()]


def _changing(task: pl.LightningModule) -> list[Tensor]:
    """Return the tensors that a forward pass in training mode changes: buffers, and the EM layers' sums."""
    assert isinstance(task, SegmentationTask)
    noted = [layer.pending for layer in em_layers(task.network).values() if layer.averages]
    return [*task.network.buffers(), *noted]


def _describe(step: int, parts: list[list[Part]], bad: list[str]) -> str:
    """Return a message: the step, what is not finite in it, and all images of the step."""
    failed, every = _files(parts, lambda part: not part.finite), _files(parts, lambda _: True)
    if failed:
        what = f"the loss is not finite for {failed}"
    else:
        what = f"the loss is finite, but not its gradient in {shortened(bad, 3)}"
    whole = "" if failed == every else f" The whole step was of {every}."
    return f"step {step}: {what}.{whole}"


def _files(parts: list[list[Part]], wanted: Callable[[Part], bool]) -> str:
    """Return the names of the images in the ``wanted`` parts, by rank if there are several ranks."""
    found = []
    for rank, own in enumerate(parts):
        names = ", ".join(name for part in own if wanted(part) for name in part.names)
        if names:
            found.append(f"{names} (rank {rank})" if len(parts) > 1 else names)
    return "; ".join(found)


def _last_good(trainer: pl.Trainer, before: float = math.inf) -> str:
    """Return a sentence on the newest checkpoint of finite weights, of fewer than ``before`` steps."""
    for last in callbacks_of(trainer, LastCheckpoint):
        for path in (last.path, last.path.with_name(checkpoints.PREVIOUS)):
            if (step := _step_of(path)) is not None and step < before:
                return f"The last good checkpoint is {path}, after {counted(step, 'step')}."
    return "There is no good checkpoint yet."


def _step_of(path: Path) -> int | None:
    """Return the steps before a checkpoint; None if it is unusable or its weights are not finite."""
    try:
        content = checkpoints.read(path)
    except checkpoints.CheckpointError:
        return None
    finite = all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    return int(content["global_step"]) if finite else None
