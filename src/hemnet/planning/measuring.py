"""What training costs here, measured by two steps of it."""

import logging
import tempfile
import time
from typing import Any, NamedTuple

import pytorch_lightning as pl

from hemnet.callbacks.run_cost import peak_memory_mib
from hemnet.config.build import build_data, build_network, build_task, build_trainer
from hemnet.config.compose import load
from hemnet.config.refusals import refusals

WARM_UP, TIMED = 1, 2
VALIDATED = 3
"""Validated images; the first warms up."""
SHORT = (
    f"trainer.max_steps={WARM_UP + TIMED}", "trainer.max_epochs=-1", "trainer.num_sanity_val_steps=0",
    "trainer.log_every_n_steps=1", "trainer.limit_val_batches=0", "+trainer.enable_checkpointing=false",
    "logger=csv",
)  # fmt: skip
"""The overrides with which `measure` runs a recipe."""


class Measured(NamedTuple):
    """Seconds of an optimizer step, from end to end, and of the validation of an image; the peak memory."""

    seconds_per_step: float
    seconds_per_image: float
    memory_mib: float


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.trained: list[float] = []
        self.validated: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.trained.append(time.perf_counter())

    def on_validation_start(self, *_: Any) -> None:
        self.validated.append(time.perf_counter())

    def on_validation_batch_end(self, *_: Any) -> None:
        self.validated.append(time.perf_counter())


def measure(experiment: str) -> Measured:
    """Take two steps and validate two images, each after one to warm up, as training with a recipe would.

    The time of a step includes reading its images. The memory is that of this process, or on a GPU of its
    tensors; those of the worker processes come on top.

    Args:
        experiment: the recipe's name; it is known to Hydra.

    Raises:
        HemnetError: the configuration or the data cannot be trained with.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # which its import has changed
    config = load([f"experiment={experiment}", *SHORT])
    config.callbacks, config.logger = {}, {}
    with tempfile.TemporaryDirectory(prefix="hemnet-") as folder, refusals(config):
        config.run_dir = folder
        pl.seed_everything(config.seed, workers=True, verbose=False)
        data = build_data(config)
        task = build_task(config, build_network(config, data.spec.num_classes), data.spec)
        clock = _Clock()
        trainer = build_trainer(config, [clock])
        trainer.fit(task, datamodule=data)
        config.trainer.limit_val_batches = VALIDATED
        build_trainer(config, [clock]).validate(task, datamodule=data, verbose=False)
    trained, validated = clock.trained[WARM_UP - 1 :], clock.validated
    if len(validated) > 2:  # of a single batch, what comes before it counts too
        validated = validated[1:]
    per_step = (trained[-1] - trained[0]) / (len(trained) - 1)
    per_batch = (validated[-1] - validated[0]) / (len(validated) - 1)
    memory = peak_memory_mib(trainer.strategy.root_device)
    return Measured(per_step, per_batch / config.data.eval_batch_size, memory)
