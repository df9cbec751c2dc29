"""Searching for settings: trials are runs, a stopped search continues, and only real scores count."""

import csv
import math
import shutil
import sqlite3
import sys
from pathlib import Path

import optuna
import pytest
from _helpers.camvid_files import MakeCamVid
from _helpers.tiny import PLAIN
from omegaconf import DictConfig, OmegaConf

from hemnet import search as command
from hemnet.config.compose import load
from hemnet.config.paths import EXPERIMENTS
from hemnet.errors import HemnetError
from hemnet.sweeps.jobs import Job
from hemnet.sweeps.trials import Search, Space

RECIPE = {
    "experiment": "synthetic_hem", "trials": 4, "overrides": ["seed=1"],
    "space": {"optim.optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
              "model.head.iterations": {"low": 1, "high": 4}, "model/head": ["em", "hem"]},
}  # fmt: skip


def recipe(**changes: object) -> DictConfig:
    return OmegaConf.create(RECIPE | changes)


def finish(job: Job, miou: float | None) -> None:
    job.path.mkdir(parents=True)
    value = "null" if miou is None else repr(miou)
    (job.path / "result.json").write_text(f'{{"status": "finished", "metrics": {{"val/miou": {value}}}}}')


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_trials_stay_in_their_ranges_and_the_best_is_first(tmp_path: Path) -> None:
    found = Search("demo", recipe(), ["data.num_workers=0"], tmp_path)
    for i, job in enumerate(found.jobs_to_run(12)):
        assert job.overrides[:3] == ["experiment=synthetic_hem", "seed=1", "data.num_workers=0"]
        chosen = dict(pair.split("=") for pair in job.overrides[3:])
        assert 1e-4 <= float(chosen["optim.optimizer.lr"]) <= 1e-1
        assert chosen["model.head.iterations"] in "1234"
        assert chosen["model/head"] in ("em", "hem")
        finish(job, 0.1 * (i % 7))
        found.tell(job)
    assert found.best().value == pytest.approx(0.6)
    scores = [float(row["val/miou"]) for row in rows(tmp_path)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 12


def test_without_a_score_a_trial_has_failed(tmp_path: Path) -> None:
    found = Search("demo", recipe(), [], tmp_path)
    jobs = list(found.jobs_to_run(3))
    finish(jobs[0], None)  # NaN, as result.json writes it
    finish(jobs[1], 0.25)
    for job in jobs:  # the third has no result
        found.tell(job)
    assert [row["state"] for row in rows(tmp_path)] == ["COMPLETE", "FAIL", "FAIL"]
    assert found.best().number == 1


def test_a_search_continues_with_its_unfinished_trials(tmp_path: Path) -> None:
    first = Search("demo", recipe(), [], tmp_path)
    left, done = list(first.jobs_to_run(2))
    finish(done, 0.5)
    first.tell(done)

    second = Search("demo", recipe(), [], tmp_path)
    jobs = list(second.jobs_to_run(3))
    assert (jobs[0].name, jobs[0].path) == (left.name, left.path)
    assert sorted(jobs[0].overrides) == sorted(left.overrides)
    assert [job.name for job in jobs] == ["trial-0000", "trial-0002"]
    finish(jobs[0], 0.75)
    second.tell(jobs[0])
    assert second.best().number == 0


def test_guesses_of_the_second_day_are_new(tmp_path: Path) -> None:
    def day(total: int) -> list[tuple[str, ...]]:
        found = Search("demo", recipe(), [], tmp_path)
        jobs = list(found.jobs_to_run(total))
        for job in jobs:
            finish(job, 0.5)
            found.tell(job)
        return [tuple(job.overrides) for job in jobs]

    assert not set(day(3)) & set(day(6))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Studies of one trial with a score: as they are written now (False), and by older versions (True)."""
    folders = {older: tmp_path_factory.mktemp("study") for older in (False, True)}
    for older, folder in folders.items():
        found = Search("demo", recipe(), ["data.num_workers=0"], folder)
        (job,) = found.jobs_to_run(1)
        finish(job, 0.5)
        found.tell(job)
        if older:  # only the trial has its configuration
            forget_config(folder)
    return folders


@pytest.mark.parametrize(
    ("changes", "assignments", "said"),
    [
        ({"experiment": "camvid_hem_small"}, [], "experiment is synthetic_hem there, and camvid_hem"),
        ({}, ["experiment=camvid_hem_small"], "experiment is synthetic_hem there"),
        ({"overrides": ["seed=2"]}, [], "seed is 1 there, and 2 here"),
        ({}, ["data.val.length=7"], "data.val.length is 100 there, and 7 here"),
        ({}, ["trainer.max_epochs=77"], r"trainer.max_epochs is \d+ there, and 77 here"),
        ({"space": RECIPE["space"] | {"model/head": ["em"]}}, [], "space.model/head is"),
        ({"space": {"model.head.iterations": {"low": 1, "high": 4}}}, [], "space.model/head is"),
        (
            {"space": RECIPE["space"] | {"model.head.iterations": {"low": 1, "high": 5}}}, [],
            "space.model.head.iterations is",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("older", [False, True], ids=["recorded", "older"])
def test_a_study_is_of_one_search(
    changes: dict, assignments: list[str], said: str, older: bool, scored: dict[bool, Path], tmp_path: Path
) -> None:
    shutil.copytree(scored[older], tmp_path, dirs_exist_ok=True)
    with pytest.raises(HemnetError, match=f"are of another search: {said}"):
        Search("demo", recipe(**changes), assignments, tmp_path)
    # Where and how it runs is no difference; nor are more trials.
    again = Search("demo", recipe(trials=9), ["data.num_workers=1", "logger=csv"], tmp_path)
    assert again.best().value == 0.5
    assert len(list(again.jobs_to_run(2))) == 1


def forget_config(folder: Path) -> None:
    """Make a study what older versions wrote, and its trial the run that it was."""
    study = optuna.load_study(study_name="study", storage=f"sqlite:///{folder / 'study.db'}")
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("delete from study_user_attributes")
    (trial,) = study.trials
    chosen = [f"{key}={value}" for key, value in trial.params.items()]
    config = load(["experiment=synthetic_hem", "seed=1", *chosen, f"run_dir={folder / 'trial-0000'}"])
    OmegaConf.save(config, folder / "trial-0000" / "config.yaml")


def test_data_at_another_place_is_another_search(tmp_path: Path) -> None:
    first = recipe(experiment="camvid_hem_small")
    for job in (found := Search("demo", first, ["data.root=/data/a"], tmp_path)).jobs_to_run(1):
        finish(job, 0.5)
        found.tell(job)
    with pytest.raises(HemnetError, match=r"data\.root is /data/a there, and /data/b here"):
        Search("demo", first, ["data.root=/data/b"], tmp_path)


def test_the_score_of_another_run_in_a_trial_s_directory_does_not_count(tmp_path: Path) -> None:
    found = Search("demo", recipe(), [], tmp_path)
    (job,) = found.jobs_to_run(1)
    finish(job, 0.9)
    job.status = "failed"  # as hemnet.train ends that finds a run of another configuration there
    found.tell(job)
    assert [row["state"] for row in rows(tmp_path)] == ["FAIL"]


@pytest.mark.parametrize("spec", [{"low": 2, "high": 1}, {"low": 1}, {"low": 1, "high": 2, "step": 1}, [], 3])
def test_a_wrong_range_is_explained(spec: object) -> None:
    with pytest.raises(HemnetError, match=r"space\.seed is .*: write \{low"):
        Space({"seed": spec})


def test_a_wrong_recipe_is_explained(tmp_path: Path) -> None:
    with pytest.raises(HemnetError, match="unknown: trails"):
        Search("demo", recipe(trails=3), [], tmp_path)
    with pytest.raises(HemnetError, match=r"no trial in .* has a score"):
        Search("demo", recipe(), [], tmp_path).best()


@pytest.mark.parametrize(
    "path", sorted((EXPERIMENTS / "searches").glob("*.yaml")), ids=lambda path: path.stem
)
def test_searches_that_come_with_the_project_name_keys_that_exist(path: Path, tmp_path: Path) -> None:
    content = OmegaConf.load(path)
    assert isinstance(content, DictConfig)
    found = Search(path.stem, content, [], tmp_path)
    for job in found.jobs_to_run(3):
        config = load(job.overrides)
        for override in job.overrides[2:]:
            key, _, value = override.partition("=")
            assert math.isclose(float(OmegaConf.select(config, key)), float(value))


@pytest.mark.slow
def test_the_command_runs_trials_and_continues(
    make_camvid: MakeCamVid, tmp_path: Path, forked_jobs: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [*PLAIN, f"data.root={make_camvid()}", "experiment=camvid_hem_small", "trainer.max_epochs=1"]

    def search(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["search", "hem", *options, *words, f"runs={tmp_path}"])
        command._entry()
        return capsys.readouterr().out

    first = search("--trials", "2", "--parallel", "2")
    folder = tmp_path / "searches" / "hem"
    assert [row["state"] for row in rows(folder)] == ["COMPLETE"] * 2
    assert "val/miou" in first
    second = search("--trials", "3")
    assert len(list(folder.glob("trial-*/result.json"))) == 3
    assert "trial-0000" not in second.splitlines()[0]
    assert len(optuna.load_study(study_name="study", storage=f"sqlite:///{folder / 'study.db'}").trials) == 3
