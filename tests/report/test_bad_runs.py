"""A damaged, extreme or oddly placed run neither ends the report on others nor is lost in silence."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _helpers.fake_runs import write_evaluation, write_run
from _helpers.report_page import page_of, table_of
from omegaconf import OmegaConf

from hemnet.report.collect import collect
from hemnet.report.write import write_report

EM, HEM = ("model/head=em",), ("model/head=hem",)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("result.json", "seconds", "soon"), ("result.json", "steps", "many"), ("result.json", "warnings", 3),
        ("result.json", "metrics", [1]), ("result.json", "metrics", {"val/miou": "good"}),
        ("result.json", "labelled_pixels", 4), ("environment.json", "git", "clean"),
        ("config.yaml", "seed", None), ("config.yaml", "seed", "first"), ("config.yaml", "callbacks", "all"),
        ("config.yaml", "data", "camvid"), ("config.yaml", "trainer", 3),
        ("config.yaml", "model.head", "hem"),
        ("config.yaml", "model.head.iterations", "x"), ("config.yaml", "model.head.highway_scale", "x"),
    ],
)  # fmt: skip
def test_a_file_with_a_wrong_kind_of_value_is_told_and_leaves_the_other_runs(
    tmp_path: Path, file: str, key: str, value: Any
) -> None:
    write_run(tmp_path / "runs/good", HEM, seed=1, miou=0.5)
    path = write_run(tmp_path / "runs/bad", HEM) / file
    if file == "config.yaml":
        config = OmegaConf.load(path)
        OmegaConf.update(config, key, value, merge=False, force_add=True)
        OmegaConf.save(config, path)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    write_report([tmp_path / "runs"], tmp_path / "report")
    (problem,) = table_of(tmp_path / "report", "problems")
    assert (Path(problem["run"]).name, problem["status"]) == ("bad", "unreadable")
    (row,) = table_of(tmp_path / "report", "leaderboard")
    assert (row["mIoU"], row["seeds"]) == ("0.5", "1")


@pytest.mark.parametrize("metrics", [[1], "good", {"val/miou": "good"}])
def test_a_damaged_evaluation_does_not_take_its_run_along(tmp_path: Path, metrics: Any) -> None:
    run = write_run(tmp_path / "a", HEM, miou=0.5)
    write_evaluation(run, 3, 0.6)
    place = write_evaluation(run, 6, 0.7) / "result.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"metrics": metrics}))
    ((record,), unreadable) = collect([tmp_path])
    assert (record.miou, record.evaluated, unreadable) == (0.5, {3: 0.6}, [])


def test_a_name_that_is_a_number_is_a_name(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", (*HEM, "name=12"))
    write_run(tmp_path / "runs/b", (*HEM, "name=x", "trainer.max_epochs=7"))
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert {row["recipe"] for row in table_of(tmp_path / "report", "leaderboard")} == {"12", "x"}


def test_gradients_that_explode_and_vanish_are_shown(tmp_path: Path) -> None:
    for seed, size in enumerate((1e30, 1e-20)):
        for head, first in ((EM, size), (HEM, 1.0)):
            row = {f"gradient/means/{t:02d}": first if t < 3 else 1.0 for t in range(4)}
            rows = [{"step": step, **row} for step in range(10)]
            write_run(tmp_path / f"runs/{head[0][11:]}{seed}", head, seed=seed, rows=rows)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert "to inf" in page_of(tmp_path / "report").text
    (row, *_) = table_of(tmp_path / "report", "synthetic_hem_gradient_halfway")
    assert np.isclose(float(row["h = 0"]), 1e5)


def test_runs_lie_in_folders_of_any_name_but_those_inside_a_run(tmp_path: Path) -> None:
    names = ("figures/a", "evaluation/b", "checkpoints/c", "wandb/d")
    for seed, name in enumerate(names):
        write_run(tmp_path / name, HEM, seed=seed)
    for name in ("figures/a/evaluation/x", "wandb/run-1/files", "wandb/d/wandb/offline-run-1/files"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("wandb_version: 1")
    records, unreadable = collect([tmp_path])
    assert {str(record.path.relative_to(tmp_path)) for record in records} == {*names}
    assert unreadable == []


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "a", HEM)
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def denied(path: Any) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with caplog.at_level(logging.WARNING):
        assert len(collect([tmp_path])[0]) == 1
    assert f"{tmp_path / 'locked'} cannot be read (Permission denied): runs in it are left out" in caplog.text


def test_schedules_of_h_without_plain_em_have_no_empty_chart_and_no_comparison(tmp_path: Path) -> None:
    for scale in ("[0.1,0.2,0.3]", "[0.3,0.2,0.1]"):
        write_run(tmp_path / f"runs/{scale}", (*HEM, f"model.head.highway_scale={scale}"), miou=0.5)
    write_report([tmp_path / "runs"], tmp_path / "report")
    assert "No run has h = 0 at such a T." in page_of(tmp_path / "report").text
    assert not list((tmp_path / "report/figures").glob("*_vs_scale*"))
    rows = table_of(tmp_path / "report", "synthetic_hem_miou_vs_scale")
    assert [(row["h"], row["verdict"]) for row in rows] == [("0.1/0.2/0.3", ""), ("0.3/0.2/0.1", "")]
