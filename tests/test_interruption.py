"""Signals: what asks a run to stop is obeyed between steps, at once if repeated, told by the exit status."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hemnet.interruption import Interrupted, asked, defer, interruptible, signals
from hemnet.runs import Run

SMALL = [
    "data=synthetic", "data.train.length=16", "data.train.size=64", "data.train.cells=4", "data.val.length=3",
    "data.batch_size=2", "data.num_workers=0", "logger=csv", "model/backbone=resnet18",
    "model.backbone.width=4", "model.head.channels=8", "model.num_components=4", "trainer.precision=32",
    "trainer.log_every_n_steps=1", "trainer.max_epochs=100000", "callbacks.predictions=null",
    "callbacks.attention=null", "callbacks.cost=null",
]  # fmt: skip
# What srun sets for the only task of a job.
SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
}  # fmt: skip


def ask(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # until the interpreter has called the handler


def stop(number: signal.Signals, record: Callable[[], None] = lambda: None) -> None:
    with interruptible():
        try:
            ask(number)
            pytest.fail("the signal did not stop it")
        finally:
            record()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_it_is_asked_for_and_a_second_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def obey() -> None:
        with interruptible():
            defer(True)
            assert asked() is None
            ask(number)
            assert asked() == number
            ask(number)
            pytest.fail("the second signal did not stop it")

    with pytest.raises(Interrupted) as stopped:
        obey()
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert asked() is None


def test_a_signal_outside_of_training_stops_at_once() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        stop(signal.SIGTERM)


def test_who_handled_the_signal_before_is_called_when_all_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # where submitit puts its jobs in line again at SIGUSR2
    order: list[object] = []
    earlier = signal.signal(signal.SIGUSR2, lambda number, frame: order.append(signal.Signals(number)))
    try:
        with pytest.raises(Interrupted):
            stop(signal.SIGUSR2, lambda: order.append("recorded"))
        assert order == ["recorded", signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, earlier)


def test_user_signals_are_asked_for_by_slurm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert signals() == [signal.SIGTERM, signal.SIGINT]
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert signals()[2:] == [signal.SIGUSR1, signal.SIGUSR2]


def test_other_threads_leave_signals_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def start(folder: Path, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "hemnet.train", *SMALL, *overrides], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=(folder / "out").open("ab"), stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def when(process: subprocess.Popen[bytes], text: str, log: Path) -> None:
    """Wait until the run's log has the text."""
    deadline = time.monotonic() + 120
    while not (log.is_file() and text in log.read_text()):
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, f"no {text!r} in two minutes"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_that_slurm_puts_in_line_again_goes_on_in_its_directory(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    command = f"run_dir={folder}", "resume=auto"
    job = start(tmp_path, *command, **SLURM)
    try:
        when(job, "epoch 1", folder / "run.log")
        job.send_signal(signal.SIGUSR1)
        assert job.wait(60) == 128 + signal.SIGUSR1
    finally:
        job.kill()
    assert Run.open(folder).status == "preempted"
    step = Run.open(folder).saved_step
    assert step > 0
    again = start(tmp_path, *command, **SLURM)
    try:
        when(again, f"going on after step {step}", folder / "run.log")
        again.send_signal(signal.SIGINT)
        again.send_signal(signal.SIGINT)
        assert again.wait(60) == 128 + signal.SIGINT
    finally:
        again.kill()
    assert Run.open(folder).status == "preempted"
    assert Run.open(folder).saved_step >= step
