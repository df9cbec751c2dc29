"""The example package outside of the repository: train, evaluate, resume, sweep, predict, cost, export.

It is on the path, as an installed package is, and the commands run in a folder that has nothing of hemnet's.
"""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from _helpers.entries import call

import hemnet
from hemnet.config.paths import CONF

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_package"
SOURCES = Path(hemnet.__file__).parents[1]
SHORT = [
    "logger=csv", "trainer.max_epochs=1", "trainer.precision=32-true", "trainer.log_every_n_steps=1",
    "callbacks.weights.every_n_steps=1", "data.train.length=16", "callbacks.predictions=null",
    "callbacks.attention=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(EXAMPLE, folder / "site")
    (folder / "work").mkdir()
    return folder


def run(home: Path, *arguments: str, named: bool = False) -> subprocess.CompletedProcess[str]:
    """A command in the working folder; with `named`, of somebody who sets HEMNET_PACKAGES."""
    environment = {
        "PYTHONPATH": f"{home / 'site'}:{SOURCES}", "XDG_CONFIG_HOME": str(home / "config"), "COLUMNS": "200",
        "HEMNET_PACKAGES": "mine" if named else "",
    }  # fmt: skip
    return call(*arguments, cwd=home / "work", environment=environment)


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    said(run(home, "hemnet.train", "experiment=mine", "run_dir=a", *SHORT, named=True))
    return home / "work" / "a"


@pytest.mark.slow
def test_a_run_has_everything_of_the_package(trained: Path) -> None:
    header = (trained / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"mine/weights", "train/loss/squared_error"} <= set(header)
    config = (trained / "config.yaml").read_text()
    for name in ("data.Discs", "nets.Patches", "nets.PlainEMHead", "training.SquaredError"):
        assert f"_target_: mine.{name}" in config
    assert json.loads((trained / "result.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_what_follows_needs_no_variable(trained: Path, home: Path) -> None:
    """Evaluation, prediction, extension and export of a run that this user has made."""
    said(run(home, "hemnet.evaluate", "a"))
    result = json.loads((trained / "evaluation" / "last" / "result.json").read_text())
    assert 0 <= result["metrics"]["val/miou"] <= 1
    cv2.imwrite(str(home / "work" / "x.png"), np.zeros((40, 50, 3), np.uint8))
    said(run(home, "hemnet.predict", "a", "x.png"))
    said(run(home, "hemnet.train", "resume=a", "trainer.max_epochs=2"))
    assert json.loads((trained / "result.json").read_text())["steps"] == 8
    said(run(home, "hemnet.export", "a", "--format", "torch"))


@pytest.mark.slow
def test_a_run_is_evaluated_on_a_data_set_of_the_working_folder(trained: Path, home: Path) -> None:
    (home / "work" / "conf" / "data").mkdir(parents=True, exist_ok=True)
    part = (EXAMPLE / "mine" / "conf" / "data" / "discs.yaml").read_text()
    (home / "work" / "conf" / "data" / "few.yaml").write_text(part.replace("length: 16", "length: 3"))
    said(run(home, "hemnet.evaluate", "a", "data=few"))
    assert len(list(trained.glob("evaluation/last-*/result.json"))) == 1


@pytest.mark.slow
def test_somebody_else_is_told_how_to_allow_the_package(trained: Path, home: Path, tmp_path: Path) -> None:
    done = call(
        "hemnet.evaluate", str(trained), cwd=tmp_path,
        environment={
            "PYTHONPATH": str(home / "site"), "XDG_CONFIG_HOME": str(tmp_path), "HEMNET_PACKAGES": ""
        },
    )  # fmt: skip
    assert done.returncode == 2
    assert "HEMNET_PACKAGES" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_a_recipe_and_a_part_of_the_working_folder(home: Path) -> None:
    """`./experiments` and `./conf` add to those of the package."""
    work = home / "work"
    (work / "experiments").mkdir()
    recipe = "defaults: [mine, override /model/backbone: thin]\n"
    (work / "experiments" / "narrow.yaml").write_text(recipe)
    (work / "conf" / "model" / "backbone").mkdir(parents=True, exist_ok=True)
    part = "_target_: mine.nets.Patches\nwidth: 4\nstages: 2\n"
    (work / "conf" / "model" / "backbone" / "thin.yaml").write_text(part)
    said(run(home, "hemnet.train", "-m", "experiment=narrow", "seed=0,1", "runs=r", *SHORT, named=True))
    for seed in (0, 1):
        (folder,) = work.glob(f"r/narrow/*/*seed-{seed}*")
        assert json.loads((folder / "result.json").read_text())["status"] == "finished"
        assert "width: 4" in (folder / "config.yaml").read_text()
    listed = said(run(home, "hemnet.train", "--help", named=True))
    assert "model/backbone: " in listed
    assert "thin" in listed
    assert "patches" in listed
    assert "width: 4" in said(run(home, "hemnet.train", "experiment=narrow", "--cfg", "job", named=True))


def test_in_a_folder_with_hemnets_own_parts_hemnets_are_taken(tmp_path: Path) -> None:
    """As in a checkout, where another hemnet is installed."""
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "model" / "backbone" / "resnet18.yaml").write_text("_target_: mine.nets.Patches\n")
    words = ["--cfg", "job", "experiment=synthetic_hem", "logger=csv"]
    for more in ([], ["model/backbone=resnet50"]):
        done = call("hemnet.train", *words, *more, cwd=tmp_path, environment={"PYTHONPATH": str(SOURCES)})
        assert done.returncode == 0, done.stderr
        assert "hemnet.nets.ResNet" in done.stdout
        assert "mine" not in done.stdout


def test_a_recipe_whose_keys_go_nowhere_says_why(home: Path) -> None:
    (home / "work" / "elsewhere" / "experiment").mkdir(parents=True)
    (home / "work" / "elsewhere" / "experiment" / "bare.yaml").write_text("seed: 3\n")
    done = run(home, "hemnet.train", "--config-dir", "elsewhere", "experiment=bare", "logger=csv")
    assert done.returncode == 2
    assert "lacks the line `# @package _global_`" in done.stderr


def test_the_package_s_metadata_name_the_entry_point() -> None:
    about = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    assert about["project"]["entry-points"]["hemnet.packages"] == {"mine": "mine"}
