"""The evaluation of many runs, of which some are damaged or were evaluated before."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from _helpers.camvid_files import write_camvid
from _helpers.tiny import call
from _helpers.untrained import as_stored, photograph, untrained
from omegaconf import OmegaConf

from hemnet.errors import HemnetError
from hemnet.runs.run import Run
from hemnet.sweeps.evaluate_runs import evaluate_runs
from hemnet.sweeps.jobs import Evaluation
from hemnet.using import evaluation
from hemnet.using.evaluation import evaluate


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two finished runs with networks as they were made, in a folder."""
    monkeypatch.chdir(tmp_path)
    camvid = write_camvid(tmp_path / "camvid", {"train": 1, "val": 1}, (32, 32))
    one = as_stored(untrained(tmp_path / "runs" / "a", f"data.root={camvid}")[0]).path
    (one / "result.json").write_text(json.dumps({"status": "finished"}))
    shutil.copytree(one, tmp_path / "runs" / "b")
    return tmp_path / "runs"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the evaluations that were begun; none is run."""
    names: list[str] = []

    def start(self: Evaluation, environment: object) -> None:
        names.append(self.name)

    def poll(self: Evaluation) -> bool:
        self.status = "finished"
        return True

    monkeypatch.setattr(Evaluation, "start", start)
    monkeypatch.setattr(Evaluation, "poll", poll)
    return names


@pytest.mark.parametrize(
    ("key", "value"), [("seed", "one"), ("data.eval_transform", 5), ("model.head", {}), ("trainer", 3)]
)
def test_a_damaged_run_is_named_and_the_others_are_evaluated(
    runs: Path, begun: list[str], key: str, value: object
) -> None:
    path = runs / "a" / "config.yaml"
    config = OmegaConf.load(path)
    OmegaConf.update(config, key, value, merge=False)
    OmegaConf.save(config, path)
    with pytest.raises(HemnetError, match=rf"1 of 2 jobs failed:\n  a: .*{key}"):
        evaluate_runs([runs], "last", [])
    assert begun == ["b"]


def test_what_nobody_foresaw_is_told_of_the_one_run(
    runs: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def fail(config: object) -> list[str]:
        seen.append(config)
        return [] if len(seen) > 1 else [][1]

    monkeypatch.setattr("hemnet.sweeps.evaluate_runs.debugging", fail)
    with pytest.raises(HemnetError, match=r"a: .*/a cannot be read as a run \(list index out of range\)"):
        evaluate_runs([runs], "last", [])
    assert begun == ["b"]


def test_a_run_in_which_nothing_can_be_written_stops_no_other(runs: Path) -> None:
    (runs / "a" / "evaluation").write_text("a file")
    done = call("hemnet.evaluate", "runs", cwd=runs.parent)
    assert done.returncode == 2
    assert "a/evaluation cannot be written" in done.stderr
    assert (runs / "b" / "evaluation" / "last" / "result.json").is_file()


def test_another_root_of_the_data_is_another_evaluation(runs: Path, begun: list[str], tmp_path: Path) -> None:
    moved = shutil.copytree(tmp_path / "camvid", tmp_path / "moved" / "camvid")
    evaluate(runs / "a", "last", [], worst=0)
    evaluate_runs([runs], "last", [])
    evaluate_runs([runs], "last", [f"data.root={moved}"])
    assert begun == ["b", "a", "b"]
    evaluate(runs / "a", "last", [f"data.root={moved}"], worst=0)
    evaluate_runs([runs], "last", [f"data.root={moved}"])
    assert begun[3:] == ["b"]


def test_an_output_says_which_checkpoint_it_is_of(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the file is replaced after it was read."""
    path = runs / "a" / "checkpoints" / "last.ckpt"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    real = evaluation.restore

    def restore(run: Run, which: str) -> object:
        content = torch.load(path)
        torch.save(content | {"epoch": 3}, path)
        return real(run, which)

    monkeypatch.setattr(evaluation, "restore", restore)
    evaluate(runs / "a", "last", [], iterations=[1], worst=0)
    place = runs / "a" / "evaluation" / "last"
    assert json.loads((place / "T1" / "result.json").read_text())["checkpoint_sha256"] == digest
    assert len((place / "iterations.csv").read_text().splitlines()) == 2


def test_damaged_results_beside_new_ones_are_as_none(runs: Path) -> None:
    evaluate(runs / "a", "last", [], iterations=[1, 2], worst=0)
    place = runs / "a" / "evaluation" / "last"
    before = json.loads((place / "T2" / "result.json").read_text())
    for metrics in (
        {"val/miou": "x"},
        {"val/miou": None},
        {"val/miou": [1]},
        {"val/miou": 10**400},
        None,
        "x",
    ):
        (place / "T2" / "result.json").write_text(json.dumps(before | {"metrics": metrics}))
        evaluate(runs / "a", "last", [], iterations=[1], worst=0)
        rows = (place / "iterations.csv").read_text().splitlines()
        assert [row[:2] for row in rows[1:]] in (["1,"], ["1,", "2,"])
        assert all(not any(row.split(",")[1:]) for row in rows[2:])


def test_options_without_an_effect_are_refused(runs: Path) -> None:
    one = str(runs / "a")
    for words, reason in (
        ([one, "--parallel", "2"], "--parallel is for several runs"),
        ([str(runs), "--parallel", "0"], "--parallel 0: give a number of 1 or more"),
        ([one, "--worst", "-3"], "--worst -3: give a number of 0 or more"),
        ([one, "--split", ""], "--split is empty"),
        ([one, "--iterations", "1" + 30 * "0"], "give different numbers from 0 to 1000000"),
        (
            [one, f"model.head.iterations_eval=1{30 * '0'}"],
            "iterations_eval is 1.*it must be 1000000 or less",
        ),
    ):
        done = call("hemnet.evaluate", *words, cwd=runs.parent)
        assert done.returncode == 2
        assert re.search(reason, done.stderr)
        assert "Traceback" not in done.stderr
    (runs.parent / "in").mkdir()
    photograph(runs.parent / "in" / "a.png")
    for words, reason in (
        (["data.eval_batch_size=0"], "data.eval_batch_size is 0: give a number of 1 or more"),
        (["--batch", "0"], "data.eval_batch_size is 0"),
        (["--batch", "2", "data.eval_batch_size=3"], "data.eval_batch_size is given twice"),
    ):
        done = call("hemnet.predict", one, "in", *words, cwd=runs.parent)
        assert (done.returncode, reason in done.stderr) == (2, True)
