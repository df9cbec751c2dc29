"""The paper's two-part table as a user makes it: a sweep of training, a sweep of evaluations, a report."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = [
    "experiment=synthetic_hem_short", "seed=0", "model.head.iterations=1,2",
    "model.head.highway_scale=0.5,0.0", "model.backbone.width=4", "model.head.channels=8",
    "data.train.length=8", "data.train.size=64", "data.val.length=4", "logger=csv",
    "callbacks.predictions=null", "callbacks.attention=null",
]  # fmt: skip
FOLDER = "runs/sweeps/table2_train"


def run(folder: Path, *arguments: str) -> str:
    """Run a command of the project in a folder, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_trained_then_evaluated_then_reported(tmp_path: Path) -> None:
    out = run(
        tmp_path, "hemnet.train", "--multirun", "sweep=table2_train", *SMALL, "hydra.launcher.parallel=2"
    )
    assert "6 finished" in out
    folder = tmp_path / FOLDER
    runs = {path.parent.name.partition("head-")[2]: path.parent for path in folder.glob("*/result.json")}
    hem = {f"hem_iterations-{T}_highway_scale-{h}" for T in (1, 2) for h in ("0.5", "0.0")}
    assert runs.keys() == hem | {"emanet_iterations-1", "emanet_iterations-2"}

    # A head without EM among them, and a run that has not finished.
    one = runs["emanet_iterations-2"]
    fcn, unfinished = folder / "fcn", folder / "unfinished"
    fcn.mkdir()
    (fcn / "result.json").write_text('{"status": "finished"}')
    text = (one / "config.yaml").read_text()
    head = text[text.index("  head:") : text.index("  auxiliary:")]
    plain = "  head: {_target_: hemnet.nets.FCNHead, channels: 8, dropout: 0.1}\n"
    (fcn / "config.yaml").write_text(text.replace(head, plain))
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text(text)

    evaluate = ["hemnet.evaluate", "--sweep", "table2_eval", "--parallel", "2", "--iterations"]
    out = run(tmp_path, *evaluate, "1", "2")
    assert "fcn has no EM layer, and so no T" in out
    assert "it has not finished: no result yet" in out
    assert "2 skipped, 6 finished" in out
    for path in runs.values():
        trained = json.loads((path / "result.json").read_text())["metrics"]["val/loss"]
        own = 2 if "iterations-2" in path.name else 1
        (row,) = (
            row for row in table(path / "evaluation/last/iterations.csv") if row["iterations"] == str(own)
        )
        assert float(row["val/loss"]) == pytest.approx(trained, abs=1e-6)

    # Goes on with what is left: one T of one run, since the rest is there.
    (one / "evaluation/last/T2/result.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/evaluation/last/T*/result.json")}
    assert len(times) == 11
    assert "7 skipped, 1 finished" in run(tmp_path, *evaluate, "2", "1")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert [row["iterations"] for row in table(one / "evaluation/last/iterations.csv")] == ["1", "2"]
    assert len(table(folder / "evaluation/jobs.csv")) == 8

    run(tmp_path, "hemnet.report", FOLDER, "--no-images")
    trained, evaluated = (
        table(tmp_path / f"report/tables/synthetic_hem_short_{name}.csv")
        for name in ("grid_train", "grid_eval_T2")
    )
    for rows, axis in ((trained, "T_train"), (evaluated, "T_eval")):
        assert [row[axis] for row in rows] == ["1", "2"]
        assert all(float(row[head]) >= 0 for row in rows for head in ("η=0.5", "η=1", "EMANet"))
