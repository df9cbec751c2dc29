"""The checkpoint that training goes on from: written between steps, complete enough to go on to the bit."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from hemnet.data import SegmentationData
from hemnet.errors import HemnetError
from hemnet.processes import signals
from hemnet.processes.ranks import distributed

RUN_ON, SAVE, STOP = 0, 1, 2


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` at the end of each epoch, every so many minutes, and when a signal asks to stop.

    It is written when a step and the validation that follows it are over, and no gradient is accumulated.
    Besides what Lightning saves it holds the place in the order of samples, and each rank's random states:
    training that goes on from it takes the very steps that it would have taken.

    Args:
        path: the file.
        every_minutes: time between checkpoints within an epoch, > 0.

    Raises:
        ValueError: ``every_minutes`` is not above 0.
    """

    def __init__(self, path: str, every_minutes: float = 10.0) -> None:
        if not every_minutes > 0:
            raise ValueError(f"every_minutes is {every_minutes}; it must be above 0")
        self.path = Path(path)
        self.every_minutes = every_minutes
        self._saved_at = 0.0
        self._saved_step = -1
        self._random_states: dict[str, Any] | None = None
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on, signals wait for the end of a step."""
        signals.defer(True)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if distributed():
            self._group = dist.new_group(backend="gloo")  # words on the CPU, which no GPU has to wait for

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between steps, where it is time or asked for; then stop, if that was asked for."""
        if self._random_states is not None:
            _set_random_states(self._random_states)
            self._random_states = None
        if batch_idx % trainer.accumulate_grad_batches:
            return
        # Lightning miscounts by one where it restarts at a step that was validated after.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        decision = self._decide()
        if decision != RUN_ON and trainer.global_step != self._saved_step:
            self._save(trainer)
        if decision == STOP:
            self._stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A signal of the last step stops here: the evaluation that follows is for the next start."""
        if self._decide() == STOP:
            self._stop()
        signals.defer(False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let signals act at once again; after an error, which ends in no teardown, `interruptible` does."""
        signals.defer(False)

    def _decide(self) -> int:
        """Return what all ranks do next: what the most urgent of them has to do."""
        due = time.monotonic() - self._saved_at >= 60 * self.every_minutes
        decision = torch.tensor(STOP if signals.asked() else SAVE if due else RUN_ON)
        if self._group is not None:
            dist.all_reduce(decision, dist.ReduceOp.MAX, group=self._group)
        return int(decision)

    @staticmethod
    def _stop() -> None:
        # Another rank may have had the signal; the usual one then stands for it.
        raise signals.Interrupted(signals.asked() or signals.signals()[0])

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # metrics.csv must not be behind the checkpoint
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the place in the order of samples, and the random states of all ranks."""
        epoch, batches = _settle(checkpoint["loops"]["fit_loop"])
        own = _random_states()
        states: list[Any] = [own]
        if distributed():
            states = [None] * dist.get_world_size()
            dist.all_gather_object(states, own, group=self._group)
        checkpoint["place"] = {"epoch": epoch, "batches": batches, "random_states": states}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go to that place; the random states are set when the first batch is there.

        Raises:
            HemnetError: the checkpoint is of another number of processes.
        """
        place = checkpoint["place"]
        if (were := len(place["random_states"])) != trainer.world_size:
            raise HemnetError(
                f"the run was of {were} processes and cannot go on with {trainer.world_size}, as each has "
                f"samples and random numbers of its own: start {were}"
            )
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.state_key in checkpoint["callbacks"]:
                _move(checkpoint["callbacks"][callback.state_key], Path(str(callback.dirpath)))
        assert isinstance(trainer.datamodule, SegmentationData)  # type: ignore[attr-defined]
        trainer.datamodule.start_at(place["epoch"], place["batches"])  # type: ignore[attr-defined]
        self._random_states = place["random_states"][trainer.global_rank]


def _move(best: dict[str, Any], folder: Path) -> None:
    """Make the state of a ModelCheckpoint one of ``folder``: it forgets the best of another."""
    here = lambda path: str(folder / Path(path).name) if path else path  # noqa: E731
    best["dirpath"] = str(folder)
    best["best_k_models"] = {here(path): score for path, score in best["best_k_models"].items()}
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        best[name] = here(best[name])


def _settle(loops: dict[str, Any]) -> tuple[int, int]:
    """Mark all that Lightning's loops have begun as completed; return the epoch and its batches so far.

    Lightning's state tells in which hook it was saved, and training goes on differently after each. Here it
    is always saved between steps, or between epochs.
    """
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    for part in ("total", "current"):
        _level(batches[part], batches[part]["completed"])
    batches["is_last_batch"] = False  # that of the next batch, which may have been fetched
    if epochs["current"]["started"] > epochs["current"]["processed"]:
        return epochs["current"]["processed"], batches["current"]["completed"]
    for part in ("total", "current"):
        _level(epochs[part], epochs[part]["processed"])
    _level(batches["current"], 0)
    return epochs["current"]["processed"], 0


def _level(progress: dict[str, int], count: int) -> None:
    for stage in progress:
        progress[stage] = count


def _random_states() -> dict[str, Any]:
    """Return the states of all global generators as plain containers and tensors."""
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
