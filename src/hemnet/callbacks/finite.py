"""Losses and gradients that are not finite: training ends with a word on where, or goes on without them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from hemnet.callbacks.em_probe import em_layers
from hemnet.callbacks.last_checkpoint import LastCheckpoint
from hemnet.data import Batch
from hemnet.errors import HemnetError
from hemnet.processes.ranks import distributed
from hemnet.runs import checkpoints
from hemnet.training.task import SegmentationTask, shortened

log = logging.getLogger(__name__)
Policy = Literal["stop", "skip"]
T = TypeVar("T")


class NotFiniteError(HemnetError):
    """A loss or a gradient is not finite, and training does not go on."""


class Part(NamedTuple):
    """One batch of a step: whether its loss is finite, and the names of its images."""

    finite: bool
    names: list[str]


class FiniteSteps(pl.Callback):
    """Takes no optimizer step whose loss or gradient is not finite; all ranks decide alike.

    What a rank finds in its own batches reaches the others through the mean of the gradients, which
    `SegmentationTask` sees to. Where a gradient overflows though all losses are finite and precision is 16,
    it is left to the loss scaler, which leaves such steps out and scales less.

    A validation where the network's output is not finite ends training too, before those weights are saved.

    A step that is left out changes no weight, no state of the optimizer, no batch statistics and no mean of
    an EM layer. It counts as a step all the same: in the learning rate's schedule, and in ``max_steps``.

    Args:
        policy: ``stop`` ends training with an error; ``skip`` leaves the step out, and logs how many
            were left out so far as ``train/skipped_steps``, and lets a validation pass with a warning.
        most: steps in a row that may be left out, >= 0; one more ends training.

    Raises:
        ValueError: an argument is out of range.
        NotFiniteError: while training.
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
        """Forget the last step."""
        self._names: list[list[str]] = []
        self._losses: list[Tensor] = []
        self._before: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew, whatever a training before left behind."""
        self._begin()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Note the images' names and, at the first batch of a step, what the forward pass will change."""
        if self.policy == "skip" and not self._names:
            self._before = [tensor.clone() for tensor in _changing(pl_module)]
        self._names.append(batch["name"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Keep the loss, unread: nothing waits for the device."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at the gradient, averaged over the ranks by now and rid of the loss scale, not yet clipped.

        Raises:
            NotFiniteError: it is not finite, and the step is not to be left out.
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
        """Look at what the validation found.

        Raises:
            NotFiniteError: the network's output is not finite for some image, on any rank.
        """
        assert isinstance(pl_module, SegmentationTask)
        names = [name for own in _gather(pl_module.not_finite) for name in own]
        if not names or self.policy == "skip":
            return
        when, last = "", ""  # once training is over, the last checkpoint is of these very weights
        if trainer.state.fn == TrainerFn.FITTING:
            when, last = f" after {trainer.global_step} steps", f" {_last_good(trainer)}"
        raise NotFiniteError(
            f"validation{when}: the network's output is not finite for {shortened(names)}, so its scores "
            f"mean nothing.{last} What may help: {_remedies(trainer)}; or callbacks.finite.policy=skip "
            "to be warned only"
        )

    def _judge(
        self,
        trainer: pl.Trainer,
        task: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
        bad: list[str],
    ) -> None:
        own = [Part(bool(loss.isfinite()), n) for loss, n in zip(self._losses, self._names, strict=True)]
        parts = _gather(own)
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if scaled and all(part.finite for rank in parts for part in rank):
            return
        self._in_a_row += 1
        what = _describe(trainer.global_step, parts, bad)
        if self.policy == "stop" or self._in_a_row > self.most:
            raise NotFiniteError(f"{what} {self._ending(trainer)}")
        if trainer.is_global_zero:
            log.warning("%s The step is left out.", what)
        self._leave_out(task, optimizer, scaled)

    def _leave_out(self, task: pl.LightningModule, optimizer: torch.optim.Optimizer, scaled: bool) -> None:
        self.skipped += 1
        for tensor, before in zip(_changing(task), self._before, strict=True):
            tensor.copy_(before)
        if not scaled:  # a scaler has seen the gradient, and needs it to leave the step out
            optimizer.zero_grad(set_to_none=True)  # no momentum, no decay: the optimizer passes by

    def _ending(self, trainer: pl.Trainer) -> str:
        """Return what the error says about what to do."""
        row = f"callbacks.finite.policy=skip to leave out such steps, up to {self.most} in a row"
        if self.policy == "skip":
            row = f"a larger callbacks.finite.most: {self.most} steps in a row were left out before this one"
        return f"The step was not taken. {_last_good(trainer)} What may help: {_remedies(trainer)}; or {row}"

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, which a run that is gone on with goes on with."""
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the counts."""
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
    # One number to wait for. It overflows before the gradients do, so it can but acquit.
    if bool(get_total_norm(list(gradients.values())).isfinite()):
        return []
    return [name for name, gradient in gradients.items() if not gradient.isfinite().all()]


def _changing(task: pl.LightningModule) -> list[Tensor]:
    """Return what a forward pass in training mode changes: statistics, and what EM layers have noted."""
    assert isinstance(task, SegmentationTask)
    noted = [layer.pending for layer in em_layers(task.network).values() if layer.averages]
    return [*task.network.buffers(), *noted]


def _gather(own: list[T]) -> list[list[T]]:
    """Return the lists of all ranks."""
    if not distributed():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def _describe(step: int, parts: list[list[Part]], bad: list[str]) -> str:
    """Return what is not finite in which step, and of which files the whole step was."""
    failed, every = _files(parts, lambda part: not part.finite), _files(parts, lambda _: True)
    if failed:
        what = f"the loss is not finite for {failed}"
    else:
        what = f"the loss is finite, but not its gradient in {shortened(bad, 3)}"
    whole = "" if failed == every else f" The whole step was of {every}."
    return f"step {step}: {what}.{whole}"


def _files(parts: list[list[Part]], wanted: Callable[[Part], bool]) -> str:
    """Return the names of the images of the parts that are wanted, rank by rank where there are several."""
    found = []
    for rank, own in enumerate(parts):
        names = ", ".join(name for part in own if wanted(part) for name in part.names)
        if names:
            found.append(f"{names} (rank {rank})" if len(parts) > 1 else names)
    return "; ".join(found)


def _last_good(trainer: pl.Trainer) -> str:
    """Return a sentence on the newest checkpoint whose weights are finite."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for last in (callback.path for callback in callbacks if isinstance(callback, LastCheckpoint)):
        for path in (last, last.with_name(checkpoints.PREVIOUS)):
            if (step := _step_of(path)) is not None:
                return f"The last good checkpoint is {path}, after {step} steps."
    return "There is no checkpoint from before."


def _step_of(path: Path) -> int | None:
    """Return the steps behind a checkpoint; None if it cannot be used or its weights are not finite."""
    try:
        content = checkpoints.read(path)
    except checkpoints.CheckpointError:
        return None
    finite = all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    return int(content["global_step"]) if finite else None
