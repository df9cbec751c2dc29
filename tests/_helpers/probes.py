"""What the tests of the probes share: a toy run whose logged values come back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from _helpers.toy import data, task, trainer
from pytorch_lightning.loggers import Logger
from torch import nn

import hemnet.em
from hemnet.em import HighwayEM
from hemnet.training.task import SegmentationTask


class Recorder(Logger):
    """Keeps everything it is given, as (step, metrics), (key, values, step) and (key, images)."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.histograms: list[tuple[str, Sequence[float], int]] = []
        self.images: list[tuple[str, list[str]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def log_histogram(self, key: str, values: Sequence[float], step: int) -> None:
        self.histograms.append((key, values, step))

    def log_image(self, key: str, images: list[str]) -> None:
        self.images.append((key, images))

    def having(self, prefix: str) -> dict[int | None, dict[str, float]]:
        """Return the metrics with a prefix, without it, by step."""
        found: dict[int | None, dict[str, float]] = {}
        for step, metrics in self.metrics:
            own = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
            if own:
                found.setdefault(step, {}).update(own)
        return found


def layer_of(model: SegmentationTask) -> HighwayEM:
    """Return the EM layer of a toy task."""
    return model.network.head.context.em


def plain_task(**em: Any) -> SegmentationTask:
    """Return a toy task without random parts, its EM layer made with these options."""
    model = task()
    model.network.head.dropout = nn.Identity()
    unit = model.network.head.context
    told = eval(f"dict({unit.em.extra_repr()})", vars(hemnet.em))
    means = unit.em.state_dict()
    unit.em = HighwayEM(**{**told, **em})
    unit.em.load_state_dict(means)
    return model


def run(
    tmp_path: Path, model: SegmentationTask, callbacks: list[pl.Callback], **options: Any
) -> tuple[Recorder, pl.Trainer]:
    """Train a toy task, two batches an epoch; return what was logged, and the trainer."""
    recorder = Recorder()
    quiet = {"enable_checkpointing": False, "logger": recorder, "max_epochs": 1}
    fit = trainer(tmp_path, callbacks=callbacks, **{**quiet, **options})
    fit.fit(model, datamodule=data())
    return recorder, fit
