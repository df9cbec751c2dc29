"""The checkpoint that training resumes from: written between steps, and complete enough to resume exactly."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from hemnet.callbacks.lightning_state import correct_step_count, move_best, settle
from hemnet.data import SegmentationData
from hemnet.errors import HemnetError
from hemnet.processes import signals
from hemnet.processes.ranks import all_ranks, distributed
from hemnet.wording import counted

RUN_ON, SAVE, STOP = 0, 1, 2


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch, every ``every_minutes``, and when a signal asks to stop.

    It is written after an optimizer step and the validation that follows it, never between the micro-batches
    of a step. Besides what Lightning saves, it holds the position in the order of samples and the random
    states of all ranks, so that resumed training takes exactly the steps that it would have taken.

    Args:
        path: the file to write.
        every_minutes: minutes between checkpoints within an epoch, > 0.

    Raises:
        ValueError: ``every_minutes`` is not above 0.
    """

    def __init__(self, path: str | Path, every_minutes: float = 10.0) -> None:
        if not every_minutes > 0:
            raise ValueError(f"every_minutes is {every_minutes}; it must be above 0")
        self.path = Path(path)
        self.every_minutes = every_minutes
        self._saved_at = 0.0
        self._saved_step = -1
        self._random_states: dict[str, Any] | None = None
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on, let signals wait for the end of a step."""
        signals.defer(True)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if distributed():
            self._group = dist.new_group(backend="gloo")  # decisions are made on the CPU: no GPU waits

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time or a signal has come, and stop if a signal has come."""
        if self._random_states is not None:
            _set_random_states(self._random_states)
            self._random_states = None
        if batch_idx % trainer.accumulate_grad_batches:
            return
        correct_step_count(trainer)
        decision = self._decide()
        if decision != RUN_ON and trainer.global_step != self._saved_step:
            self.save(trainer)
        if decision == STOP:
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if a signal came in the last step: the resumed run then does the final evaluation."""
        if self._decide() == STOP:
            self._stop()
        signals.defer(False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let signals act at once again; after an error `interruptible` does this instead."""
        signals.defer(False)

    def _decide(self) -> int:
        """Return what all ranks do next: the largest of their decisions `RUN_ON` < `SAVE` < `STOP`."""
        due = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        decision = torch.tensor(STOP if signals.asked() else SAVE if due else RUN_ON)
        if self._group is not None:
            dist.all_reduce(decision, dist.ReduceOp.MAX, group=self._group)
        return int(decision)

    @staticmethod
    def _stop() -> None:
        # The signal may have reached another rank only; SIGTERM then stands for it.
        raise signals.Interrupted(signals.asked() or signals.signals()[0])

    def save(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint now; to be called between two steps, or after the last, on every rank."""
        for logger in trainer.loggers:
            logger.save()  # metrics.csv must have all steps before the checkpoint
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position in the order of samples, and the random states of all ranks."""
        epoch, batches = settle(checkpoint["loops"]["fit_loop"], trainer.fit_loop.max_batches)
        states = all_ranks(_random_states(), self._group)
        checkpoint["place"] = {"epoch": epoch, "batches": batches, "random_states": states}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the position; the random states follow when the first batch has been loaded.

        Raises:
            HemnetError: the run had another number of processes.
        """
        place = checkpoint["place"]
        if (were := len(place["random_states"])) != trainer.world_size:
            raise HemnetError(
                f"the run had {counted(were, 'process', 'processes')} and cannot resume with "
                f"{trainer.world_size}, since each has its own samples and random numbers: start {were}"
            )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.state_key in checkpoint["callbacks"]:
                move_best(checkpoint["callbacks"][callback.state_key], Path(str(callback.dirpath)))
        assert isinstance(trainer.datamodule, SegmentationData)  # type: ignore[attr-defined]
        trainer.datamodule.start_at(place["epoch"], place["batches"])  # type: ignore[attr-defined]
        self._random_states = place["random_states"][trainer.global_rank]


def _random_states() -> dict[str, Any]:
    """Return the states of all global random generators as plain containers and tensors."""
    legacy: Any = np.random.get_state()  # noqa: NPY002 - the generator that libraries draw from
    kind, keys, *rest = legacy
    states = {
        "torch": torch.get_rng_state(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
