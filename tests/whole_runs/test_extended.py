"""Going on with a run: without repeating what it knows, longer, and with what changes no step."""

import json
from pathlib import Path

import pytest
import torch

from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.loggers.metrics_file import MetricsFile
from hemnet.runs import checkpoints
from hemnet.runs.identity import differences
from hemnet.runs.run import Run
from hemnet.train import train

SMALL = [
    "data=synthetic", "data.train.length=14", "data.train.size=64", "data.train.cells=4", "data.val.length=2",
    "data.batch_size=4", "data.num_workers=0", "logger=csv", "model/backbone=resnet18",
    "model.backbone.width=4", "model.head.channels=8", "model.num_components=4", "model.head.dropout=0.5",
    "trainer.precision=32", "trainer.log_every_n_steps=1", "trainer.max_epochs=-1",
    "callbacks.predictions=null", "callbacks.attention=null", "callbacks.cost=null",
    "callbacks.em_convergence=null", "name=small", "seed=3",
]  # fmt: skip


def run(*overrides: str) -> None:
    train(load([*overrides]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(folder / "checkpoints" / "last.ckpt")["state_dict"]


@pytest.mark.parametrize("first", [3, 5])
def test_an_extended_run_takes_the_steps_of_one_that_was_as_long_from_the_start(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches are an epoch: the first part ends with one, or within one. Rates are constant here."""
    told: list[str] = []
    monkeypatch.setattr(MetricsFile, "log_hyperparams", lambda _, params: told.append(params["setting"]))
    constant = [*SMALL, "optim.power=0"]
    run(*constant, f"run_dir={tmp_path / 'whole'}", "trainer.max_steps=7")
    run(*constant, f"run_dir={tmp_path / 'parts'}", f"trainer.max_steps={first}")
    before = Run.open(tmp_path / "parts").result
    assert (before["status"], before["steps"]) == ("finished", first)
    run(f"resume={tmp_path / 'parts'}", "trainer.max_steps=7")  # all else it knows
    found = Run.open(tmp_path / "parts")
    assert (found.result["status"], found.result["steps"]) == ("finished", 7)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (
        found.curves()["train/loss"].tolist() == Run.open(tmp_path / "whole").curves()["train/loss"].tolist()
    )
    extended = json.loads((tmp_path / "parts" / "environment.json").read_text())["extended"]
    assert extended == [{"step": first, "before": {"trainer.max_steps": first}}]
    whole, _, longer = told
    assert whole != longer  # trackers average the run apart from those that were as long from the start


def test_the_learning_rates_of_an_extended_run_are_those_of_the_new_length(tmp_path: Path) -> None:
    run(*SMALL, f"run_dir={tmp_path}", "trainer.max_steps=3", "optim.optimizer.lr=0.01")
    run(f"resume={tmp_path}", "trainer.max_steps=6")
    rates = Run.open(tmp_path).curves()["train/lr"][:, 1]
    expected = [0.01 * (1 - step / (3 if step < 3 else 6)) ** 0.9 for step in range(6)]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_what_changes_no_step_is_free_and_what_does_is_refused_by_name(tmp_path: Path) -> None:
    run(*SMALL, f"run_dir={tmp_path / 'run'}", "trainer.max_steps=2", "model.head.iterations=2")
    moved = tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    before = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    resume = f"resume={moved}"
    for wrong, named in (
        (["model.head.iterations=4"], r"differing in model\.head\.iterations: choose"),
        (["model/head=fcn", "trainer.max_steps=9"], r"differing in model\.head\._target_"),
        (["seed=4"], "differing in seed"),
        (["data.batch_size=2"], r"differing in data\.batch_size"),
        (["experiment=synthetic_hem"], "differing in name"),
        (["trainer.max_steps=1"], r"trainer\.max_steps is 1, but .* has taken 2 steps"),
        ([f"run_dir={tmp_path / 'other'}"], "is another directory"),
    ):
        with pytest.raises(HemnetError, match=named):
            run(resume, *wrong)
    with pytest.raises(HemnetError, match=r"trainer\.max_steps: choose .*to train longer, give resume="):
        run(*SMALL, f"run_dir={moved}", "model.head.iterations=2", "trainer.max_steps=4", "resume=auto")
    assert {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()} == before
    free = ["data.eval_batch_size=2", "trainer.log_every_n_steps=2", "callbacks.last.every_minutes=1"]
    run(resume, "trainer.max_steps=4", *free)
    found = Run.open(moved)
    assert found.result["steps"] == 4
    assert (found.config.data.eval_batch_size, found.config.model.head.iterations) == (2, 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ("data.eval_batch_size=9", True), ("trainer.val_check_interval=0.5", True),
        ("data.num_workers=7", True),
        ("callbacks.finite.policy=skip", True), ("callbacks.watchdog=null", True),
        ("+callbacks.early={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/miou}", True),
        ("+callbacks.swa={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging}", False),
        ("trainer.precision=16-mixed", False), ("trainer.accumulate_grad_batches=2", False),
        ("task.auxiliary_weight=0.1", False), ("trainer.max_epochs=99", False),
    ],
)  # fmt: skip
def test_which_keys_the_steps_depend_on(change: str, free: bool) -> None:
    one, other = (load(["run_dir=/a", "logger=csv", *changes]) for changes in ([], [change]))
    assert (differences(one, other) == []) == free


REFUSED = {
    "a metric that does not exist": (["callbacks.best.monitor=val/iou_mean"], "callbacks.best.monitor is"),
    "too few batches, which Lightning finds": (["trainer.val_check_interval=100"], "val_check_interval"),
    "a package that is missing": (
        ["+logger.comet={_target_: pytorch_lightning.loggers.CometLogger}"],
        "^logger.comet: ",
    ),
    "a GPU that is missing": (["trainer.accelerator=gpu"], "trainer.accelerator"),
}


def test_a_setting_that_is_refused_when_a_run_goes_on_changes_none_of_its_files(tmp_path: Path) -> None:
    run(*SMALL, f"run_dir={tmp_path}", "trainer.max_steps=3")
    (tmp_path / "result.json").unlink()  # as if it had been killed
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for wrong, said in REFUSED.values():
        if "gpu" in wrong[0] and torch.cuda.is_available():
            continue
        with pytest.raises(HemnetError, match=said):
            run(f"resume={tmp_path}", "trainer.max_steps=6", *wrong)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(f"resume={tmp_path}", "trainer.max_steps=6")
    assert [int(step) for step, _ in Run.open(tmp_path).curves()["train/loss"]] == [*range(6)]
