"""A run that hangs is ended, with the stacks of its threads and a result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _helpers import toy
from _helpers.waiting import CEILING

from hemnet.callbacks.watchdog import HangError, Watchdog


def test_a_batch_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    task, plain = toy.task(), signal.getsignal(signal.SIGALRM)
    task.on_train_batch_start = lambda *_: time.sleep(CEILING)  # type: ignore[method-assign,assignment]
    trainer = toy.trainer(tmp_path, max_epochs=1, callbacks=[Watchdog(minutes=3 / 60)])
    began = time.monotonic()
    with pytest.raises(HangError, match="no batch was finished for 3 s"):
        trainer.fit(task, datamodule=toy.data())
    assert time.monotonic() - began < CEILING  # without waiting for the batch
    assert signal.getsignal(signal.SIGALRM) == plain
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_batches_that_end_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock restarts at each batch."""
    given: list[float] = []
    plain = signal.setitimer

    def setitimer(which: int, seconds: float) -> tuple[float, float]:
        given.append(seconds)
        return plain(which, seconds)

    monkeypatch.setattr(signal, "setitimer", setitimer)
    trainer = toy.trainer(tmp_path, max_epochs=3, callbacks=[Watchdog(minutes=CEILING / 60)])
    left: list[int] = []
    task = toy.task()
    task.on_train_batch_start = lambda *_: left.append(len(given))  # type: ignore[method-assign,assignment]
    trainer.fit(task, datamodule=toy.data())
    assert trainer.global_step == 6
    assert len(set(left)) == 6, "the time begins anew between any two batches"
    assert set(given) == {CEILING, 0}
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_time_must_be_positive() -> None:
    with pytest.raises(ValueError, match="minutes is 0"):
        Watchdog(minutes=0)


HANG = """
import os, sys, time
import hemnet.callbacks.watchdog as watchdog, hemnet.training.task, hemnet.processes.launch
watchdog.GRACE_SECONDS = 600.0  # the other rank ends when its launcher says so, and not by itself
plain = hemnet.training.task.SegmentationTask.training_step
def step(task, batch, batch_idx):
    if task.global_rank == 1 and task.trainer.global_step == 2:
        time.sleep(3600)
    return plain(task, batch, batch_idx)
hemnet.training.task.SegmentationTask.training_step = step
from hemnet.config.command_line import run_entry
from hemnet.train import _entry
run_entry(_entry)
"""


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run(tmp_path: Path) -> None:
    """Rank 1 sleeps, rank 0 waits for it in an all-reduce."""
    (tmp_path / "hang.py").write_text(HANG)
    code = f"""
import sys
import hemnet.train, hemnet.processes.launch
plain = hemnet.processes.launch.run_ranks
def run_ranks(command, count, message):
    plain([sys.executable, {str(tmp_path / "hang.py")!r}, *command[3:]], count, message)
hemnet.train.run_ranks = run_ranks
hemnet.processes.launch.SETTLE_SECONDS = 3.0
from hemnet.config.command_line import run_entry
run_entry(hemnet.train._entry)
"""
    overrides = [
        "data=synthetic", "data.train.length=16", "data.train.size=64", "data.val.length=3",
        "data.batch_size=2", "model.backbone.width=4", "model.head.channels=8", "model.num_components=4",
        "logger=csv", "trainer.precision=32", "trainer.devices=2", "callbacks.watchdog.minutes=0.2",
        "run_dir=run",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=CEILING, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no batch was finished for 12 s" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "rank 1 of 2 failed" in result["error"]
