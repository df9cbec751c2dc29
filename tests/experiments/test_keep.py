"""What experiments/keep.py copies of a run, and that no path of the machine goes with it."""

import json
from pathlib import Path

import keep
import pytest
from _helpers.fake_runs import write_evaluation, write_run

SHOWN = "callbacks.predictions.show_images"


def written(folder: Path, name: str = "hem", **about) -> Path:
    """A run with evaluations, measures, figures and a checkpoint; its files name its folder and its data."""
    keys = {"data.root": str(folder / "data" / "CamVid"), "data.val._target_": "hemnet.data.CamVid"}
    run = write_run(folder / "runs" / name, keys=keys | about.pop("keys", {}), **about)
    write_evaluation(run, None, 0.7)
    for name in ("measures/e_step.csv", "figures/learning_curves.png", "figures/predictions.png", "run.log",
                 "checkpoints/last.ckpt", "evaluation/last/counts.csv"):  # fmt: skip
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(
            f"of {run} and {folder}/data/CamVid/a.png by '{folder}/me/src/hemnet/train.py'"
        )
    return run


def kept(folder: Path, *arguments: object) -> dict[str, str]:
    keep.main([*map(str, arguments), "--to", str(folder / "kept")])
    files = (path for path in (folder / "kept").rglob("*") if path.is_file())
    return {str(path.relative_to(folder / "kept")): path.read_text() for path in files}


def test_the_small_files_are_kept_without_the_machines_paths(tmp_path: Path) -> None:
    run = written(tmp_path, keys={SHOWN: False})
    files = kept(tmp_path, tmp_path / "runs")
    texts = {"config.yaml", "environment.json", "result.json", "measures/e_step.csv",
             "evaluation/last/result.json", "evaluation/last/counts.csv"}  # fmt: skip
    figures = {"learning_curves.png", "predictions.png"}
    assert files.keys() == {f"hem/{name}" for name in texts | figures}
    assert files["hem/evaluation/last/counts.csv"] == "of <run> and <CamVid>/a.png by 'src/hemnet/train.py'"
    assert "run_dir: <run>" in files["hem/config.yaml"]
    assert "root: <CamVid>" in files["hem/config.yaml"]
    assert not any(str(tmp_path) in files[f"hem/{name}"] for name in texts)
    assert (run / "checkpoints" / "last.ckpt").exists()


def test_relative_paths_stay(tmp_path: Path) -> None:
    run = written(tmp_path, keys={"data.root": "."})
    assert str(run.parent.parent) in kept(tmp_path, run)["hem/measures/e_step.csv"]


def test_a_run_that_was_moved_is_kept_under_its_new_name(tmp_path: Path) -> None:
    files = kept(tmp_path, written(tmp_path).rename(tmp_path / "runs" / "seed0"))
    assert "run_dir: <run>" in files["seed0/config.yaml"]
    assert files["seed0/evaluation/last/counts.csv"].startswith("of <run> and <CamVid>/a.png")


def test_photographs_are_not_kept(tmp_path: Path) -> None:
    written(tmp_path, keys={SHOWN: True})
    assert {name for name in kept(tmp_path, tmp_path / "runs") if name.endswith(".png")} == {
        "hem/learning_curves.png"
    }


def test_a_run_is_kept_again_with_what_was_measured_since(tmp_path: Path) -> None:
    run = written(tmp_path)
    kept(tmp_path, run)
    (run / "measures" / "e_step.csv").write_text("new")
    (run / "measures" / "about.json").write_text("{}")
    files = kept(tmp_path, run)
    assert files["hem/measures/e_step.csv"] == "new"
    assert "hem/measures/about.json" in files


def test_another_run_of_the_same_name_does_not_replace_it(tmp_path: Path, capsys) -> None:
    files = kept(tmp_path, written(tmp_path))
    other = written(tmp_path / "other", started="2026-02-02T12:00:00+0000")
    later = written(tmp_path / "other", "later")
    with pytest.raises(SystemExit, match="1"):
        kept(tmp_path, other, later)
    assert "hem: cannot be kept: " in (said := capsys.readouterr().err)
    assert "rename the run" in said
    assert json.loads((tmp_path / "kept" / "later" / "result.json").read_text())["status"] == "finished"
    assert (tmp_path / "kept" / "hem" / "environment.json").read_text() == files["hem/environment.json"]


def test_only_finished_runs_are_kept(tmp_path: Path, capsys) -> None:
    written(tmp_path, status="stopped")
    assert kept(tmp_path, tmp_path / "runs") == {}
    assert "hem: not finished, left out" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is no folder"):
        kept(tmp_path, tmp_path / "none")
