"""A run that hangs ends, with the stacks and a record."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from hemnet.callbacks.watchdog import HangError, Watchdog


def test_a_batch_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    task, plain = toy.task(), signal.getsignal(signal.SIGALRM)
    task.on_train_batch_start = lambda *_: time.sleep(60)  # type: ignore[method-assign,assignment]
    trainer = toy.trainer(tmp_path, max_epochs=1, callbacks=[Watchdog(minutes=3 / 60)])
    started = time.monotonic()
    with pytest.raises(HangError, match="no batch came to its end for 3 s"):
        trainer.fit(task, datamodule=toy.data())
    assert time.monotonic() - started < 30
    assert signal.getsignal(signal.SIGALRM) == plain
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_batches_that_end_are_left_alone(tmp_path: Path) -> None:
    """Two seconds in all, each batch within one."""
    task = toy.task()
    task.on_train_batch_start = lambda *_: time.sleep(0.5)  # type: ignore[method-assign,assignment]
    trainer = toy.trainer(tmp_path, max_epochs=3, callbacks=[Watchdog(minutes=2.5 / 60)])
    trainer.fit(task, datamodule=toy.data())
    assert trainer.global_step == 6
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_time_must_be_positive() -> None:
    with pytest.raises(ValueError, match="minutes is 0"):
        Watchdog(minutes=0)


HANG = """
import os, sys, time
import hemnet.callbacks.watchdog as watchdog, hemnet.task, hemnet.launch
watchdog.GRACE_SECONDS = 3.0
plain = hemnet.task.SegmentationTask.training_step
def step(task, batch, batch_idx):
    if task.global_rank == 1 and task.trainer.global_step == 2:
        time.sleep(600)
    return plain(task, batch, batch_idx)
hemnet.task.SegmentationTask.training_step = step
from hemnet.cli import run_entry
from hemnet.train import _entry
run_entry(_entry)
"""


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_run(tmp_path: Path) -> None:
    """Rank 1 sleeps, rank 0 waits for it in an all-reduce."""
    (tmp_path / "hang.py").write_text(HANG)
    code = f"""
import sys
import hemnet.train, hemnet.launch
plain = hemnet.launch.run_ranks
def run_ranks(command, count, message):
    plain([sys.executable, {str(tmp_path / "hang.py")!r}, *command[3:]], count, message)
hemnet.train.run_ranks = run_ranks
from hemnet.cli import run_entry
run_entry(hemnet.train._entry)
"""
    overrides = [
        "data=synthetic", "data.train.length=16", "data.train.size=64", "data.val.length=3",
        "data.batch_size=2", "model.backbone.width=4", "model.head.channels=8", "model.num_components=4",
        "logger=csv", "trainer.precision=32", "trainer.devices=2", "callbacks.watchdog.minutes=0.1",
        "run_dir=run",
    ]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert time.monotonic() - started < 90
    assert "no batch came to its end for 6 s" in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "failed"
    assert "rank 1 of 2 failed" in result["error"]
