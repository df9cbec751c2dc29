"""Training that is stopped at any step and gone on with takes the very steps that it would have taken."""

import csv
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from hemnet.callbacks.last_checkpoint import LastCheckpoint, _random_states, _set_random_states
from hemnet.config.compose import load
from hemnet.data import Batch
from hemnet.errors import HemnetError
from hemnet.processes.signals import Interrupted
from hemnet.runs import checkpoints
from hemnet.runs.run import Run
from hemnet.train import train
from hemnet.training.task import SegmentationTask

SMALL = [
    "data=synthetic", "data.train.length=14", "data.train.size=64", "data.train.cells=4", "data.val.length=3",
    "data.train_transform.color_jitter=0.3", "data.batch_size=4", "data.num_workers=0", "logger=csv",
    "model/backbone=resnet18", "model.backbone.width=4", "model.head.channels=8", "model.num_components=4",
    "model.head.dropout=0.5", "trainer.precision=32", "trainer.max_epochs=3", "trainer.log_every_n_steps=1",
    "callbacks.predictions=null", "callbacks.attention=null", "callbacks.cost=null",
]  # fmt: skip
STEPS = 9  # three epochs of three batches of four of fourteen samples


class Spy:
    """Notes what each training step saw, and sends this process a signal in the middle of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: signal.Signals = signal.SIGTERM) -> None:
        self.steps: list[tuple[int, list[str], float, float]] = []
        self.stop_at: int | None = None
        plain = SegmentationTask.training_step

        def step(task: SegmentationTask, batch: Batch, batch_idx: int) -> Tensor:
            if task.trainer.global_step == self.stop_at:
                self.stop_at = None
                os.kill(os.getpid(), number)
            rate = task.trainer.optimizers[0].param_groups[0]["lr"]
            self.steps.append((task.trainer.global_step, batch["name"], batch["image"].sum().item(), rate))
            return plain(task, batch, batch_idx)

        monkeypatch.setattr(SegmentationTask, "training_step", step)


def run(folder: Path, *overrides: str) -> None:
    train(load([*SMALL, f"run_dir={folder}", "seed=3", *overrides]))


def weights(folder: Path) -> dict[str, Tensor]:
    return checkpoints.read(folder / "checkpoints" / "last.ckpt")["state_dict"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v and "seconds" not in k} for row in csv.DictReader(file)]


def assert_same(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name
    key = lambda row: (int(row["step"]), sorted(row))  # noqa: E731
    assert sorted(rows(one), key=key) == sorted(rows(other), key=key)
    assert Run.open(one).result["metrics"] == Run.open(other).result["metrics"]


WAYS: dict[str, list[str]] = {
    "epochs": [],
    "workers": ["data.num_workers=2"],
    "steps": ["trainer.max_epochs=-1", f"trainer.max_steps={STEPS}"],
    "validation within an epoch": ["trainer.val_check_interval=1", "callbacks.em_convergence=null"],
    "validation by steps": ["trainer.max_epochs=-1", f"trainer.max_steps={STEPS}",
                            "trainer.check_val_every_n_epoch=null", "trainer.val_check_interval=2"],
    "accumulation": ["trainer.accumulate_grad_batches=2", "data.batch_size=2"],
    "validation in some epochs": ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"],
    "no validation": ["trainer.check_val_every_n_epoch=5"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_stopped_at_any_step_and_gone_on_with(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    run(tmp_path / "whole", *WAYS[way])
    whole, spy.steps = spy.steps, []
    assert len({step for step, *_ in whole}) in (STEPS, 12)  # 12: seven batches of two, accumulated by two
    last = whole[-1][0]
    # Stopped again and again: within an epoch, at its last step, in its first, and in the very last.
    for stop_at in (1, 2, 3, 7, last):
        spy.stop_at = stop_at
        with pytest.raises(Interrupted) as stopped:
            run(tmp_path / "parts", *WAYS[way], "resume=auto")
        assert stopped.value.code == 128 + signal.SIGTERM
        assert Run.open(tmp_path / "parts").status == "preempted"
        assert Run.open(tmp_path / "parts").saved_step == stop_at + 1
    run(tmp_path / "parts", *WAYS[way], f"resume={tmp_path / 'parts'}")
    assert spy.steps == whole
    assert_same(tmp_path / "whole", tmp_path / "parts")
    assert Run.open(tmp_path / "parts").result["steps"] == last + 1


@pytest.mark.slow
def test_a_run_that_was_moved_keeps_its_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    spy.stop_at = 3
    with pytest.raises(Interrupted):
        run(tmp_path / "old", "model/head=emanet")  # whose score falls
    best = checkpoints.read(tmp_path / "old" / "checkpoints" / "best.ckpt")["global_step"]
    (tmp_path / "old").rename(tmp_path / "new")
    run(tmp_path / "new", "model/head=emanet", "resume=auto")
    scores = Run.open(tmp_path / "new").curves()["val/miou"]
    assert scores[:, 1].argmax() == 0
    assert checkpoints.read(tmp_path / "new" / "checkpoints" / "best.ckpt")["global_step"] == best


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    callback = LastCheckpoint(str(tmp_path / "last.ckpt"))
    place = {"epoch": 0, "batches": 1, "random_states": [{}, {}]}
    with pytest.raises(HemnetError, match="had 2 processes and cannot resume with 1"):
        callback.on_load_checkpoint(pl.Trainer(logger=False), pl.LightningModule(), {"place": place})


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_from_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    often = ["callbacks.last.every_minutes=1e-9"]  # after every step
    run(tmp_path / "whole", *often)
    whole, spy.steps = spy.steps, []
    plain = SegmentationTask.training_step

    def fail(task: SegmentationTask, batch: Batch, batch_idx: int) -> Tensor:
        if task.trainer.global_step == 5:
            raise RuntimeError("as a kill would")
        return plain(task, batch, batch_idx)

    with monkeypatch.context() as broken:
        broken.setattr(SegmentationTask, "training_step", fail)
        with pytest.raises(RuntimeError, match="as a kill"):
            run(tmp_path / "parts", *often)
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert Run.open(tmp_path / "parts").saved_step == 5
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight: only the hash can tell
    last.write_bytes(content)
    assert Run.open(tmp_path / "parts").saved_step == 4
    run(tmp_path / "parts", *often, "resume=auto")
    assert [step for step, *_ in spy.steps] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert spy.steps[5:] == whole[4:]
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_resume_names_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="there is no run; give a run directory"):
        load([*SMALL, f"resume={tmp_path}"])


def test_random_states_come_back(tmp_path: Path) -> None:
    draws()
    np.random.normal()  # leaves half of a pair behind, which is part of the state
    about = {"hemnet": {"format": checkpoints.CHECKPOINT_FORMAT}}
    checkpoints.write(about | {"states": _random_states()}, tmp_path / "a.ckpt")
    expected = draws()
    assert draws() != expected
    _set_random_states(checkpoints.read(tmp_path / "a.ckpt")["states"])
    assert draws() == expected


def draws() -> list[float]:
    return [torch.rand(()).item(), np.random.normal(), random.gauss(0, 1), np.random.rand()]


def test_a_run_is_gone_on_with_where_its_pretrained_weights_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in its checkpoint, whatever became of the package, the file or the server they came from."""
    lite = ["model/backbone=lite0", "~model.backbone.width", "data.train.length=8", "trainer.max_epochs=2"]
    overrides = [o for o in SMALL if not o.startswith("model.backbone.width")]
    config = load([*overrides, lite[0], *lite[2:], f"run_dir={tmp_path / 'run'}", "seed=3"])
    spy = Spy(monkeypatch)
    spy.stop_at = 1
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config.resume = str(tmp_path / "run")
    train(config)
    assert Run.open(tmp_path / "run").status == "finished"
