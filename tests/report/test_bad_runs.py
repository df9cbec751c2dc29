"""A damaged, extreme or oddly placed run neither ends the report on others nor is lost in silence."""

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _helpers.fake_runs import change, plausible_rows, write_run
from _helpers.report_page import page_of, table_of

from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.report.lines import profiles
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
    change(path, key, value)
    write_report([tmp_path / "runs"], tmp_path / "report")
    (problem,) = table_of(tmp_path / "report", "problems")
    assert (Path(problem["run"]).name, problem["status"]) == ("bad", "unreadable")
    (row,) = table_of(tmp_path / "report", "leaderboard")
    assert (row["mIoU"], row["seeds"]) == ("0.5", "1")


def test_a_run_without_a_score_replaces_none_and_is_not_counted(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a", HEM, miou=0.7, started="2026-01-01T00:00:00+0000")
    write_run(tmp_path / "runs/b", HEM, miou=None, started="2026-01-02T00:00:00+0000")
    write_report([tmp_path / "runs"], tmp_path / "report")
    (row,) = table_of(tmp_path / "report", "leaderboard")
    assert (row["mIoU"], row["seeds"]) == ("0.7", "1")
    assert "2 found, 1 finished and counted" in {
        row["found"] for row in table_of(tmp_path / "report", "overview")
    }
    (problem,) = table_of(tmp_path / "report", "problems")
    assert (Path(problem["run"]).name, problem["reason"][:11]) == ("b", "no val/miou")


def test_what_the_iterations_gain_is_the_mean_of_each_runs_gain(tmp_path: Path) -> None:
    for head in (EM, HEM):
        for seed, first in enumerate((-500.0, -800.0, math.nan)):
            last = -400.0 if math.isnan(first) else first + 2
            row = {f"em/log_likelihood/{t:02d}": (first, last)[t == 3] for t in range(4)}
            write_run(tmp_path / f"runs/{head[0][11:]}{seed}", head, seed=seed, rows=[{"step": 9, **row}])
    write_report([tmp_path / "runs"], tmp_path / "report")
    gains = [float(row["gained"]) for row in table_of(tmp_path / "report", "synthetic_hem_convergence")]
    assert gains == [2, 2]


def test_a_cost_that_is_the_same_in_every_run_has_no_interval(tmp_path: Path) -> None:
    """The mean of three times 0.1 is not 0.1."""
    for head in (EM, HEM):
        for seed in range(3):
            rows = [{"step": 9, "cost/gflops": 0.1}]
            write_run(tmp_path / f"runs/{head[0][11:]}{seed}", head, seed=seed, rows=rows)
    write_report([tmp_path / "runs"], tmp_path / "report")
    for row in table_of(tmp_path / "report", "synthetic_hem_cost"):
        assert {*row} == {"setting", "GFLOPs"}


def test_tables_have_every_h_and_figures_say_which_they_leave_out(tmp_path: Path) -> None:
    scales: list[Any] = [round(0.1 * i, 1) for i in range(8)]
    for h in (*scales, "learned"):
        learned = {"model.head.learn_scale": "shared"} if h == "learned" else {}
        keys = {"model.head.highway_scale": 0.5 if learned else h} | learned
        write_run(tmp_path / f"runs/{h}", HEM, keys=keys, rows=plausible_rows(3, 0.5, 0))
    write_report([tmp_path / "runs"], tmp_path / "report")
    for name in ("convergence", "gradient_backbone"):
        heads = {row["head"] for row in table_of(tmp_path / "report", f"synthetic_hem_{name}")}
        assert heads == {
            "em",
            "hem (h=0.5)",
            "h=learned from 0.5",
            *(f"h={h:g}" for h in scales if h not in (0, 0.5)),
        }
    text = page_of(tmp_path / "report").text
    assert text.count("Not drawn, for lack of room: h=0.2, h=0.4, h=0.7 at T=3.") >= 4


def test_a_run_that_logged_too_little_hides_no_other(tmp_path: Path) -> None:
    for seed, T in enumerate((3, 3, 2)):
        write_run(tmp_path / str(seed), HEM, seed=seed, rows=plausible_rows(T, 0.5, seed))
    (section,) = sections(collect([tmp_path])[0])
    for family, length in (("em/log_likelihood", 4), ("em/step_length", 3), ("gradient/means", 4)):
        assert [len(values) for values in profiles(section.groups[0], family, 2).values()] == [length, length]


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
    (row, *_) = table_of(tmp_path / "report", "synthetic_hem_gradient_means")
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
