"""Whole runs beside each other: deterministic ones, compiled and eager ones."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from _helpers import entries
from omegaconf import OmegaConf
from torch import Tensor

from hemnet.runs import checkpoints

SMALL = [
    "data=synthetic", "data.train.length=16", "data.train.size=64", "data.train.cells=4", "data.val.length=3",
    "data.batch_size=4", "data.num_workers=1", "logger=csv", "model/backbone=resnet18",
    "model.backbone.width=4", "model.head.channels=8", "model.num_components=4",
    "trainer.precision=32", "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1", "callbacks.predictions=null", "callbacks.attention=null", "seed=3",
]  # fmt: skip
TIMES = ("time", "second", "memory", "gib", "cost/")


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return entries.call("hemnet.train", *SMALL, *words, cwd=folder)


def run(folder: Path, *words: str) -> None:
    done = call(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoints.read(folder / "checkpoints" / "last.ckpt")["state_dict"]


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if not any(word in key.lower() for word in TIMES)}
            for row in csv.DictReader(file)
        ]


def losses(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in metrics(folder) if row["train/loss"]]


@pytest.mark.slow
def test_two_deterministic_runs_are_the_same_to_the_bit(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path, "trainer.deterministic=true", f"run_dir={name}", "model.head.dropout=0.5")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert len(losses(tmp_path / "one")) == 8


@pytest.mark.slow
def test_a_run_that_is_not_finite_is_failed_and_says_where(tmp_path: Path) -> None:
    """The first step is so large that the second has no loss; where it was the only one, that is seen too."""
    for steps, said in (
        (8, "step 1: the loss is not finite for train-0"),
        (1, "validation after 1 step: the network's"),
    ):
        name = f"run{steps}"
        words = (f"run_dir={name}", "trainer.max_epochs=-1", f"trainer.max_steps={steps}")
        done = call(tmp_path, *words, "optim.optimizer.lr=3e37", "optim.optimizer.momentum=0")
        assert done.returncode == 2, done.stdout + done.stderr
        assert f"error: {said}" in done.stderr
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["status"] == "failed"
        assert result["error"].startswith(f"NotFiniteError: {said}")
        assert result["metrics"] == {}


@pytest.mark.long
@pytest.mark.slow
def test_compiled_and_eager_runs_agree_and_each_goes_on_with_the_others_checkpoint(tmp_path: Path) -> None:
    for name, compiled in (("eager", "false"), ("compiled", "true")):
        run(tmp_path, f"task.compile={compiled}", f"run_dir={name}")
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert eager.keys() == compiled.keys()
    # The first loss differs by rounding alone: sums in another order, over up to 64 x 64 positions, half as
    # many digits lost at worst as terms have bits. Each step may then carry a difference on tenfold.
    pairs = list(zip(losses(tmp_path / "eager"), losses(tmp_path / "compiled"), strict=True))
    first = torch.finfo(torch.float32).eps * 64 * 64**0.5
    assert len(pairs) == 8
    assert pairs[0][0] == pytest.approx(pairs[0][1], rel=first)
    assert all(one == pytest.approx(other, rel=1e-2) for one, other in pairs)
    for name, other in (("eager", True), ("compiled", False)):
        config = OmegaConf.load(tmp_path / name / "config.yaml")
        config.task.compile = other
        OmegaConf.save(config, tmp_path / name / "config.yaml")
        done = entries.call("hemnet.evaluate", str(tmp_path / name), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
