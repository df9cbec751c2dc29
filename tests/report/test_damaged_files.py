"""What is damaged in a run's files is told with the file's name, and enters no number of the report."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from _helpers.fake_runs import change, write_evaluation, write_run
from _helpers.report_page import table_of
from omegaconf import OmegaConf

from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.report.write import write_report
from hemnet.runs.renamed import HEAD_DEFAULTS
from hemnet.runs.run_settings import columns

HEM = ("model/head=hem",)


def reason_of(folder: Path) -> str:
    """Return why the only run in a folder is unreadable."""
    records, (bad,) = collect([folder])
    assert records == []
    return bad.error


@pytest.mark.parametrize("key", ["val/miou", "val/mean_accuracy", "val/iou/green"])
@pytest.mark.parametrize("value", [66.1, -0.5, 1e300, 10**400, math.inf, "0.9", True, [0.5]])
def test_a_score_is_a_number_from_0_to_1(tmp_path: Path, key: str, value: Any) -> None:
    change(write_run(tmp_path / "a", HEM) / "result.json", key, value)
    reason = reason_of(tmp_path)
    assert reason.startswith(f"result.json: {key} is ")
    assert "a score is a number from 0 to 1: restore the file" in reason


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1.7), ("seed", True), ("model.head.iterations", -2), ("model.head.iterations", 10**11),
        ("model.head.iterations", 2.5), ("model.head.iterations", None),
        ("model.head.iterations_eval", -1), ("model.head.iterations_eval", "all"),
        ("model.head.highway_scale", math.nan), ("model.head.highway_scale", 1.0),
        ("model.head.highway_scale", [0.5, -1.5, 0.5]), ("model.head.highway_scale", None),
    ],
)  # fmt: skip
def test_a_setting_with_which_no_run_is_trained_is_damage(tmp_path: Path, key: str, value: Any) -> None:
    change(write_run(tmp_path / "a", HEM) / "config.yaml", key, value)
    assert reason_of(tmp_path).startswith(f"config.yaml: {key} is ")


@pytest.mark.parametrize("key", ["data", "model", "model.head", "optim", "task", "trainer"])
@pytest.mark.parametrize("value", [None, "x", [1]])
def test_a_part_of_a_configuration_without_settings_is_damage(tmp_path: Path, key: str, value: Any) -> None:
    change(write_run(tmp_path / "a", HEM) / "config.yaml", key, value)
    assert reason_of(tmp_path).startswith(f"config.yaml: {key} is {value!r}, and a run has settings there")


def test_no_iteration_is_a_setting(tmp_path: Path) -> None:
    change(write_run(tmp_path / "a", HEM) / "config.yaml", "model.head.iterations", 0)
    ((record,), unreadable) = collect([tmp_path])
    assert (record.identity.iterations, unreadable) == (0, [])


def test_a_configuration_that_was_cut_short_says_what_it_lacks(tmp_path: Path) -> None:
    write_run(tmp_path / "a", HEM, parts=("name", "seed", "data", "model"))
    assert reason_of(tmp_path).startswith("config.yaml: it lacks optim, task, trainer")


@pytest.mark.parametrize(("key", "value"), [
    ("gradient", ["unrolled"]), ("gradient", None), ("gradient", {"tolerance": 1}), ("variance", [1]),
    ("variance", "large"), ("iterations", None), ("highway_scale", {"start": 0.5}),
])  # fmt: skip
def test_a_head_that_no_run_has_is_told(tmp_path: Path, key: str, value: Any) -> None:
    change(write_run(tmp_path / "a", HEM) / "config.yaml", f"model.head.{key}", value)
    assert reason_of(tmp_path).startswith(f"config.yaml: model.head.{key} is ")


@pytest.mark.parametrize("key", HEAD_DEFAULTS)
def test_a_head_without_a_key_is_of_one_setting_with_its_default(tmp_path: Path, key: str) -> None:
    """On the page, and in W&B, which is told the configuration as it was composed."""
    given, left_out = tmp_path / "given" / "config.yaml", tmp_path / "left_out" / "config.yaml"
    write_run(given.parent, keys={f"model.head.{key}": HEAD_DEFAULTS[key]}, seed=1)
    config = OmegaConf.load(write_run(left_out.parent, seed=2) / "config.yaml")
    del config.model.head[key]
    OmegaConf.save(config, left_out)
    ((group,),) = [section.groups for section in sections(collect([tmp_path])[0])]
    assert group.runs.keys() == {1, 2}
    assert group.runs[2].identity == replace(group.runs[1].identity, seed=2)
    assert len({columns(OmegaConf.load(path))["setting"] for path in (given, left_out)}) == 1


def test_a_report_has_a_run_whose_head_has_no_options(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", HEM)
    config = OmegaConf.load(run / "config.yaml")
    config.model.head = {"_target_": config.model.head._target_}
    OmegaConf.save(config, run / "config.yaml")
    write_report([tmp_path], tmp_path / "report")
    ((record,), unreadable) = collect([tmp_path / "a"])
    assert (record.identity.head, record.identity.iterations, unreadable) == ("hem", 3, [])


@pytest.mark.parametrize("status", ["Finished", 1, None])
def test_a_status_that_is_none_is_told(tmp_path: Path, status: Any) -> None:
    change(write_run(tmp_path / "a", HEM) / "result.json", "status", status)
    assert reason_of(tmp_path).startswith(f"result.json: status is {status!r}, and hemnet writes finished")


@pytest.mark.parametrize("name", ["config.yaml", "result.json"])
@pytest.mark.parametrize("link", [True, False])
def test_what_has_the_name_of_a_file_and_is_none_is_told(tmp_path: Path, name: str, link: bool) -> None:
    path = write_run(tmp_path / "a", HEM) / name
    path.unlink()
    if link:
        path.symlink_to(name)
    else:
        path.mkdir()
    assert reason_of(tmp_path).startswith(f"{name}: it is a folder, a link that leads nowhere")


@pytest.mark.parametrize(
    "lost", ["", "result.json", "metrics.csv", "environment.json", "environment.json result.json"]
)
def test_a_run_that_lost_its_configuration_is_told(tmp_path: Path, lost: str) -> None:
    run = write_run(tmp_path / "a", HEM)
    write_evaluation(run, 3, 0.5)
    (run / "console.log").write_text("Killed\n")  # of a sweep's job
    for name in ("config.yaml", *lost.split()):
        (run / name).unlink()
    assert reason_of(tmp_path).startswith("config.yaml: it is missing, and says what was trained: restore")


@pytest.mark.parametrize("name", ["result.json", "environment.json"])
def test_an_empty_object_is_no_run_that_did_not_finish(tmp_path: Path, name: str) -> None:
    (write_run(tmp_path / "a", HEM) / name).write_text("{}")
    assert reason_of(tmp_path).startswith(f"{name}: it is an empty object")


@pytest.mark.parametrize(("text", "told"), [("", "not JSON"), ("{", "not JSON"), ("[" * 99_999, "not JSON")])
def test_a_torn_file_is_named_with_a_remedy(tmp_path: Path, text: str, told: str) -> None:
    (write_run(tmp_path / "a", HEM) / "result.json").write_text(text, "utf-8")
    reason = reason_of(tmp_path)
    assert reason.startswith(f"result.json: it is {told}")
    assert reason.endswith(": restore the file, or move the run elsewhere")


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e308, 10**400, True])
def test_seconds_that_no_run_takes_count_as_not_recorded(tmp_path: Path, value: Any) -> None:
    write_run(tmp_path / "runs/good", HEM, seed=1)
    change(write_run(tmp_path / "runs/bad", HEM) / "result.json", "seconds", value)
    write_report([tmp_path / "runs"], tmp_path / "report")
    (row,) = table_of(tmp_path / "report", "leaderboard")
    assert (row["seeds"], row["minutes"]) == ("2", "6.0")
    (problem,) = table_of(tmp_path / "report", "problems")
    assert problem["reason"].startswith("result.json: seconds is ")


@pytest.mark.parametrize("value", [-4.0, math.nan, 1e300])
def test_a_cost_that_nothing_has_is_not_recorded(tmp_path: Path, value: float) -> None:
    rows = [{"step": 9, "cost/gflops": value, "cost/parameters": 5.0}]
    write_run(tmp_path / "a", HEM, rows=rows)
    ((record,), _) = collect([tmp_path])
    if value > 1e100:  # as no metric is
        assert record.cost == {}
    else:
        assert record.cost == {"cost/parameters": 5.0}
    (doubt,) = record.doubts
    assert "cost/gflops" in doubt


def rows_of(count: int = 100, **further: float) -> list[dict[str, float]]:
    """Return the rows of a run of ``count`` steps that logs each tenth."""
    return [{"step": step, "val/miou": 0.5, **further} for step in range(9, count, 10)]


CUT = "".join(f"{step},0.5\n" for step in range(9, 50, 10))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("step,val/miou\n" + CUT, "it ends at step 49, and the run took 100 steps"),
        ("step,val/miou\n9,0.5\n99,0.", "its last row was cut short"),
        ("", "it has no row with a step"), ("val/miou\n0.5\n", "it has no row with a step"),
        (None, "it is missing"),
        ("step,val/miou\n99,abc\n", "a row is not of numbers"), ("step\n99,1\n", "a row is not of numbers"),
        ("step;val/miou\n99;0.5\n", "a row is not of numbers"),
        ("step,val/miou\n99,66.1\n", "'val/miou' is 66.1"), ("step\nnan\n", "a step is nan"),
        ("step,gradient/share/01\n99,2\n", "'gradient/share/01' is 2, which no run logs"),
        ("step,gradient/share/01\n99,-0.1\n", "'gradient/share/01' is -0.1"),
        ("step,gradient/means/01\n99,-1\n", "'gradient/means/01' is -1"),
        ("step,gradient/backbone/all\n99,-1\n", "'gradient/backbone/all' is -1"),
        ("step,gradient/share/01\n99,inf\n", "'gradient/share/01' is inf"),
        ("step,val/miou\n99,inf\n", "'val/miou' is inf"),
        ("step,gradient/means/01\n99,-inf\n", "'gradient/means/01' is -inf"),
        ("step,em/entropy/01\n99,-2\n", "'em/entropy/01' is -2"),
        ("step,em/components/01\n99,0.5\n", "'em/components/01' is 0.5"),
        ("step,em/step_length/01\n99,-0.5\n", "'em/step_length/01' is -0.5"),
        ("step,val/miou,loss\n9,0.5,1\n19\n99,0.5,1\n", "a row has fewer cells than the heading"),
        ("step,val/miou,loss\n9,0.5,1\n99,0.5\n", "a row has fewer cells than the heading"),
        ("step,em/log_likelihood/01\n99,1e308\n", "'em/log_likelihood/01' is 1e+308"),
        ("step,em/entropy/40\n99,1\n", "it has a column 'em/entropy/40', and the largest T of the run is 3"),
        ("step,gradient/means/99999999999\n99,1\n", "it has a column 'gradient/means/99999999999'"),
    ],
)  # fmt: skip
def test_of_damaged_metrics_no_curve_is_used_and_the_score_counts(
    tmp_path: Path, text: str | None, told: str
) -> None:
    path = write_run(tmp_path / "a", HEM, miou=0.7, rows=rows_of()) / "metrics.csv"
    path.unlink() if text is None else path.write_text(text, "utf-8")
    ((record,), _) = collect([tmp_path])
    assert (record.status, record.miou) == ("finished", 0.7)
    assert (record.curves, record.phases, record.cost) == ({}, {}, {})
    (doubt,) = record.doubts
    assert doubt.startswith(f"metrics.csv: {told}")


def test_metrics_whose_last_steps_were_not_due_are_whole(tmp_path: Path) -> None:
    """A run of 58 steps that logs each twentieth, and one that only logged its last validation."""
    for name, steps in (("a", (19, 39)), ("b", (57,)), ("c", (39, 19))):
        run = write_run(tmp_path / name, HEM, rows=[{"step": step, "val/miou": 0.5} for step in steps])
        change(run / "result.json", "steps", 58)
    records, _ = collect([tmp_path])
    assert [record.doubts for record in records] == [[], [], []]
    assert [record.curves["val/miou"][-1, 0] for record in records] == [39, 57, 39]


@pytest.mark.parametrize("metrics", [[1], "good", {}, *({"val/miou": v} for v in ("0.9", None, 66.1, True))])
def test_a_damaged_evaluation_does_not_take_its_run_along(tmp_path: Path, metrics: Any) -> None:
    run = write_run(tmp_path / "a", HEM, miou=0.5)
    write_evaluation(run, 3, 0.6)
    place = write_evaluation(run, 6, 0.7) / "result.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"metrics": metrics}))
    ((record,), unreadable) = collect([tmp_path])
    assert (record.miou, record.evaluated, unreadable) == (0.5, {3: 0.6}, [])
    (doubt,) = record.doubts
    assert doubt.startswith("evaluation/last/T6/result.json: ")


def test_an_evaluation_in_the_folder_of_another_T_is_told(tmp_path: Path) -> None:
    place = write_evaluation(write_run(tmp_path / "a", HEM), 6, 0.7) / "result.json"
    change(place, "iterations_eval", 5)
    ((record,), _) = collect([tmp_path])
    assert record.evaluated == {}
    assert "evaluation/last/T6/result.json: it is of 5 iterations, and its folder of 6" in record.doubts[0]


@pytest.mark.parametrize(
    ("T", "text"), [(6, "{"), (6, "[" * 99_999), (10**21, '{"metrics": {"val/miou": 0.5}}')]
)
def test_an_evaluation_that_is_torn_or_of_too_many_iterations_is_told(
    tmp_path: Path, T: int, text: str
) -> None:
    run = write_run(tmp_path / "a", HEM)
    (write_evaluation(run, T, 0.5) / "result.json").write_text(text, "utf-8")
    ((record,), _) = collect([tmp_path])
    assert record.evaluated == {}
    (doubt,) = record.doubts
    assert doubt.startswith(f"evaluation/last/T{T}/result.json: ")


@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("experiment", "camvid_lite_hem")])
def test_the_result_of_another_run_is_damage(tmp_path: Path, key: str, value: Any) -> None:
    change(write_run(tmp_path / "a", HEM) / "result.json", key, value)
    assert reason_of(tmp_path).startswith(f"result.json: {key} is {value!r}, and that of config.yaml ")
    change(tmp_path / "a" / "result.json", key, None)  # older versions did not write it
    assert collect([tmp_path])[1] == []


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", HEM)
    write_evaluation(run, 3, 0.5)
    (run / "evaluation/last/T4").mkdir()
    os.mkfifo(run / "evaluation/last/T4/result.json")
    found: list[Any] = []
    reading = Thread(target=lambda: found.append(collect([tmp_path])), daemon=True)
    reading.start()
    reading.join(100)
    (((record,), _),) = found
    assert record.evaluated == {3: 0.5}
    assert record.doubts == ["evaluation/last/T4/result.json: it is a folder, a link that leads nowhere, or "
                             "another thing that is no file: not used; evaluate the run again"]  # fmt: skip


def test_the_metrics_of_another_run_are_damage(tmp_path: Path) -> None:
    rows = [{"step": 9, "val/miou": 0.0}, {"step": 19, "val/miou": 0.0}]
    paths = [write_run(tmp_path / name, HEM, miou=miou, rows=rows) for name, miou in (("a", 0.5), ("b", 0.6))]
    assert collect([tmp_path])[1] == []
    shutil.copy(paths[1] / "metrics.csv", paths[0])
    _, (bad,) = collect([tmp_path])
    assert bad.path == paths[0]
    assert bad.error.startswith(
        "metrics.csv and result.json are not of one run, as the last val/miou is 0.6000"
    )
