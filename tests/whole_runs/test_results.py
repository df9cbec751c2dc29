"""What a run's result is: the whole split after the last step, or a mark that it counts nowhere."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from _helpers.wandb_files import config, history, offline_runs, summary
from omegaconf import OmegaConf
from torch import Tensor

from hemnet.config.compose import load
from hemnet.data import Batch
from hemnet.processes.signals import Interrupted
from hemnet.report.collect import read
from hemnet.report.groups import sections
from hemnet.runs.identity import debugging
from hemnet.runs.run import Run
from hemnet.runs.run_settings import columns
from hemnet.sweeps.jobs import Job
from hemnet.train import train
from hemnet.training.task import SegmentationTask
from hemnet.using.evaluation import evaluate

SMALL = [
    "data=synthetic", "data.train.length=8", "data.train.size=64", "data.train.cells=4", "data.val.length=4",
    "data.batch_size=4", "data.eval_batch_size=1", "data.num_workers=0", "logger=csv",
    "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=8", "model.num_components=4",
    "trainer.precision=32", "task.channels_last=false",
    "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "callbacks.predictions=null",
    "callbacks.attention=null", "callbacks.cost=null", "callbacks.em_convergence=null", "seed=3",
]  # fmt: skip


def run(folder: Path, *overrides: str) -> Run:
    train(load([*SMALL, f"run_dir={folder}", *overrides]))
    return Run.open(folder)


LIMITED = [
    "trainer.limit_val_batches=0.5", "trainer.limit_val_batches=1", "trainer.limit_val_batches=0",
    "trainer.limit_train_batches=0.5", "+trainer.fast_dev_run=true", "+trainer.overfit_batches=1",
]  # fmt: skip


@pytest.mark.parametrize("limit", LIMITED)
def test_a_limited_run_is_scored_on_the_whole_split_and_counts_nowhere(limit: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    found = run(path, limit)
    key = limit.lstrip("+").partition("=")[0]
    assert found.result["status"] == "finished"
    assert found.result["debug"] == [key]
    scores = evaluate(path, "last", [], worst=0)
    assert scores["val/miou"] == found.result["metrics"]["val/miou"]
    assert json.loads((path / "evaluation/last/result.json").read_text())["images"] == 4
    job = Job("job", path, [])
    assert job.miou is None
    record = read(path)
    assert (record.status, key in record.error) == ("debug", True)
    assert sections([record]) == []


@pytest.mark.parametrize(
    ("trainer", "keys"),
    [
        ({"limit_train_batches": 1.0, "limit_val_batches": None, "fast_dev_run": False}, []),
        ({"limit_test_batches": 0.1, "limit_predict_batches": 1, "detect_anomaly": True}, []),
        ({"limit_train_batches": 1}, ["limit_train_batches"]),
        ({"overfit_batches": 0.1, "fast_dev_run": 3}, ["fast_dev_run", "overfit_batches"]),
    ],
)
def test_what_limits_a_run(trainer: dict[str, Any], keys: list[str]) -> None:
    assert debugging(OmegaConf.create({"trainer": trainer})) == [f"trainer.{key}" for key in keys]


def test_a_run_without_a_limit_is_not_marked_and_is_validated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    plain = SegmentationTask.on_validation_epoch_end

    def counted(task: SegmentationTask) -> None:
        nonlocal count
        count += not task.trainer.sanity_checking
        plain(task)

    monkeypatch.setattr(SegmentationTask, "on_validation_epoch_end", counted)
    found = run(tmp_path / "run")
    assert count == 1
    assert "debug" not in found.result
    assert Job("job", found.path, []).miou == found.result["metrics"]["val/miou"]


@pytest.mark.parametrize(
    "length",
    [["trainer.max_epochs=-1", "trainer.max_steps=3"], ["trainer.check_val_every_n_epoch=5"]],
)
def test_the_loggers_have_the_result_where_the_last_step_has_no_validation(
    length: list[str], tmp_path: Path
) -> None:
    found = run(tmp_path / "run", *length)
    last = found.metrics()[-1]
    assert last["step"] == found.result["steps"] - 1
    for name, value in found.result["metrics"].items():
        assert last.get(name, math.nan) == pytest.approx(value, nan_ok=True, abs=1e-7), name
    assert evaluate(found.path, "last", [], worst=0)["val/miou"] == found.result["metrics"]["val/miou"]


def test_wandb_has_the_result_where_the_last_step_has_no_validation_and_the_setting(tmp_path: Path) -> None:
    found = run(tmp_path / "run", "logger=wandb", "trainer.max_epochs=-1", "trainer.max_steps=3")
    (offline,) = offline_runs(tmp_path / "run")
    assert config(offline)["setting"] == columns(found.config)["setting"]  # as the report reads it
    last = summary(offline)
    assert last["val/miou"] == pytest.approx(found.result["metrics"]["val/miou"], abs=1e-7)
    scores = [row["val/miou"] for row in history(offline) if "val/miou" in row]
    assert len(scores) == 2  # after the first epoch of two steps, and at the end
    assert last["val/miou_best"] == pytest.approx(max(scores), abs=1e-7)


@pytest.mark.parametrize("error", [Interrupted(15), RuntimeError("as a fault would")])
def test_a_run_that_stops_has_its_steps_and_last_scores(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SegmentationTask.training_step

    def stopped(task: SegmentationTask, batch: Batch, batch_idx: int) -> Tensor:
        if task.trainer.global_step == 3:
            raise error
        return plain(task, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationTask, "training_step", stopped)
        with pytest.raises(type(error)):
            run(tmp_path / "run", "trainer.max_epochs=2")
    found = Run.open(tmp_path / "run")
    assert found.result["status"] in ("preempted", "failed")
    assert found.result["steps"] == 3
    assert found.result["metrics"]["val/miou"] == pytest.approx(found.curves()["val/miou"][-1, 1], abs=1e-7)
    # Stopped again before another step: what it had is not lost.
    with monkeypatch.context() as patched:
        patched.setattr("hemnet.config.build.build_data", lambda config: {}["stop"])
        with pytest.raises(KeyError):
            run(tmp_path / "run", "trainer.max_epochs=2", "resume=auto")
    assert found.result["steps"] == 2  # what the checkpoint and metrics.csv have
    assert found.result["metrics"]["val/miou"] == pytest.approx(found.curves()["val/miou"][-1, 1], abs=1e-7)
