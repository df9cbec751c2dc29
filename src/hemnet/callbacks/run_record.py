"""What result.json says of training: the steps taken, and the scores of the last validation."""

from typing import Any

import pytorch_lightning as pl

from hemnet.callbacks.last_checkpoint import LastCheckpoint
from hemnet.callbacks.lightning_state import after_training, callbacks_of, validate
from hemnet.runs.identity import debugging
from hemnet.runs.training_run import TrainingRun


class RunRecord(pl.Callback):
    """Records the steps and the last scores of a run while it trains, so that it has them however it ends.

    The result of a run is a validation of the whole split after its last step. If training did not end with
    one, one more is made before the loggers are closed, so that they and metrics.csv have the result too.

    Args:
        run: the run, whose result.json gets the entries ``steps``, ``metrics``, ``processes``, with which it
            trained, and, of the validation split, ``labelled_pixels``, their number by class: runs scored on
            the same data have the same.

    Attributes:
        scores: ``val/*`` of the last validation; {} before the first.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.scores: dict[str, float] = {}
        self._validated_step = -1
        self._pixels: dict[str, int] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have training end with a validation of the whole split, and record the number of processes."""
        self.run.record(processes=trainer.world_size)
        after_training(trainer, lambda: self._conclude(trainer))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a run that stopped after its last validation makes no other."""
        done = {"scores": self.scores, "validated_step": self._validated_step}
        return done | {"seconds": self.run.seconds(), "labelled_pixels": self._pixels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.scores, self._validated_step = state_dict["scores"], state_dict["validated_step"]
        if pixels := state_dict.get("labelled_pixels"):  # older checkpoints have none
            self._pixels = pixels
            self.run.record(labelled_pixels=pixels)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the run: nothing that the configuration asks for has been refused."""
        self.run.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Record the number of steps."""
        self.run.record(steps=trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the scores; `FiniteSteps`, which may refuse them, comes before this callback."""
        if trainer.sanity_checking:
            return
        found = trainer.callback_metrics.items()
        self.scores = {name: value.item() for name, value in found if name.startswith("val/")}
        self._validated_step = trainer.global_step
        self._pixels = getattr(pl_module, "labelled_pixels", {})
        self.run.record(steps=trainer.global_step, metrics=self.scores, labelled_pixels=self._pixels)

    def _conclude(self, trainer: pl.Trainer) -> None:
        self.run.begin()  # of a run that was stopped after its last step
        if self._validated_step == trainer.global_step and not debugging(self.run.config):
            return
        validate(trainer)
        for last in callbacks_of(trainer, LastCheckpoint):
            last.save(
                trainer
            )  # with the state of the best checkpoint, which this validation may have changed
