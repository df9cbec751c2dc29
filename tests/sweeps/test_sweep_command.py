"""Sweeps as a user starts them: each job runs once, failures are reported, finished jobs are skipped."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from _helpers.camvid_files import MakeCamVid
from _helpers.in_process import Start
from _helpers.process_tree import alive, descendants, of_rank
from _helpers.tiny import PLAIN
from _helpers.waiting import CEILING, until

from hemnet.errors import HemnetError
from hemnet.report.write import write_report

TINY = [*PLAIN, "trainer.max_epochs=1"]


def command(folder: Path, root: Path, *overrides: str) -> list[str]:
    places = [f"data.root={root}", f"hydra.sweep.dir={folder}"]
    return [sys.executable, "-m", "hemnet.train", "--multirun", *TINY, *places, *overrides]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def sweep(folder: Path, root: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, root, *overrides), cwd=folder.parent, env=environment(), capture_output=True,
        text=True, stdin=subprocess.DEVNULL, timeout=CEILING, check=False,
    )  # fmt: skip


def jobs(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "jobs.csv").open(newline="") as file:
        return {row["job"].split("_logger")[0].split("seed-")[1]: row for row in csv.DictReader(file)}


def result(folder: Path, seed: str) -> dict:
    (path,) = folder.glob(f"*seed-{seed}*/result.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_failures_are_reported_and_only_they_run_again(
    make_camvid: MakeCamVid, tmp_path: Path, start: Start, forked_jobs: None,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = tmp_path / "sweep"
    words = ["--multirun", *TINY, f"data.root={make_camvid()}", f"hydra.sweep.dir={folder}"]
    with pytest.raises(HemnetError, match="1 of 3 jobs failed") as error:
        start(*words, "seed=0,oops,2", "hydra.launcher.parallel=2")
    assert {name: job["status"] for name, job in jobs(folder).items()} == {
        "0": "finished", "oops": "failed", "2": "finished",
    }  # fmt: skip
    said = capfd.readouterr()
    assert (said.out + said.err + str(error.value)).count("seed is 'oops'") == 1
    assert "seed" in jobs(folder)["oops"]["error"]
    assert float(jobs(folder)["2"]["val/miou"]) == pytest.approx(result(folder, "2")["metrics"]["val/miou"])

    page = write_report([folder], tmp_path / "report")
    assert "3 found, 2 finished" in page.read_text()
    assert "seed-oops" in page.read_text()

    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    with pytest.raises(HemnetError, match="1 of 3 jobs failed"):
        start(*words, "seed=0,oops,2")
    assert [job["status"] for job in jobs(folder).values()] == ["skipped", "failed", "skipped"]
    assert {path: path.stat().st_mtime_ns for path in times} == times

    # A run with the same name and another configuration is neither skipped nor overwritten.
    (name,) = (path.parent.name for path in times if "seed-0" in str(path))
    with pytest.raises(HemnetError, match=r"another configuration, differing in optim\.head_lr_multiple"):
        start(*words, "seed=0", f"hydra.sweep.subdir={name}", "optim.head_lr_multiple=2.0")
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="jobs die with a killed sweep on Linux")
def test_a_killed_sweep_continues_where_its_jobs_were(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    folder, root = tmp_path / "sweep", make_camvid(train=24)
    long = (
        "seed=0",
        "trainer.max_epochs=8",
        "trainer.check_val_every_n_epoch=4",
        "trainer.log_every_n_steps=1",
    )
    first = subprocess.Popen(
        command(folder, root, *long), cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: list(folder.glob("*/checkpoints/last.ckpt")), "the first checkpoint", first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (run,) = (path.parent.parent for path in folder.glob("*/checkpoints/last.ckpt"))
    assert not (run / "result.json").exists()
    assert (second := sweep(folder, root, *long)).returncode == 0, second.stderr
    (started,) = (
        line for line in (run / "run.log").read_text().splitlines() if "going on after step" in line
    )
    assert int(started.rsplit(" ", 1)[1]) > 0
    assert result(folder, "0")["steps"] == 96
    with (run / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(96))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_ranks_do_not_sweep_by_themselves(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    """Each job has one directory and one process tree; after a rank is killed, the next job still runs."""
    folder, root = tmp_path / "sweep", make_camvid(train=8)
    two = "trainer.devices=2", "trainer.strategy=ddp"
    process = subprocess.Popen(
        command(folder, root, "seed=0,1", *two), cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        # Written when both ranks are there.
        until(lambda: list(folder.glob("*seed-0*/config.yaml")), "the first run", process)
        tree = descendants(process.pid)
        os.kill(of_rank(1, tree)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=CEILING)
    finally:
        process.kill()
    assert process.returncode == 2, errors
    assert not any(map(alive, tree))
    assert [job["status"] for job in jobs(folder).values()] == ["failed", "finished"]
    assert "rank 1 of 2 was killed by SIGKILL" in result(folder, "0")["error"]
    assert result(folder, "1")["steps"] == 2  # 8 images, 2 per rank and step
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(jobs_folders(folder))
    for run in folder.glob("*/run.log"):
        assert run.read_text().count("run directory:") == 1


def jobs_folders(folder: Path) -> list[str]:
    with (folder / "jobs.csv").open(newline="") as file:
        return [row["job"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_jobs_that_would_share_a_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    done = sweep(tmp_path / "sweep", tmp_path / "none", "callbacks.watchdog.minutes=1,2")
    assert done.returncode == 2
    assert "only in callbacks.watchdog.minutes=1, callbacks.watchdog.minutes=2, which" in done.stderr
    assert not list((tmp_path / "sweep").glob("*/"))
