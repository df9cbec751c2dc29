"""What experiments/keep.py copies of a run, and that no path of the machine goes with it."""

import json
import sys
from pathlib import Path

import keep
import pytest
from _helpers.fake_runs import write_evaluation, write_run
from omegaconf import OmegaConf

from hemnet.errors import HemnetError
from hemnet.report.collect import collect
from hemnet.report.groups import sections
from hemnet.runs import checkpoints
from hemnet.runs.canonical import digits
from hemnet.storage.files import read_json, write_json

SHOWN = "callbacks.predictions.show_images"


def written(folder: Path, name: str = "hem", **about) -> Path:
    """A run with an evaluation, measures, figures and a checkpoint."""
    keys = {"data.root": f"{folder}/data/CamVid/", "data.val._target_": "hemnet.data.CamVid"}
    run = write_run(folder / "runs" / name, keys=keys | about.pop("keys", {}), **about)
    write_evaluation(run, None, 0.7)
    (run / "measures").mkdir()
    write_json(run / "measures" / "about.json", {"checkpoint_sha256": None, "images_asked": None})
    for name in ("measures/e_step.csv", "figures/learning_curves.png", "figures/predictions.png", "run.log",
                 "checkpoints/last.ckpt", "evaluation/last/counts.csv", "metrics.csv"):  # fmt: skip
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("a,b\n1,2\n")
    return run


def kept(folder: Path, *arguments: object) -> dict[str, str]:
    keep.main([*map(str, arguments), "--to", str(folder / "kept")])
    files = (path for path in (folder / "kept").rglob("*") if path.is_file())
    return {str(path.relative_to(folder / "kept")): path.read_text() for path in files}


def refused(folder: Path, capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit, match="1"):
        kept(folder, *arguments)
    return capsys.readouterr().err


def test_the_small_files_are_kept(tmp_path: Path) -> None:
    run = written(tmp_path, keys={SHOWN: False})
    files = kept(tmp_path, tmp_path / "runs")
    names = {"config.yaml", "environment.json", "result.json", "metrics.csv", "measures/e_step.csv",
             "measures/about.json", "evaluation/last/result.json", "evaluation/last/counts.csv",
             "learning_curves.png", "predictions.png"}  # fmt: skip
    assert files.keys() == {f"hem/{name}" for name in names}
    assert files["hem/evaluation/last/counts.csv"] == "a,b\n1,2\n"
    assert json.loads(files["hem/result.json"]) == read_json(run / "result.json")
    assert (run / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("place", ["runs", "Jörg Müller's very long folder of runs " * 3])
def test_paths_of_the_machine_become_names(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    run = written(folder, keys={"logger.csv.save_dir": "${oc.env:NOT_SET}/x", "data.cache": "/home/me/cache"})
    data = folder / "data" / "CamVid"
    command = [
        f"{folder}/me/src/hemnet/train.py", f"data.root={data}", f"run_dir={run}", f"+a={run}0/last.ckpt",
        f"{sys.prefix}/lib/hemnet/train.py", f"b={run}/checkpoints/last.ckpt", "c=1/2",
    ]  # fmt: skip
    write_json(run / "environment.json", {"started": "now", "command": command})
    files = kept(folder, run)
    assert json.loads(files["hem/environment.json"])["command"] == [
        "src/hemnet/train.py", "data.root=<CamVid>", "run_dir=<run>",
        f"+a=<elsewhere>/{digits(f'{run}0')}/last.ckpt", "src/hemnet/train.py",
        "b=<run>/checkpoints/last.ckpt", "c=1/2",
    ]  # fmt: skip
    config = OmegaConf.create(files["hem/config.yaml"])
    cache = f"<elsewhere>/{digits('/home/me')}/cache"
    assert [config.run_dir, config.data.root, config.data.cache] == ["<run>", "<CamVid>", cache]
    assert "${oc.env:NOT_SET}/x" in files["hem/config.yaml"]
    assert not any(str(tmp_path) in text for name, text in files.items())


def test_files_of_one_name_in_two_folders_stay_two(tmp_path: Path) -> None:
    for name in ("A", "B"):
        written(tmp_path, name, keys={"model.backbone.weights": f"/home/me/{name}/best.pt"})
    files = kept(tmp_path, tmp_path / "runs")
    assert files["A/config.yaml"].count("/best.pt") == files["B/config.yaml"].count("/best.pt") == 1
    weights = {OmegaConf.create(files[f"{name}/config.yaml"]).model.backbone.weights for name in "AB"}
    assert len(weights) == 2


def test_a_run_that_was_moved_is_kept_under_its_new_name(tmp_path: Path) -> None:
    files = kept(tmp_path, written(tmp_path).rename(tmp_path / "runs" / "seed0"))
    assert "run_dir: <run>" in files["seed0/config.yaml"]


@pytest.mark.parametrize(
    "text",
    ["see /home/me/notes.txt", "a=file:///home/me/x.pt", "nfs:/home/me/x", "a='/my data/CamVid'",
     "a=/b=c/CamVid", "(/home/me)/x", "sqlite:////home/me/o.db", "FILE://localhost/home/me/x"],
)  # fmt: skip
def test_a_path_in_the_midst_of_a_text_is_refused(text: str, tmp_path: Path, capsys) -> None:
    run = written(tmp_path)
    write_json(run / "environment.json", {"started": "now", "note": text})
    assert f"environment.json has a path in the midst of {text!r}" in refused(tmp_path, capsys, run)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "text",
    [
        "https://a.org/b/c",
        "val/iou/sky",
        "1 / 2 / 3",
        "and/or",
        "s/step",
        "runs/a b/c",
        "${oc.env:A}/b/c",
        "{epoch}/{step}/x",
    ],
)
def test_what_is_no_path_of_the_machine_stays(text: str, tmp_path: Path) -> None:
    run = written(tmp_path)
    write_json(run / "environment.json", {"started": "now", "note": text})
    assert json.loads(kept(tmp_path, run)["hem/environment.json"])["note"] == text


QUICK = [("about.json", '{"images_asked": 2}'), ("refit.json", '{"epochs": 1}')]


@pytest.mark.parametrize(("name", "content"), [*QUICK, ("about.json", "{"), ("refit.json", "")])
def test_a_quick_look_or_a_damaged_file_replaces_nothing(name: str, content: str, tmp_path: Path) -> None:
    run = written(tmp_path)
    write_json(run / "measures" / "refit.json", {"epochs": 5, "val/miou": {"3": 0.5}})
    before = kept(tmp_path, run)
    (run / "measures" / name).write_text(content)
    (run / "measures" / "images-2").mkdir()
    (run / "measures" / "images-2" / "e_step.csv").write_text("a")
    assert kept(tmp_path, run) == before


@pytest.mark.parametrize("other", [{"miou": 0.7}, {"miou": 0.6, "rows": [{"step": 19}]}])
def test_a_run_that_started_in_the_same_second_is_not_taken_for_it(
    tmp_path: Path, capsys, other: dict
) -> None:
    kept(tmp_path, written(tmp_path, miou=0.6))
    other = written(tmp_path / "other", **other)
    assert "is of another run, which started in the same second" in refused(tmp_path, capsys, other)


def test_photographs_are_not_kept(tmp_path: Path) -> None:
    written(tmp_path, keys={SHOWN: True})
    figures = {name for name in kept(tmp_path, tmp_path / "runs") if name.endswith(".png")}
    assert figures == {"hem/learning_curves.png"}


def test_a_run_is_kept_again_as_it_is_now(tmp_path: Path) -> None:
    run = written(tmp_path)
    kept(tmp_path, run)
    (tmp_path / "kept" / "hem" / "README.md").write_text("by hand")
    (run / "measures" / "e_step.csv").unlink()
    files = kept(tmp_path, run)
    assert {"hem/measures/about.json", "hem/README.md"} <= files.keys()
    assert "hem/measures/e_step.csv" not in files


def test_what_was_found_in_another_checkpoint_is_not_kept(tmp_path: Path) -> None:
    run = written(tmp_path)
    (last := run / "checkpoints" / "last.ckpt").unlink()
    checkpoints.write({"step": 1}, last)
    about = {"checkpoint_sha256": checkpoints.fingerprint(last)}
    found = {"hem/measures/e_step.csv", "hem/evaluation/last/result.json", "hem/evaluation/last/counts.csv"}
    assert not found & kept(tmp_path, run).keys()
    result = run / "evaluation" / "last" / "result.json"
    write_json(result, read_json(result) | about)
    write_json(run / "measures" / "about.json", about)
    write_json(run / "measures" / "refit.json", {"checkpoint_sha256": "0" * 64})
    files = kept(tmp_path, run)
    assert found <= files.keys()
    assert "hem/measures/refit.json" not in files
    write_json(run / "measures" / "refit.json", about)
    (run / "measures" / "about.json").unlink()
    files = kept(tmp_path, run)
    assert "hem/measures/refit.json" in files
    assert "hem/measures/e_step.csv" not in files


def test_pixels_by_image_are_kept_of_the_runs_own_iterations(tmp_path: Path) -> None:
    run = written(tmp_path)
    own = OmegaConf.load(run / "config.yaml").model.head.iterations
    for T in (own, own + 1):
        (write_evaluation(run, T, 0.7) / "counts.csv").write_text("a")

    def of(files: dict[str, str]) -> set[str]:
        return {name for name in files if name.endswith("counts.csv")}

    assert of(kept(tmp_path, run)) == {"hem/evaluation/last/counts.csv"}
    (run / "evaluation" / "last" / "result.json").unlink()
    assert of(kept(tmp_path, run)) == {f"hem/evaluation/last/T{own}/counts.csv"}


def test_another_run_of_the_same_name_does_not_replace_it(tmp_path: Path, capsys) -> None:
    files = kept(tmp_path, written(tmp_path))
    other = written(tmp_path / "other", started="2026-02-02T12:00:00+0000")
    later = written(tmp_path / "other", "later")
    said = refused(tmp_path, capsys, other, later)
    assert "hem: cannot be kept: " in said
    assert "rename the run" in said
    assert json.loads((tmp_path / "kept" / "later" / "result.json").read_text())["status"] == "finished"
    assert (tmp_path / "kept" / "hem" / "environment.json").read_text() == files["hem/environment.json"]
    (other / "environment.json").unlink()
    (tmp_path / "kept" / "hem" / "environment.json").unlink()
    assert "rename the run" in refused(tmp_path, capsys, other)  # nothing tells the two apart


def test_a_run_is_not_kept_in_its_own_place(tmp_path: Path, capsys) -> None:
    run = written(tmp_path)
    before = (run / "config.yaml").read_text()
    with pytest.raises(SystemExit, match="1"):
        keep.main([str(run), "--to", str(run.parent)])
    assert "is the run itself: choose another folder" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


def test_a_damaged_result_is_named(tmp_path: Path, capsys) -> None:
    run = written(tmp_path)
    (run / "result.json").write_text('{"status": "fin')
    assert f"{run / 'result.json'}: it is not JSON" in refused(tmp_path, capsys, run)


def test_only_finished_runs_are_kept(tmp_path: Path, capsys) -> None:
    written(tmp_path, status="stopped")
    assert kept(tmp_path, tmp_path / "runs") == {}
    assert "hem: not finished, or to try the code: left out" in capsys.readouterr().out
    with pytest.raises(HemnetError, match="is no folder"):
        kept(tmp_path, tmp_path / "none")


def test_kept_runs_are_of_the_settings_of_their_runs(tmp_path: Path) -> None:
    """Data sets of one reader stay apart, by their folders' names; a copy counts as its run."""
    names = ("cats", "dogs (2)", "folder")
    for i, data in enumerate(names):
        for seed in range(2):
            keys = {
                "data.root": f"/data/{i}/{data}",
                "data.val._target_": "hemnet.data.Folder",
                "data.val.images": f"/data/{i}/{data}/val/images",
            }
            write_run(tmp_path / f"runs/{i}_{seed}", seed=seed, keys=keys)
    files = kept(tmp_path, tmp_path / "runs")
    for i, data in enumerate(names):
        found = OmegaConf.create(files[f"{i}_0/config.yaml"]).data
        assert (found.root, found.val.images) == (f"<Folder>/{data}", f"<Folder>/{data}/val/images")
    for folders in (["kept"], ["runs", "kept"]):
        made = sections(collect([tmp_path / name for name in folders])[0])
        assert [[*group.runs] for section in made for group in section.groups] == [[0, 1]] * 3
