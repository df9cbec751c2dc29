"""The paper's table 2 as a user makes it: a sweep of training, a sweep of evaluations, a report."""

import csv
import json
import sys
from pathlib import Path

import pytest
from _helpers.in_process import Start

from hemnet import evaluate
from hemnet.report.write import write_report

SMALL = [
    "experiment=synthetic_hem_short", "seed=0", "model.head.iterations=1,2",
    "model.head.highway_scale=0.5,0.0", "model.backbone.width=4", "model.head.channels=8",
    "data.train.length=8", "data.train.size=64", "data.val.length=4", "logger=csv",
    "callbacks.predictions=null", "callbacks.attention=null",
]  # fmt: skip
FOLDER = "runs/sweeps/table2_train"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_trained_then_evaluated_then_reported(
    tmp_path: Path, start: Start, forked_jobs: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    start("--multirun", "sweep=table2_train", *SMALL, "hydra.launcher.parallel=2")
    assert "6 finished" in capsys.readouterr().out
    folder = tmp_path / FOLDER
    runs = {path.parent.name.partition("head-")[2]: path.parent for path in folder.glob("*/result.json")}
    hem = {f"hem_iterations-{T}_highway_scale-{h}" for T in (1, 2) for h in ("0.5", "0.0")}
    assert runs.keys() == hem | {"emanet_iterations-1", "emanet_iterations-2"}

    monkeypatch.setattr(
        sys, "argv", ["evaluate", "--sweep", "table2_eval", "--parallel", "2", "--iterations", "1", "2"]
    )
    evaluate._entry()
    assert "6 finished" in capsys.readouterr().out
    assert len(table(folder / "evaluation/jobs.csv")) == 6
    for path in runs.values():
        trained = json.loads((path / "result.json").read_text())["metrics"]["val/loss"]
        losses = {
            row["iterations"]: row["val/loss"] for row in table(path / "evaluation/last/iterations.csv")
        }
        own = "2" if "iterations-2" in path.name else "1"
        assert float(losses[own]) == pytest.approx(trained, abs=1e-6)

    write_report([folder], tmp_path / "report", images=False)
    for name, axis in (("grid_train", "T_train"), ("grid_eval_T1", "T_eval"), ("grid_eval_T2", "T_eval")):
        rows = table(tmp_path / f"report/tables/synthetic_hem_short_{name}.csv")
        assert [row[axis] for row in rows] == ["1", "2"]
        assert all(float(row[head]) >= 0 for row in rows for head in ("η=0.5", "η=1", "EMANet"))
