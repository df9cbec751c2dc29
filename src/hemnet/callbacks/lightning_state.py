"""All that the callbacks use of Lightning beyond its public interface, tested with the pinned version."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl

C = TypeVar("C", bound=pl.Callback)


def callbacks_of(trainer: pl.Trainer, kind: type[C]) -> list[C]:
    """Return the callbacks of a class; `pl.Trainer` has the attribute, but does not declare it."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, kind)]


def loss_scaler(trainer: pl.Trainer) -> Any:
    """Return the scaler of the loss in 16-bit precision, a torch ``GradScaler``; None in other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


def correct_step_count(trainer: pl.Trainer) -> None:
    """Set the step number that metrics are logged at.

    Lightning is off by one after it resumes at a step that was followed by a validation.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def after_training(trainer: pl.Trainer, action: Callable[[], None]) -> None:
    """Have ``action`` called once no step is left, while the network is on its device and loggers are open.

    Lightning has no such hook for a run that was stopped after its last step and is resumed: without a step
    to take, its first hook comes after the network has been taken from the device.
    """
    loop = trainer.fit_loop
    train = loop.run

    def run() -> None:
        train()
        action()

    loop.run = run  # type: ignore[method-assign]


def validate(trainer: pl.Trainer) -> None:
    """Validate on the whole split after the last step, whatever part of it training was limited to.

    As after any validation within training, the loggers have the scores at the step before.
    """
    loop = trainer.fit_loop.epoch_loop
    limits = (trainer.fast_dev_run, trainer.overfit_batches, trainer.limit_val_batches)  # type: ignore[attr-defined]
    if limits != (False, 0.0, 1.0) or isinstance(limits[2], int):
        trainer.fast_dev_run, trainer.overfit_batches, trainer.limit_val_batches = False, 0.0, 1.0  # type: ignore[attr-defined]
        loop.val_loop._combined_loader = None  # another is made, without the limit
    loop.val_loop.restarting = False  # it is true in a resumed run without a validation so far
    loop._batches_that_stepped = max(trainer.global_step - 1, 0)
    trainer.validating = True
    loop.val_loop.run()
    trainer.training = True
    loop._batches_that_stepped = trainer.global_step


def settle(loops: dict[str, Any], batches_per_epoch: float) -> tuple[int, int]:
    """Mark everything that the loops have started as completed; return the epoch and its completed batches.

    The state of Lightning's loops depends on the hook in which it is saved, and training resumes differently
    after each hook. `LastCheckpoint` always saves between two steps or two epochs; this makes the state say
    so.

    Args:
        loops: the state of the fit loop, as in a checkpoint; it is changed in place.
        batches_per_epoch: the batches of a whole epoch. One that ended earlier, with the last step of the
            run, goes on if the run is extended.
    """
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    for part in ("total", "current"):
        _level(batches[part], batches[part]["completed"])
    batches["is_last_batch"] = False  # Lightning has set this for the next batch, which it may have fetched
    over = epochs["current"]["started"] == epochs["current"]["processed"]
    if over and 0 < batches["current"]["completed"] < batches_per_epoch:
        for part in ("total", "current"):
            epochs[part]["processed"] = epochs[part]["completed"] = epochs[part]["started"] - 1
    if epochs["current"]["started"] > epochs["current"]["processed"]:
        return epochs["current"]["processed"], batches["current"]["completed"]
    for part in ("total", "current"):
        _level(epochs[part], epochs[part]["processed"])
    _level(batches["current"], 0)
    return epochs["current"]["processed"], 0


def _level(progress: dict[str, int], count: int) -> None:
    for stage in progress:
        progress[stage] = count


def move_best(state: dict[str, Any], folder: Path) -> None:
    """Move the saved state of a ModelCheckpoint to a folder, since it ignores scores of other folders."""
    state["dirpath"] = str(folder)
    state["best_k_models"] = {str(folder / Path(p).name): s for p, s in state["best_k_models"].items()}
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = state[name] and str(folder / Path(state[name]).name)
