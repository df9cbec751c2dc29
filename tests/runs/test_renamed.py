"""Runs of older versions: what their config.yaml says is read in the words of this version."""

from inspect import signature
from pathlib import Path

import pytest
from _helpers.tiny import tiny
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hemnet.config.build import build_network, restore
from hemnet.config.compose import load
from hemnet.data import CAMVID
from hemnet.em import HighwayEM, Implicit
from hemnet.nets import EMHead
from hemnet.runs import checkpoints
from hemnet.runs.identity import differences
from hemnet.runs.outputs import changes
from hemnet.runs.renamed import HEAD_DEFAULTS, with_present_names
from hemnet.runs.run import Run
from hemnet.runs.training_run import TrainingRun

IMPLICIT = {"_target_": "hemnet.em.Implicit", "tolerance": 1e-6}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"gradient": "unrolled", "implicit": None}, {"gradient": "unrolled"}),
        ({"gradient": "implicit", "implicit": None}, {"gradient": "implicit"}),
        ({"gradient": "implicit", "implicit": IMPLICIT}, {"gradient": IMPLICIT}),
        ({"gradient": "one_step", "implicit": IMPLICIT}, {"gradient": "one_step"}),
        ({"gradient": IMPLICIT}, {"gradient": IMPLICIT}),
        ({"iterations": 4}, {"iterations": 4}),
    ],
)
def test_settings_beside_the_implicit_mode_become_the_mode(written: dict, read: dict) -> None:
    head = {"_target_": "hemnet.nets.EMHead"}
    assert with_present_names({"model": {"head": head | written}}) == {
        "model": {"head": HEAD_DEFAULTS | head | read}
    }
    other = {"_target_": "elsewhere.Head", **written}  # not of this project: its keys are its own
    assert with_present_names(other) == other


def test_the_options_that_are_filled_in_are_those_of_the_head() -> None:
    own = signature(EMHead).parameters.values()
    assert {p.name: p.default for p in own if p.default is not p.empty} == HEAD_DEFAULTS


def test_an_option_that_an_older_run_did_not_have_is_no_difference() -> None:
    """So the sweeps, reports and studies of which the run is a part take it for what it is."""
    keys = ["experiment=camvid_lite_hem", "logger=csv", "data.root=camvid", "run_dir=run"]
    today = OmegaConf.create(OmegaConf.to_container(load(keys), resolve=True))  # as a run's file has it
    plain = OmegaConf.to_container(today)
    for name in ("learn_variance", "learn_prior", "mask_padding", "correct_momentum"):
        del plain["model"]["head"][name]
    assert differences(OmegaConf.create(plain), today) == differences(today, OmegaConf.create(plain)) == []
    plain["model"]["head"]["learn_prior"] = True
    assert differences(OmegaConf.create(plain), today) == ["model.head.learn_prior"]


def finished(path: Path, gradient: str) -> tuple[Run, DictConfig]:
    """A run of today, with a checkpoint."""
    config = load(
        ["experiment=synthetic_hem", "logger=csv", f"run_dir={path}", f"model.head.gradient={gradient}"]
    )
    with TrainingRun.create(path, config) as run:
        network = build_network(config, CAMVID.num_classes, pretrained=False)
        state = {f"network.{name}": value for name, value in network.state_dict().items()}
        about = {"format": checkpoints.CHECKPOINT_FORMAT, "spec": CAMVID.to_dict()}
        last = path / "checkpoints" / "last.ckpt"
        checkpoints.write({"state_dict": state, "hemnet": about, "global_step": 1}, last)
    return run, config


@pytest.mark.parametrize(
    ("gradient", "written"),
    [
        ("unrolled", {"gradient": "unrolled", "implicit": None}),
        ("{_target_:hemnet.em.Implicit,tolerance:1e-6}", {"gradient": "implicit", "implicit": IMPLICIT}),
    ],
)
def test_a_run_with_settings_beside_the_mode_is_restored_and_gone_on_with(
    gradient: str, written: dict, tmp_path: Path
) -> None:
    run, config = finished(tmp_path, gradient)
    old = OmegaConf.load(run.path / "config.yaml")
    old.model.head.update(written)
    OmegaConf.save(old, run.path / "config.yaml")
    network, _ = restore(Run.open(run.path))
    (layer,) = (module for module in network.modules() if isinstance(module, HighwayEM))
    assert layer.gradient.name == written["gradient"]
    assert gradient == "unrolled" or layer.gradient == Implicit(tolerance=1e-6)
    assert TrainingRun.create(run.path, config, "auto").resumes_from == run.path / "checkpoints" / "last.ckpt"


def test_a_config_of_an_older_version_is_read_with_present_names(tmp_path: Path) -> None:
    old = {
        "task": {"_target_": "hemnet.task.SegmentationTask"},
        "optim": {
            "_target_": "hemnet.optim.Optimization",
            "hard_pixels": {"_target_": "hemnet.optim.HardPixels"},
        },
        "trainer": {"plugins": [{"_target_": "hemnet.records.SafeCheckpoints"}]},
        "logger": {
            "csv": {"_target_": "hemnet.records.MetricsFile"},
            "wandb": {"_target_": "hemnet.callbacks.wandb_run.wandb_logger"},
        },
        "inference": {"_target_": "hemnet.inference.Inference"},
        "model": {"head": {"_target_": "hemnet.nets.EMHead"}},
    }
    OmegaConf.save(OmegaConf.create(old), tmp_path / "config.yaml")
    config = Run.open(tmp_path).config
    targets = [
        config.task._target_, config.optim._target_, config.optim.hard_pixels._target_,
        config.trainer.plugins[0]._target_, config.logger.csv._target_, config.logger.wandb._target_,
        config.inference._target_, config.model.head._target_,
    ]  # fmt: skip
    for target in targets:
        get_object(target)
    assert targets[-1] == "hemnet.nets.EMHead"


@pytest.mark.parametrize("hard", [None, {"_target_": "hemnet.training.optim.HardPixels", "threshold": 0.6}])
def test_a_choice_of_pixels_becomes_one_of_the_losses_and_a_run_from_before_goes_on(
    tmp_path: Path, hard: dict[str, object] | None
) -> None:
    now = ["task/loss=hard_pixels", "task.loss.hard_pixels.threshold=0.6"] if hard else []
    config = load(tiny(tmp_path, tmp_path / "run", *now))
    with TrainingRun.create(tmp_path / "run", config) as run:
        pass
    stored = OmegaConf.load(run.path / "config.yaml")
    del stored.task.loss
    stored.task.hard_pixels = hard and hard | {"at_least": 0.0625}
    OmegaConf.save(stored, run.path / "config.yaml")
    assert Run.open(run.path).config.task == config.task
    assert TrainingRun.create(run.path, config, "auto").path == run.path


@pytest.mark.parametrize(
    ("stored", "given", "changed"),
    [(1, 1.0, {}), (8, 8.0, {}), (None, 8, {}), (1, 2, {"model.head.variance": 2.0})],  # √64 is 8
)
def test_a_variance_that_is_the_runs_own_is_no_change(stored: object, given: object, changed: dict) -> None:
    one, other = (
        load(["experiment=synthetic_hem", "run_dir=run", f"model.head.variance={'null' if v is None else v}"])
        for v in (stored, given)
    )
    assert changes(one, other) == changed
    assert differences(one, other) == [*changed]


def test_what_is_no_folder_and_no_variance_of_a_run_is_read_as_it_is(tmp_path: Path) -> None:
    """For those to tell who use it."""
    head = {"_target_": "hemnet.nets.EMHead", "variance": 10**400}
    OmegaConf.save(OmegaConf.create({"run_dir": 5, "model": {"head": head}}), tmp_path / "config.yaml")
    assert Run.open(tmp_path).config.model.head.variance == 10**400
