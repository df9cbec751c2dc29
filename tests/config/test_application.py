"""``hemnet train`` as an application of Hydra: where runs are made, what jobs get, and errors, each once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _helpers.in_process import Start
from omegaconf import DictConfig, OmegaConf

from hemnet import train
from hemnet.config.check import check
from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.sweeps.jobs import Job


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with a home folder in it."""
    (work := tmp_path / "work").mkdir()
    (home := tmp_path / "home").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    return work


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DictConfig, Path]]:
    """Return the list of configurations, and working folders, with which `hemnet.train.train` is called."""
    found: list[tuple[DictConfig, Path]] = []

    def record(config: DictConfig) -> float:
        check(config)
        found.append((config, Path.cwd()))
        return 0.5

    monkeypatch.setattr(train, "train", record)
    return found


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[list[Job]]:
    """Return the list of the jobs of each sweep, none of which is run."""
    found: list[list[Job]] = []
    monkeypatch.setattr("hemnet.sweeps.launcher.run_sweep", lambda jobs, *_: found.append(list(jobs)))
    return found


def test_a_run_is_made_where_the_user_says_wherever_hydra_works(
    here: Path, start: Start, trained: list[tuple[DictConfig, Path]]
) -> None:
    paths = ["data=camvid", "data.root=../sets", "data.cache=cache", "model.backbone.weights=weights.pth"]
    start("hydra.job.chdir=true", "run_dir=rel/A", *paths)
    config, folder = trained[0]
    assert folder == here / "rel" / "A"
    assert config.run_dir == config.logger.csv.save_dir == str(here / "rel" / "A")
    assert config.callbacks.last.path == str(here / "rel" / "A" / "checkpoints" / "last.ckpt")
    assert config.data.root == str(here / ".." / "sets")
    assert config.data.cache == str(here / "cache")
    assert config.model.backbone.weights == str(here / "weights.pth")


def test_a_tilde_is_the_home_folder_in_every_path(
    here: Path, start: Start, trained: list[tuple[DictConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here.parent / "home"
    monkeypatch.setenv("HEMNET_DATA", "~/sets")
    own = ["data.train.classes=~/classes.yaml", "callbacks.predictions.path=~/page.png"]
    start("data=folder", "run_dir=~/a (1)", "data.cache='~/cache'", "model.backbone.weights=~/w.pth", *own)
    config, _ = trained[0]
    assert config.run_dir == str(home / "a (1)")
    assert (home / "a (1)" / "run.log").is_file()
    assert config.data.root == str(home / "sets" / "folder")
    assert config.data.cache == str(home / "cache")
    assert config.data.train.classes == str(home / "classes.yaml")
    assert config.model.backbone.weights == str(home / "w.pth")
    assert config.callbacks.predictions.path == str(home / "page.png")
    start("runs=~/runs", "finetune=~/old", "model/backbone=lite0", "model.backbone.weights=imagenet")
    config, _ = trained[1]
    assert config.finetune == str(home / "old")
    assert config.model.backbone.weights == "imagenet"
    assert Path(config.run_dir).parent == home / "runs" / "custom"
    assert list(here.iterdir()) == []
    with pytest.raises(HemnetError, match="there is no user nobody-at-all"):
        start("run_dir=x", "data.cache=~nobody-at-all/x", "data=camvid")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("run_dir=", "run_dir"), ("runs=''", "runs"), ("run_dir=x data=camvid data.root=", "data.root"),
        ("run_dir=x +data.cache=''", "data.cache"), ("run_dir=x finetune=''", "finetune"),
        ("run_dir=x model.backbone.weights=''", "model.backbone.weights"), ("resume=", "resume"),
    ],
)  # fmt: skip
def test_an_empty_path_is_refused(words: str, key: str, here: Path, start: Start) -> None:
    with pytest.raises(HemnetError, match=f"{key} is empty"):
        start(*words.split())
    assert list(here.iterdir()) == []


def test_an_empty_variable_is_as_none(tmp_path: Path) -> None:
    code = "from hemnet.config.compose import load; print(load(['data=camvid']).data.root)"
    told = {"env": os.environ | {"HEMNET_DATA": ""}, "cwd": tmp_path, "text": True, "check": True}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, **told).stdout
    assert said.strip() in ("data/camvid", str(tmp_path / "data" / "camvid"))


def test_a_multirun_by_hand_goes_on_in_its_folder(here: Path, start: Start, swept: list[list[Job]]) -> None:
    same = ["--multirun", "experiment=synthetic_hem", "trainer.max_epochs=2", "model.head.iterations=1,3"]
    start(*same, "seed=0,1")
    start(*same, "seed=0,1,2", "data.num_workers=1")
    start(*same, "seed=0,1", "trainer.max_epochs=3")
    start("-m", "hydra.sweep.dir=~/here", "seed=0,1")
    first, longer, other, placed = ([job.path for job in jobs] for jobs in swept)
    assert set(first) < set(longer)
    assert first[0].parent.parent == here / "runs" / "synthetic_hem"
    assert not set(first) & set(other)
    assert placed == [here.parent / "home" / "here" / f"seed-{seed}" for seed in (0, 1)]


@pytest.mark.parametrize("sweeper", ["basic", "grids"])
def test_a_multirun_goes_on_whichever_sweeper_and_launcher_of_hydra_runs_it(
    sweeper: str, here: Path, start: Start, monkeypatch: pytest.MonkeyPatch, swept: list[list[Job]]
) -> None:
    found: list[tuple[str, str | None]] = []
    monkeypatch.setattr(train, "train", lambda config: found.append((config.run_dir, config.resume)) or 0.5)
    words = ["-m", f"hydra/sweeper={sweeper}", "trainer.max_epochs=2"]
    start(*words, "hydra/launcher=basic", "seed=0,1")
    start(*words, "hydra/launcher=basic", "seed=0,1,2", "resume=auto")
    start(*words, "seed=0,1")
    start(*words, "seed=0,1", "resume=auto")
    (folder,) = {Path(run_dir).parent for run_dir, _ in found}
    assert [(Path(path).name, how) for path, how in found[2:]] == [(f"seed-{i}", "auto") for i in range(3)]
    assert found[:2] == found[2:4]
    assert folder.parent == here / "runs" / "custom"
    assert {job.path.parent for jobs in swept for job in jobs} == {folder}
    assert [sum(word.startswith("resume=") for word in job.command) for job in swept[1]] == [1, 1]


def test_jobs_are_named_by_what_varies(here: Path, start: Start, swept: list[list[Job]]) -> None:
    constant = ["experiment=synthetic_hem_short", "trainer.max_epochs=2", "logger=csv"]
    start("-m", *constant, "model/head=em,hem", "seed=0,1")
    # The seed is an axis of the sweep's file, so that other seeds can follow.
    start("-m", "sweep=smoke", *constant, "seed=3", "model.head.iterations=2")
    start("-m", *constant, "seed=5")
    names = [[job.name for job in jobs] for jobs in swept]
    assert names[0] == ["head-em_seed-0", "head-em_seed-1", "head-hem_seed-0", "head-hem_seed-1"]
    assert names[1] == ["head-em_iterations-2_seed-3", "head-hem_iterations-2_seed-3"]
    assert names[2] == ["experiment-synthetic_hem_short_max_epochs-2_seed-5"]
    assert swept[1][0].path.parent == here / "runs" / "sweeps" / "smoke"


def test_a_job_is_found_under_its_older_longer_name(
    here: Path, start: Start, swept: list[list[Job]], trained: list[tuple[DictConfig, Path]]
) -> None:
    words = ["-m", "hydra.sweep.dir=sweep", "trainer.max_epochs=2"]
    (older := here / "sweep" / "max_epochs-2_seed-0").mkdir(parents=True)
    (older / "config.yaml").touch()
    start(*words, "seed=0,1")
    assert [job.name for job in swept[0]] == ["max_epochs-2_seed-0", "max_epochs-2_seed-1"]


def test_runs_that_differ_in_a_constant_key_have_folders_of_their_own(
    here: Path, start: Start, swept: list[list[Job]]
) -> None:
    (first := here / "sweep" / "seed-0").mkdir(parents=True)
    OmegaConf.save(load(["trainer.max_epochs=2", "seed=0", "run_dir=x"]), first / "config.yaml", resolve=True)
    words = ["-m", "hydra.sweep.dir=sweep", "seed=0,1"]
    start(*words, "trainer.max_epochs=2")
    start(*words, "trainer.max_epochs=3")
    # A difference that no argument explains: the job itself will fail, and say in which keys.
    start(*words, "trainer.precision=32-true")
    names = [[job.name for job in jobs] for jobs in swept]
    assert names == [
        ["seed-0", "seed-1"],
        ["seed-0_max_epochs-3", "seed-1_max_epochs-3"],
        ["seed-0", "seed-1"],
    ]


def test_a_job_gets_what_hydra_was_given(here: Path, start: Start, swept: list[list[Job]]) -> None:
    for folder in ("one", "two"):
        (here / folder / "experiment").mkdir(parents=True)
        text = f"# @package _global_\nname: {folder}\n"
        (here / folder / "experiment" / f"{folder}.yaml").write_text(text)
    start("-m", "--config-dir", "one", "experiment=one", "seed=0,1", "hydra.launcher.parallel=1")
    start("-m", "hydra.searchpath=[file://two]", "experiment=two", "seed=0,1", "hydra.job.chdir=true")
    assert swept[0][0].command[3:7] == [f"--config-dir={here / 'one'}", "experiment=one", "seed=0",
                                        f'run_dir="{swept[0][0].path}"']  # fmt: skip
    given = swept[1][1].command[3:7]
    assert given == ["hydra.searchpath=[file://two]", "hydra.job.chdir=true", "experiment=two", "seed=1"]


def test_a_job_s_command_composes(
    here: Path, start: Start, swept: list[list[Job]], trained: list[tuple[DictConfig, Path]]
) -> None:
    (here / "it's (1)" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nname: mine\n"
    (here / "it's (1)" / "experiment" / "mine.yaml").write_text(text)
    start("--multirun", "--config-dir=it's (1)", "experiment=mine", "seed=0,1", "runs=./it's (2)")
    start(*swept[0][1].command[3:])
    config, _ = trained[0]
    assert (config.name, config.seed, config.resume) == ("mine", 1, "auto")
    assert Path(config.run_dir) == swept[0][1].path
    assert here / "it's (2)" / "mine" == swept[0][1].path.parent.parent


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=one"], "^seed is 'one': .*valid integer"),
        (["conclusive=maybe"], "^conclusive is 'maybe': .*valid boolean"),
        (["conclusive='false'"], "^conclusive is 'false': .*valid boolean"),
        (["data.train.size=big"], r"^data\.train\.size is 'big'"),
        (["model.num_components=many"], r"^model\.num_components is 'many': .*\(model\.head\.num_components"),
        (["experiment=synthetic_hm"], "did you mean synthetic_hem"),
        (["trainer.max_epoch=1"], r"did you mean trainer\.max_epochs"),
        (["seed=${nosuch}"], "'nosuch' not found"),
        (["resume=nowhere"], "resume=nowhere: there is no run"),
        (["trainer.devices=2", "trainer.num_nodes=2"], "start the run on each machine"),
        (["name=a(b"], r"^name=a\(b: Hydra cannot read .*quote the value.*name='\"a\(b\"'"),
        (["name=Straße"], r"^name=Straße: .*name='\"Straße\"'"),
        (["name=a=b"], r"^name=a=b: .*name='\"a=b\"'"),
        (["name=#1"], r"^name=#1: .*name='\"#1\"'"),
        (
            ["data.train.classes=[Straße,b]", "data=folder"],
            r"^data\.train\.classes=\[Straße,b\]: .*quote",
        ),
        (["logger=null"], r"^logger=null: logger is chosen by a name, one of csv, .*wandb"),
        (["model/head=5"], r"^model/head=5: model/head is chosen by a name, one of .*hem"),
        (["experiment=null"], r"^experiment=null: experiment is chosen by a name, one of .*synthetic_hem"),
        (["synthetic_hem"], "'synthetic_hem' is no assignment"),
        (["--config-dir=nowhere"], "nowhere' not found"),
        (["hydra/launcher=nosuch"], r"unknown option hydra/launcher=nosuch"),
    ],
)
def test_an_error_names_what_was_typed_and_leaves_nothing(
    words: list[str], said: str, here: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ([], ["run_dir=new/place"], ["--multirun"]):
        if mode == ["--multirun"] and {"resume=nowhere", "trainer.num_nodes=2", "data=folder"} & {*words}:
            continue  # what only a job finds
        with pytest.raises(HemnetError, match=said):
            start(*mode, *words)
        assert list(here.iterdir()) == []
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "HYDRA_FULL_ERROR" not in printed.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.optimizer.lr=fast"], r"^optim\.optimizer\.lr is 'fast'"),
        (["trainer.max_epochs=0"], r"^trainer\.max_epochs is 0"),
        (["+model.head.iteration=3"], r"^unknown key model\.head\.iteration: did you mean"),
        (
            ["seed=0,1", "trainer.max_epochs=0,x"],
            r"^none of the 4 jobs can start:\n  trainer\.max_epochs .*\n",
        ),
    ],
)
def test_a_sweep_of_which_no_job_can_start_starts_none(
    words: list[str], said: str, here: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "start", lambda self, _: pytest.fail(f"{self.name} was started"))
    with pytest.raises(HemnetError, match=said):
        start("--multirun", "seed=0,1,2", *words)
    assert list(here.iterdir()) == []


def test_a_folder_of_the_user_stays_when_a_run_does_not_begin(here: Path, start: Start) -> None:
    (here / "mine").mkdir()
    with pytest.raises(HemnetError):
        start("run_dir=mine", "seed=one")
    assert [*here.iterdir()] == [here / "mine"]
    assert list((here / "mine").iterdir()) == []
