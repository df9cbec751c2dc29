"""Runs that are killed, and runs that start together, lose nothing and disturb nobody."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from _helpers.waiting import CEILING, until

from hemnet.config import compose
from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.runs.checkpoints import CheckpointError, latest, read
from hemnet.runs.run import Run
from hemnet.runs.training_run import TrainingRun

SMALL = [
    "data=synthetic", "data.train.length=16", "data.train.size=64", "data.train.cells=4", "data.val.length=3",
    "data.batch_size=2", "data.num_workers=1", "logger=csv", "model/backbone=resnet18", "seed=5",
    "model.backbone.width=4", "model.head.channels=8", "model.num_components=4", "model.head.dropout=0.5",
    "trainer.precision=32", "trainer.log_every_n_steps=1", "callbacks.predictions=null",
    "callbacks.attention=null", "callbacks.cost=null", "callbacks.last.every_minutes=1e-9",
]  # fmt: skip


def start(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "hemnet.train", *SMALL, f"run_dir={folder}", *overrides],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def saved(run: Path) -> int:
    with contextlib.suppress(CheckpointError, OSError):  # one that is being replaced
        found = latest(run / "checkpoints")
        return int(found[1]["global_step"]) if found else 0
    return 0


def further_or_ended(run: Path, before: int, process: subprocess.Popen[bytes]) -> bool:
    return saved(run) > before or process.poll() is not None


@pytest.mark.parametrize(
    ("kills", "epochs"),
    [pytest.param(2, 3, marks=pytest.mark.slow), pytest.param(20, 12, marks=pytest.mark.long)],
)
def test_a_run_killed_again_and_again_ends_like_an_undisturbed_one(
    kills: int, epochs: int, tmp_path: Path
) -> None:
    rng = random.Random(kills)
    whole = start(tmp_path / "whole", f"trainer.max_epochs={epochs}")
    output, _ = whole.communicate(timeout=CEILING)
    assert whole.returncode == 0, output.decode()
    for _ in range(kills):
        before = saved(tmp_path / "parts")
        process = start(tmp_path / "parts", f"trainer.max_epochs={epochs}", "resume=auto")
        until(partial(further_or_ended, tmp_path / "parts", before, process), "another checkpoint")
        time.sleep(rng.uniform(0, 0.4))  # in a step, in a validation, in the writing of a checkpoint
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    final = start(tmp_path / "parts", f"trainer.max_epochs={epochs}", "resume=auto")
    output, _ = final.communicate(timeout=CEILING)
    assert final.returncode == 0, output.decode()
    one, other = (
        read(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("whole", "parts")
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    runs = [Run.open(tmp_path / name) for name in ("whole", "parts")]
    assert runs[0].result["metrics"] == runs[1].result["metrics"]
    kept = [[row for row in run.metrics() if "train/loss" in row] for run in runs]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 8 * epochs
    assert not list((tmp_path / "parts" / "checkpoints").glob(".*"))


def test_runs_of_one_second_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-120000")
    assert len({compose._run_id() for _ in range(50)}) == 50


def test_processes_that_were_started_apart_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(HemnetError, match="cannot agree on a name: give run_dir"):
        compose._run_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abc")
    assert compose._run_id() == compose._run_id() == "torchrun-abc"
    monkeypatch.delenv("WORLD_SIZE")
    for name, value in {"NTASKS": "2", "JOB_ID": "77", "STEP_ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert compose._run_id() == compose._run_id() == "slurm-77-1"


def test_of_many_that_want_one_directory_one_gets_it(tmp_path: Path) -> None:
    config = load([*SMALL, f"run_dir={tmp_path / 'run'}"])

    def create(_: int) -> Run | None:
        with contextlib.suppress(HemnetError):
            return TrainingRun.create(tmp_path / "run", config, "auto")
        return None

    with ThreadPoolExecutor(8) as pool:
        made = [run for run in pool.map(create, range(16)) if run]
    assert len(made) == 1


LAUNCH = """
import sys, time
from pathlib import Path
from hemnet.config.compose import load
from hemnet.runs.training_run import TrainingRun
Path(f"ready{sys.argv[1]}").touch()
while not Path("go").exists():
    time.sleep(0.001)
config = load(["logger=csv"])
with TrainingRun.create(config.run_dir, config) as run:
    run.record(metrics={"number": int(sys.argv[1])})
"""


@pytest.mark.long
def test_fifty_launches_at_once_get_fifty_directories(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(i)], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        for i in range(50)
    ]
    while len(list(tmp_path.glob("ready*"))) < 50:
        assert all(process.poll() in (None, 0) for process in processes)
        time.sleep(0.1)
    (tmp_path / "go").touch()
    assert [process.wait(CEILING) for process in processes] == [0] * 50
    folders = list((tmp_path / "runs" / "custom").iterdir())
    assert len(folders) == 50
    assert {Run.open(folder).result["metrics"]["number"] for folder in folders} == set(range(50))
