"""Run directories: complete however the run ends, never overwritten, and free of secrets."""

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from hemnet.errors import HemnetError
from hemnet.loggers.metrics_file import MetricsFile
from hemnet.processes.signals import Interrupted
from hemnet.runs import checkpoints, training_run
from hemnet.runs.redaction import REDACTED, redacted
from hemnet.runs.run import Run
from hemnet.runs.training_run import TrainingRun
from hemnet.storage.files import write_json


@pytest.fixture
def config() -> DictConfig:
    return OmegaConf.create(
        {"name": "demo", "seed": 3, "run_dir": "elsewhere", "trainer": {"accelerator": "cpu"}}
    )


def test_a_finished_run_is_recorded_whole(tmp_path: Path, config: DictConfig) -> None:
    with TrainingRun.create(tmp_path / "run", config) as run:
        run.record(metrics={"val/miou": 0.5, "val/iou/absent": float("nan")}, steps=7)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    assert (result["experiment"], result["seed"], result["steps"]) == ("demo", 3, 7)
    assert result["metrics"] == {"val/miou": 0.5, "val/iou/absent": None}
    assert result["seconds"] >= 0
    assert result["device"].startswith("cpu")
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert {"command", "python", "git", "device"} <= set(environment)
    assert environment["cpu_instructions"] == torch.backends.cpu.get_cpu_capability()


def test_a_run_is_not_resumed_in_another_directory(tmp_path: Path, config: DictConfig) -> None:
    with TrainingRun.create(tmp_path / "run", config):
        pass
    with pytest.raises(HemnetError, match=r"resumes the run there, but run_dir=.* is another directory"):
        TrainingRun.create(tmp_path / "other", config, str(tmp_path / "run"))
    assert not (tmp_path / "other").exists()
    TrainingRun.create(tmp_path / "run", config, str(tmp_path / "other" / ".." / "run"))


def test_an_error_is_not_hidden_by_a_disk_with_no_room_for_it(
    tmp_path: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = TrainingRun.create(tmp_path / "run", config)
    with monkeypatch.context() as patched:
        patched.setattr("hemnet.runs.training_run.write_json", full)
        with pytest.raises(HemnetError, match="the checkpoint"), run:
            raise HemnetError("the checkpoint could not be written")
    assert "result.json could not be written ([Errno 28] No space left on device)" in caplog.text
    TrainingRun.create(tmp_path / "run", config, "auto")  # the directory is free again


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "failed"),
        (HemnetError("no"), "failed"),
        (KeyboardInterrupt(), "preempted"),
        (Interrupted(signal.SIGTERM), "preempted"),
        (SystemExit(1), "failed"),
    ],
)
def test_a_run_that_ends_by_an_error_says_so(
    tmp_path: Path, config: DictConfig, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), TrainingRun.create(tmp_path / "run", config):
        raise error
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == status
    assert type(error).__name__ in result["error"]


def test_a_run_is_never_overwritten(tmp_path: Path, config: DictConfig) -> None:
    TrainingRun.create(tmp_path, config)
    with pytest.raises(HemnetError, match="already holds a run"):
        TrainingRun.create(tmp_path, config)


def test_a_moved_run_knows_where_it_is(tmp_path: Path, config: DictConfig) -> None:
    TrainingRun.create(tmp_path / "old", config)
    (tmp_path / "old").rename(tmp_path / "new")
    assert Run.open(tmp_path / "new").config.run_dir == str(tmp_path / "new")


def test_what_is_not_there_is_named(tmp_path: Path, config: DictConfig) -> None:
    with pytest.raises(HemnetError, match="no run at"):
        Run.open(tmp_path)
    run = TrainingRun.create(tmp_path, config)
    with pytest.raises(HemnetError, match=r"no checkpoint at .*best\.ckpt"):
        run.checkpoint("best")
    assert run.metrics() == []


def test_metrics_are_read_back_without_empty_cells(tmp_path: Path, config: DictConfig) -> None:
    run = TrainingRun.create(tmp_path, config)
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/miou\n1,0.5,\n2,,0.25\n")
    assert run.metrics() == [{"step": 1.0, "train/loss": 0.5}, {"step": 2.0, "val/miou": 0.25}]


def test_curves_are_the_metrics_column_by_column(tmp_path: Path, config: DictConfig) -> None:
    run = TrainingRun.create(tmp_path / "run", config)
    assert run.curves() == {}
    path = run.path / "metrics.csv"
    path.write_text("")
    assert run.curves() == {}
    path.write_text(
        "step,train/loss,val/miou,empty\n1,0.5,,\n2,,0.25,\n3,nan,0.5,\n4,0.1"
    )  # the last row is incomplete
    found = run.curves()
    assert list(found) == ["train/loss", "val/miou"]
    assert str(found["train/loss"].tolist()) == "[[1.0, 0.5], [3.0, nan], [4.0, 0.1]]"
    assert found["val/miou"].tolist() == [[2, 0.25], [3, 0.5]]
    assert list(run.curves(lambda name: name.startswith("val/"))) == ["val/miou"]


def test_secrets_stay_out_of_the_stored_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "sekret")
    monkeypatch.setenv("HEMNET_DATA", "/sets")
    config = OmegaConf.create(
        {
            "logger": {"api_key": "sekret", "note": "${oc.env:CANARY}", "list": ["${oc.env:CANARY}", 1]},
            "access_token": {"inner": "deep"},
            "data": {"root": "${oc.env:HEMNET_DATA}/camvid", "again": "${data.root}"},
            "alias": "${logger}",
            "copies": ["${logger.note}", "${logger.api_key}", "${access_token.inner}"],
        }
    )
    stored = redacted(config)
    assert "sekret" not in OmegaConf.to_yaml(stored)
    assert "deep" not in OmegaConf.to_yaml(stored)
    assert config.logger.note == "sekret"  # resolving works as before
    assert stored.logger.api_key == REDACTED
    assert stored.data.root == stored.data.again == "/sets/camvid"


def test_json_files_hold_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.0], "b": {"c": float("inf")}})
    content = (tmp_path / "x.json").read_text()
    json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def interrupted(path: Path, config: DictConfig, saved: int | None) -> None:
    """Make a run that logged steps 0 to 3 and was killed, with its last checkpoint after `saved` steps."""
    with contextlib.suppress(RuntimeError), TrainingRun.create(path, config):
        rows = ["step,train/loss,val/miou", "0,2.5,", "1,2.25,0.1", "2,2.0,", "3,1.75,0.2"]
        (path / "metrics.csv").write_text("\n".join(rows) + "\n")
        if saved is not None:
            about = {"hemnet": {"format": checkpoints.CHECKPOINT_FORMAT}}
            checkpoints.write(about | {"global_step": saved}, path / "checkpoints" / "last.ckpt")
        raise RuntimeError("power cut")


@pytest.mark.parametrize(("saved", "rows"), [(2, [0, 1]), (4, [0, 1, 2, 3]), (None, [])])
def test_a_run_is_resumed_from_its_last_checkpoint(
    tmp_path: Path, config: DictConfig, saved: int | None, rows: list[int]
) -> None:
    interrupted(tmp_path, config, saved)
    with TrainingRun.create(tmp_path, config, "auto") as run:
        assert (run.resumes_from is None) == (saved is None)
        assert run.saved_step == (saved or 0)
        assert [row["step"] for row in run.metrics()] == rows
        if rows:
            assert run.metrics()[1] == {"step": 1, "train/loss": 2.25, "val/miou": 0.1}
    assert run.status == "finished"


@pytest.mark.parametrize("torn", ["2", "2,1.2", "2,1.25,"])
def test_a_row_that_was_cut_short_is_forgotten(tmp_path: Path, config: DictConfig, torn: str) -> None:
    interrupted(tmp_path, config, 3)
    path = tmp_path / "metrics.csv"
    rows = ["a,step,train/loss", "7,0,2.5", "7,1,2.25", "7,2,2.0"]
    path.write_text("\n".join([*rows, f"7,{torn}"]))
    with TrainingRun.create(tmp_path, config, "auto") as run:
        assert [row["step"] for row in run.metrics()] == [0, 1, 2]


def test_a_run_that_dies_while_it_starts_can_be_resumed(tmp_path: Path, config: DictConfig) -> None:
    """Killed at each change of a file: of the configuration, and of the rows and columns of metrics.csv."""
    folder, ended, n = tmp_path / "run", 9, 0
    interrupted(folder, config, 3)
    while ended == 9:
        n += 1
        if not (process := os.fork()):
            sys.addaudithook(partial(die_at, folder, itertools.count(1), n))
            try:
                begun = TrainingRun.create(folder, config, "auto")
                rows = MetricsFile(str(begun.path))
                for name in ("train/loss", "new"):
                    rows.log_metrics({name: 1.0}, step=3)
                    rows.save()
                os._exit(0)
            finally:
                os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert ended in (0, 9)
        with contextlib.suppress(RuntimeError), TrainingRun.create(folder, config, "auto") as run:
            assert run.saved_step == 3
            assert [row["step"] for row in run.metrics()] == [0, 1, 2]
            raise RuntimeError
    assert n > 10


def die_at(folder: Path, count: Iterator[int], n: int, event: str, given: tuple) -> None:
    """Die at the n-th change of a file in a folder; a file that is opened for writing is empty then."""
    writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
    if not writes and event not in ("os.rename", "os.remove", "os.link"):
        return
    if str(folder) in str(given[0]) and next(count) == n:
        if event == "open" and given[2] & os.O_TRUNC and os.path.exists(given[0]):
            os.truncate(given[0], 0)
        os._exit(9)


def test_a_resumed_run_that_is_refused_is_left_as_it_was(tmp_path: Path, config: DictConfig) -> None:
    interrupted(tmp_path, config, 2)
    other = OmegaConf.merge(config, {"data": {"root": "/elsewhere"}})
    before = contents(tmp_path)
    with (
        pytest.raises(HemnetError, match="no such folder"),
        TrainingRun.create(tmp_path, other, "auto", begin=False),
    ):
        raise HemnetError("/elsewhere: no such folder")
    assert contents(tmp_path) == before
    # One that a fault or a signal stops begins, so that its end is recorded.
    with pytest.raises(Interrupted), TrainingRun.create(tmp_path, other, "auto", begin=False):
        raise Interrupted(signal.SIGTERM)
    assert Run.open(tmp_path).status == "preempted"
    assert Run.open(tmp_path).config.data.root == "/elsewhere"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_seconds_of_a_run_are_those_of_all_its_parts(tmp_path: Path, config: DictConfig) -> None:
    def part(seconds: float, *, saved: float | None = None, killed: bool = False) -> float:
        with contextlib.suppress(RuntimeError), TrainingRun.create(tmp_path, config, "auto") as run:
            run._started -= seconds
            if saved is not None:
                about = {"hemnet": {"format": checkpoints.CHECKPOINT_FORMAT}, "global_step": 1}
                about["callbacks"] = {"RunRecord": {"seconds": run.seconds() - seconds + saved}}
                checkpoints.write(about, tmp_path / "checkpoints" / "last.ckpt")
            raise RuntimeError
        if killed:
            (tmp_path / "result.json").unlink()
        return run.seconds()

    assert part(100) == pytest.approx(100, abs=5)
    assert Run.open(tmp_path).result["seconds"] == pytest.approx(100, abs=5)
    assert part(20) == pytest.approx(120, abs=5)
    part(30, killed=True)  # without a checkpoint, nothing tells of this part
    assert part(1) == pytest.approx(121, abs=5)
    part(50, saved=40, killed=True)
    assert part(2) == pytest.approx(163, abs=5)
    assert Run.open(tmp_path).result["seconds"] == pytest.approx(163, abs=5)


def test_a_run_that_goes_on_at_another_revision_keeps_the_earlier_ones(
    tmp_path: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(revision: str | None) -> dict[str, object]:
        git = None if revision is None else {"revision": revision, "modified": False}
        monkeypatch.setattr(training_run, "environment", lambda: {"git": git})
        with contextlib.suppress(RuntimeError), TrainingRun.create(tmp_path, config, "auto"):
            about = {"hemnet": {"format": checkpoints.CHECKPOINT_FORMAT}, "global_step": 1}
            checkpoints.write(about, tmp_path / "checkpoints" / "last.ckpt")
            raise RuntimeError
        return json.loads((tmp_path / "environment.json").read_text())

    assert part("a") == {"git": {"revision": "a", "modified": False}}
    assert "earlier_git" not in part("a")
    for revision, earlier in (("b", "a"), ("b", "a"), ("c", "ab"), ("a", "bc")):
        assert [git["revision"] for git in part(revision)["earlier_git"]] == [*earlier]
    shutil.rmtree(tmp_path / "checkpoints")  # without a checkpoint all is repeated
    assert "earlier_git" not in part("d")


def test_a_run_that_goes_on_with_other_instructions_keeps_the_earlier_ones(
    tmp_path: Path, config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path, config, 2)
    for used in ("AVX2", "AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda used=used: used)
        with contextlib.suppress(RuntimeError), TrainingRun.create(tmp_path, config, "auto"):
            raise RuntimeError
    about = json.loads((tmp_path / "environment.json").read_text())
    assert about["cpu_instructions"] == "AVX2"
    assert "AVX512" in about["earlier_cpu_instructions"]
    assert "AVX2" not in about["earlier_cpu_instructions"]


@pytest.mark.parametrize("value", ["soon", [1], {}, True, 10**400, None])
def test_files_with_values_of_wrong_types_do_not_end_a_resumed_run(
    value: object, tmp_path: Path, config: DictConfig
) -> None:
    interrupted(tmp_path, config, 2)
    for name, keys in (("result.json", ["seconds"]), ("environment.json", ["extended", "earlier_seconds"])):
        content = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(content | dict.fromkeys(keys, value)))
    with TrainingRun.create(tmp_path, config, "auto") as run:
        assert 0 <= run.seconds() < 60
        run.record(metrics=value)
    assert math.isnan(Run.open(tmp_path).score)
    write_json(tmp_path / "result.json", {"metrics": {"val/miou": value}})
    assert math.isnan(Run.open(tmp_path).score)


def test_a_run_of_another_configuration_is_not_resumed(tmp_path: Path, config: DictConfig) -> None:
    interrupted(tmp_path, config, 2)
    before = contents(tmp_path)
    other = OmegaConf.merge(config, {"seed": 4, "trainer": {"max_epochs": 3}, "run_dir": "moved"})
    with pytest.raises(HemnetError, match=r"differing in seed, trainer\.max_epochs: choose"):
        TrainingRun.create(tmp_path, other, "auto")
    assert contents(tmp_path) == before
    TrainingRun.create(
        tmp_path, OmegaConf.merge(config, {"run_dir": "moved", "data": {"root": "/x"}}), "auto"
    )


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, config: DictConfig) -> None:
    with TrainingRun.create(tmp_path, config) as run:
        run.record(metrics={"val/miou": 0.5})
    before = (tmp_path / "result.json").stat().st_mtime_ns
    assert TrainingRun.create(tmp_path, config, "auto").status == "finished"
    assert (tmp_path / "result.json").stat().st_mtime_ns == before


def test_two_processes_do_not_train_in_one_directory(tmp_path: Path, config: DictConfig) -> None:
    with (
        TrainingRun.create(tmp_path, config),
        pytest.raises(HemnetError, match="another process is training in"),
    ):
        TrainingRun.create(tmp_path, config, "auto")


def test_a_lock_ends_with_its_run(tmp_path: Path, config: DictConfig) -> None:
    interrupted(tmp_path, config, None)
    with TrainingRun.create(tmp_path, config, "auto") as run:
        pass
    assert run.status == "finished"
