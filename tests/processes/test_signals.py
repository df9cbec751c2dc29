"""Signals: a first one stops a run between steps, a second one at once, and the exit status says so."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _helpers.process_tree import alive, descendants
from _helpers.waiting import CEILING, until, within

from hemnet.processes.signals import Interrupted, asked, defer, foremost, interruptible, signals
from hemnet.runs.run import Run

SMALL = [
    "data=synthetic", "data.train.length=16", "data.train.size=64", "data.train.cells=4", "data.val.length=3",
    "data.batch_size=2", "logger=csv", "model/backbone=resnet18",
    "model.backbone.width=4", "model.head.channels=8", "model.num_components=4", "trainer.precision=32",
    "trainer.log_every_n_steps=1", "trainer.max_epochs=100000", "callbacks.predictions=null",
    "callbacks.attention=null", "callbacks.cost=null",
]  # fmt: skip
# The variables that srun sets for the only task of a job.
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
def test_a_signal_waits_until_it_is_asked_for_and_a_second_does_not(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemnet.processes.signals.SAME_SECONDS", 0.0)
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


def test_what_comes_with_a_signal_is_the_same_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from SLURM, which signals the launcher and the rank; the launcher forwards the signal too."""
    monkeypatch.setattr("hemnet.processes.signals.SAME_SECONDS", 0.2)
    recorded = []

    def obey() -> None:
        with interruptible():
            defer(True)
            ask(signal.SIGTERM)
            ask(signal.SIGTERM)
            ask(signal.SIGINT)
            assert asked() == signal.SIGTERM
            time.sleep(0.2)
            try:
                ask(signal.SIGTERM)
                pytest.fail("the second signal did not stop it")
            finally:
                ask(signal.SIGTERM)  # not while it is ending
                recorded.append(True)

    with pytest.raises(Interrupted):
        obey()
    assert recorded


def test_a_signal_outside_of_training_stops_at_once() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        stop(signal.SIGTERM)


def test_who_handled_the_signal_before_is_called_when_all_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # submitit requeues its jobs at SIGUSR2
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


def test_what_fails_in_cleaning_up_does_not_hide_the_signal() -> None:
    def clean_up_badly() -> None:
        try:
            ask(signal.SIGTERM)
        finally:
            raise RuntimeError("there is nothing to clean up")

    with pytest.raises(Interrupted, match="SIGTERM"), interruptible(), foremost():
        clean_up_badly()
    with pytest.raises(RuntimeError, match="nothing"), foremost():
        raise RuntimeError("nothing")


def test_other_threads_leave_signals_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


TRAIN = ("-m", "hemnet.train")


def start(
    folder: Path, *overrides: str, entry: tuple[str, ...] = TRAIN, **environment: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *entry, *SMALL, *overrides], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=(folder / "out").open("ab"), stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def when(process: subprocess.Popen[bytes], text: str, log: Path) -> None:
    """Wait until the run's log has the text."""
    until(lambda: log.is_file() and text in log.read_text(), repr(text), process)


@pytest.mark.slow
def test_a_job_that_slurm_requeues_resumes_in_its_directory(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    command = f"run_dir={folder}", "resume=auto", "data.num_workers=2"
    job = start(tmp_path, *command, **SLURM)
    try:
        when(job, "epoch 1", folder / "run.log")
        job.send_signal(signal.SIGUSR1)
        assert job.wait(CEILING) == 128 + signal.SIGUSR1
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
        assert again.wait(CEILING) == 128 + signal.SIGINT
    finally:
        again.kill()
    assert Run.open(folder).status == "preempted"
    assert Run.open(folder).saved_step >= step


def stopped_between_steps(folder: Path) -> None:
    """Assert that the run was preempted with its last step saved."""
    run = Run.open(folder)
    assert run.status == "preempted"
    steps = [row["step"] for row in run.metrics() if "train/loss" in row]
    assert run.saved_step == steps[-1] + 1


def none_left(tree: set[int]) -> None:
    until(lambda: not any(map(alive, tree)), "the end of processes that are left behind")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_every_process_of_a_job_is_signalled_at_once(devices: int, tmp_path: Path) -> None:
    """As SLURM and systemd do: the launcher, the ranks, and the data loaders."""
    folder = tmp_path / "run"
    job = start(tmp_path, f"run_dir={folder}", f"trainer.devices={devices}", "data.num_workers=2")
    try:
        when(job, "epoch 1", folder / "run.log")
        tree = {job.pid} | descendants(job.pid)
        assert len(tree) >= (3 if devices == 1 else 7)
        for pid in sorted(tree):
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.kill(pid, signal.SIGTERM)
            time.sleep(0.02)  # ranks get it from their launcher too, at another moment
        assert job.wait(CEILING) == 128 + signal.SIGTERM, (tmp_path / "out").read_text()
    finally:
        job.kill()
    none_left(tree)
    stopped_between_steps(folder)
    assert "Traceback" not in (tmp_path / "out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_on_a_terminal(devices: int, tmp_path: Path) -> None:
    """It reaches all processes in the foreground, data loaders too."""
    folder, seen = tmp_path / "run", b""
    words = f"run_dir={folder}", f"trainer.devices={devices}", "data.num_workers=2"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(sys.executable, [sys.executable, *TRAIN, *SMALL, *words])
    tree = {pid}
    try:
        with within(CEILING), contextlib.suppress(OSError):  # nothing writes to this terminal any more
            while True:
                seen += os.read(terminal, 4096)
                if len(tree) == 1 and b"epoch 1 " in seen:
                    tree |= descendants(pid)
                    os.write(terminal, b"\x03")
        status = os.waitpid(pid, 0)[1]
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGINT, seen.decode()
    assert len(tree) >= (3 if devices == 1 else 7)
    none_left(tree)
    stopped_between_steps(folder)
    assert b"Traceback" not in seen


# From the second epoch on, the data loaders read no more images.
STUCK = """
import time
from hemnet.data.module import SampleDataset
plain = SampleDataset.__getitem__
def read(dataset, key):
    if isinstance(key, tuple) and key[0] > 0:
        print("stuck", flush=True)
        time.sleep(3600)
    return plain(dataset, key)
SampleDataset.__getitem__ = read
from hemnet.config.command_line import run_entry
from hemnet.train import _entry
run_entry(_entry)
"""


@pytest.mark.slow
def test_a_second_signal_ends_a_run_whose_data_loaders_are_stuck(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = start(tmp_path, f"run_dir={folder}", "data.num_workers=2", entry=("-c", STUCK))
    try:
        when(job, "stuck", tmp_path / "out")
        tree = {job.pid} | descendants(job.pid)
        assert len(tree) >= 3
        job.send_signal(signal.SIGTERM)
        when(job, "training stops after this step", tmp_path / "out")
        time.sleep(1.5)  # an earlier one would count as the same signal
        assert job.poll() is None  # the signal waits for the end of the step
        job.send_signal(signal.SIGTERM)
        assert job.wait(CEILING) == 128 + signal.SIGTERM, (tmp_path / "out").read_text()
    finally:
        job.kill()
    none_left(tree)
    assert Run.open(folder).status == "preempted"
    assert Run.open(folder).saved_step == 8
