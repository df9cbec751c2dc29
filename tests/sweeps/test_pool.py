"""Several jobs at a time, with short processes instead of training."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _helpers.process_tree import alive
from _helpers.waiting import until

from hemnet.errors import HemnetError
from hemnet.processes.signals import Interrupted
from hemnet.sweeps.jobs import Job
from hemnet.sweeps.pool import Slot, make_slots, run_jobs
from hemnet.sweeps.sweep import run_and_report

RESULT = {"status": "finished", "metrics": {"val/miou": 0.5}}
FINISH = f"import json; json.dump({RESULT}, open('result.json', 'w'))"


class Script(Job):
    """A job that runs a Python script in its directory."""

    @property
    def command(self) -> list[str]:
        code = f"import os; os.chdir({str(self.path)!r})\n" + "\n".join(self.overrides)
        return [sys.executable, "-c", code]


def script(tmp_path: Path, name: str, *lines: str) -> Script:
    return Script(name, tmp_path / name, lines)


def test_a_job_without_a_folder_to_write_to_stops_no_other(tmp_path: Path) -> None:
    jobs = [script(tmp_path, "taken"), script(tmp_path, "free", FINISH)]
    (tmp_path / "taken").touch()
    with pytest.raises(
        HemnetError, match=r"(?s)1 of 2 jobs failed.*taken: .*taken cannot be written \(.*exists"
    ):
        run_and_report(jobs, [Slot(1)], tmp_path)
    assert [job.status for job in jobs] == ["failed", "finished"]
    (tmp_path / "file").touch()
    with pytest.raises(HemnetError, match=r"cannot write .*file/jobs\.csv .*: make room there"):
        run_and_report(jobs, [Slot(1)], tmp_path / "file")


def test_a_failure_is_reported_and_stops_no_other(tmp_path: Path) -> None:
    jobs = [
        script(tmp_path, "raises", "raise ValueError('the reason')"),
        script(tmp_path, "dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        script(tmp_path, "lies", "print('ended well, but without a result')"),
        script(tmp_path, "works", FINISH),
    ]
    run_jobs(jobs, [Slot(1), Slot(1)], lambda: None)
    assert [job.status for job in jobs] == ["failed", "failed", "failed", "finished"]
    assert jobs[0].error == "ValueError: the reason"
    assert any("Traceback" in line for line in jobs[0].console)
    assert jobs[1].error == "killed by SIGKILL"
    assert jobs[2].error == "ended well, but without a result"
    assert jobs[3].miou == 0.5


def test_each_error_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(name: str, message: str) -> Script:
        lines = f"print('a note'); print({'error: ' + message!r}, file=sys.stderr); sys.exit(2)"
        return script(tmp_path, name, "import sys", lines)

    jobs = [
        failing("first", "seed is 'x': give a number"),
        failing("second", "seed is 'x': give a number"),
        failing("lines", "no run in a\n  b: name another"),
        script(tmp_path, "raises", "raise ValueError('the reason')"),
        script(tmp_path, "dies", "print('the last words', flush=True)", "import os; os.kill(os.getpid(), 9)"),
        script(tmp_path, "works", FINISH),
    ]
    with pytest.raises(HemnetError) as caught:
        run_and_report(jobs, [Slot(1)], tmp_path)
    said = capsys.readouterr().out + str(caught.value)
    for once in (
        "seed is 'x'",
        "name another",
        "the reason",
        "the last words",
        "killed by SIGKILL",
        "Traceback",
    ):
        assert said.count(once) == 1, said
    assert "first, second: seed is 'x': give a number\n" in str(caught.value)
    assert "lines: no run in a b: name another\n" in str(caught.value)
    assert "a note" not in said
    assert "5 of 6 jobs failed" in said


def test_jobs_share_slots_and_no_more_run_than_there_are(tmp_path: Path) -> None:
    report = "import os, time; open('env', 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.3)"
    jobs = [script(tmp_path, str(i), report, FINISH) for i in range(4)]
    most = 0

    def watch() -> None:
        nonlocal most
        most = max(most, sum(job.status == "running" for job in jobs))

    run_jobs(jobs, [Slot(1, "0,1"), Slot(1, "2,3")], watch)
    assert most == 2
    assert [job.status for job in jobs] == ["finished"] * 4
    assert {(job.path / "env").read_text() for job in jobs} == {"0,1", "2,3"}


def test_the_next_job_is_asked_for_when_there_is_a_slot(tmp_path: Path) -> None:
    ended: list[Job] = []

    def jobs() -> Iterator[Job]:
        for i in range(3):
            assert len(ended) == i
            yield script(tmp_path, str(i), FINISH)

    run_jobs(jobs(), [Slot(1)], lambda: None, ended.append)
    assert [job.status for job in ended] == ["finished"] * 3


def test_what_a_job_leaves_running_is_killed(tmp_path: Path) -> None:
    sleep = "[sys.executable, '-c', 'import time; time.sleep(3600)']"
    child = f"import subprocess, sys; p = subprocess.Popen({sleep})"
    job = script(tmp_path, "parent", child, "open('child', 'w').write(str(p.pid))", FINISH)
    run_jobs([job], [Slot(1)], lambda: None)
    wait_until_gone(int((job.path / "child").read_text()))


def test_an_interrupt_ends_the_running_jobs_and_starts_no_others(tmp_path: Path) -> None:
    jobs = [script(tmp_path, str(i), "import time; time.sleep(3600)") for i in range(2)]

    def interrupt() -> None:
        if jobs[0].status == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, [Slot(1)], _once(interrupt))
    assert [job.status for job in jobs] == ["preempted", "waiting"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_all_jobs_at_once(number: signal.Signals, tmp_path: Path) -> None:
    # Each job ends when all have been interrupted: interrupted one after another, none would end.
    (tmp_path / "jobs.py").write_text(f"""
import signal, time
from pathlib import Path
def stop(*_):
    Path("asked").touch()
    while len(list(Path({str(tmp_path)!r}).glob("*/asked"))) < 3:
        time.sleep(0.01)
    Path("ended").touch()
    exit(3)
signal.signal(2, stop)
Path("ready").touch()
time.sleep(3600)
""")
    together = f"exec(open({str(tmp_path / 'jobs.py')!r}).read())"
    jobs = [script(tmp_path, str(i), together) for i in range(3)]
    asked: list[bool] = []

    def ask() -> None:
        if not asked and all((job.path / "ready").exists() for job in jobs):
            asked.append(True)
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stopped:
        run_jobs(jobs, [Slot(1)] * 3, ask)
    assert stopped.value.code == 128 + number
    assert [job.status for job in jobs] == ["preempted"] * 3
    assert all((job.path / "ended").exists() for job in jobs)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is asked for on Linux")
def test_jobs_die_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    sleep = "open('pid', 'w').write(str(__import__('os').getpid())); __import__('time').sleep(3600)"
    code = (
        "import sys; from pathlib import Path; from sweeps.test_pool import script;"
        "from hemnet.sweeps.pool import Slot, run_jobs;"
        "run_jobs([script(Path(sys.argv[1]), 'job', sys.argv[2])], [Slot(1)], lambda: None)"
    )
    sweep = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), sleep],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pid_file = tmp_path / "job" / "pid"
    until(lambda: pid_file.is_file() and pid_file.read_text(), "the job's start", sweep)
    sweep.kill()
    sweep.wait()
    wait_until_gone(int(pid_file.read_text()))


def test_slots() -> None:
    cores = os.cpu_count() or 1
    assert make_slots(None, None, gpu=False, per_job=1) == [Slot(cores)]
    assert make_slots(2, None, gpu=False, per_job=1) == [Slot(max(1, cores // 2))] * 2
    gpus = make_slots(None, [0, 1, 2, 3, 4], gpu=True, per_job=2)
    assert [slot.devices for slot in gpus] == ["0,1", "2,3"]
    assert [slot.devices for slot in make_slots(1, ["GPU-a", 7], gpu=True, per_job=1)] == ["GPU-a"]
    with pytest.raises(HemnetError, match="needs 2 GPUs and there are 1"):
        make_slots(None, [3], gpu=True, per_job=2)
    with pytest.raises(HemnetError, match="parallel is 0"):
        make_slots(0, None, gpu=False, per_job=1)


def test_visible_gpus_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [slot.devices for slot in make_slots(None, None, gpu=True, per_job=1)] == ["4", "6"]


def test_threads_that_the_user_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert Slot(1).environment()["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert Slot(1).environment()["OMP_NUM_THREADS"] == "1"


def test_the_run_directory_is_quoted_for_hydra(tmp_path: Path) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    path = tmp_path / "it's, a=b {x}"
    *_, run_dir, resume = Job("job", path, ["seed=1"]).command
    assert OverridesParser.create().parse_override(run_dir).value() == str(path)
    assert resume == "resume=auto"
    assert json.dumps(["seed=1"]) == json.dumps(list(Job("job", path, ["seed=1"]).overrides))


def _once(action: object) -> object:
    called = []

    def wrapped() -> None:
        if not called and callable(action):
            called.append(True)
            action()

    return wrapped


def wait_until_gone(pid: int) -> None:
    until(lambda: not alive(pid), f"the end of process {pid}")
