"""Runs on the miniature CamVid that take seconds, and commands on them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from _helpers import entries

Way = Callable[..., subprocess.CompletedProcess[str]]

TINY = [
    "data=camvid", "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=8",
    "model.num_components=4", "trainer.check_val_every_n_epoch=1",
    "data.train_transform.crop_size=[32,32]", "data.batch_size=2", "data.num_workers=0", "logger=csv",
    "trainer.max_epochs=2", "trainer.precision=32",
]  # fmt: skip
# Nor the pages that take a second to draw.
PLAIN = [*TINY, "callbacks.predictions=null", "callbacks.attention=null"]


def tiny(root: Path, run_dir: Path, *overrides: str) -> list[str]:
    return [*TINY, f"data.root={root}", f"run_dir={run_dir}", *overrides]


def call(*arguments: str, cwd: Path, way: Way = entries.call) -> subprocess.CompletedProcess[str]:
    return way(*arguments, cwd=cwd, environment={"COLUMNS": "200", "WANDB_MODE": "offline"})
