"""The presets: loggers, debugging runs, devices. What each sets arrives; those that can run here do."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from _helpers.tiny import call
from omegaconf import OmegaConf

from hemnet.config.build import build_trainer
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.runs.identity import debugging
from hemnet.storage.files import read_json

QUICK = [
    "experiment=synthetic_hem", "logger=csv", "model.backbone.width=4",
    "data.train.size=32", "data.train.length=12", "data.val.length=4", "callbacks.predictions=null",
    "callbacks.attention=null",
]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "limits", "steps"),
    [
        ("batch", ["trainer.fast_dev_run"], 1),
        ("overfit", ["trainer.overfit_batches"], 2 * 3),
        ("profile", ["trainer.limit_train_batches", "trainer.limit_val_batches"], 3),
    ],
)
def test_a_debugging_run_ends_and_is_marked(
    preset: str, limits: list[str], steps: int, tmp_path: Path
) -> None:
    assert debugging(load([*QUICK, f"debug={preset}"])) == limits
    shorter = ["trainer.max_epochs=3"] if preset == "overfit" else []
    words = [*QUICK, f"debug={preset}", f"run_dir={tmp_path / 'run'}", *shorter]
    done = call("hemnet.train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["debug"], result["steps"]) == (limits, steps)
    if preset == "profile":
        assert "training_step" in (tmp_path / "run" / "fit-profile.txt").read_text()


def test_a_preset_leaves_the_rest_of_the_recipe() -> None:
    plain, changed = (
        OmegaConf.to_container(load([*QUICK, "run_dir=x", *more])) for more in ([], ["debug=overfit"])
    )
    assert changed["trainer"] == plain["trainer"] | {
        "overfit_batches": 2, "max_epochs": 100, "check_val_every_n_epoch": 50, "log_every_n_steps": 1
    }  # fmt: skip
    assert {name for name in plain if plain[name] != changed[name]} == {"trainer"}


def test_devices() -> None:
    ddp, gpu, mps = (load([*QUICK, f"trainer={name}"]).trainer for name in ("ddp", "gpu", "mps"))
    assert dict(ddp) == dict(gpu) | {"devices": -1, "strategy": "ddp", "sync_batchnorm": True}
    assert gpu.precision == "bf16-mixed"
    assert (mps.accelerator, mps.devices, mps.precision) == ("mps", 1, "32-true")
    for name in ("ddp", "mps"):
        with pytest.raises(ConfigError, match="trainer=cpu"):
            build_trainer(load([*QUICK, f"trainer={name}"]))


class Kept:
    """In the place of the tracker's own class: keeps what it is told."""

    def __init__(self, **given: object) -> None:
        self.given, self.hyperparameters = given, {}

    def log_hyperparams(self, params: dict) -> None:
        self.hyperparameters = params


class Trainer:
    """In the place of Lightning's, which would make the trackers' files."""

    __module__ = "pytorch_lightning.trainer.trainer"
    accelerator, strategy, world_size = None, None, 1

    def __init__(self, **given: object) -> None:
        self.given = given


@pytest.mark.parametrize(
    ("name", "stands_for", "given"),
    [
        ("tensorboard", "TensorBoardLogger", {"save_dir": "RUN", "name": "tensorboard", "version": ""}),
        (
            "mlflow",
            "MLFlowLogger",
            {
                "experiment_name": "hemnet",
                "run_name": "synthetic_hem-s5",
                "tracking_uri": "sqlite:///mlflow.db",
            },
        ),
    ],
)
def test_a_tracker_gets_its_settings_and_the_configuration_beside_metrics_csv(
    name: str, stands_for: str, given: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load([*QUICK, f"logger={name}", "seed=5", f"run_dir={tmp_path}"])
    assert set(config.logger) == {"csv", name}
    class_ = type(stands_for, (Kept,), {"__module__": "pytorch_lightning.loggers"})
    monkeypatch.setattr(f"pytorch_lightning.loggers.{stands_for}", class_)
    monkeypatch.setattr("pytorch_lightning.Trainer", Trainer)
    (kept,) = (logger for logger in build_trainer(config).given["logger"] if isinstance(logger, Kept))
    assert kept.given == {key: str(tmp_path) if value == "RUN" else value for key, value in given.items()}
    assert kept.hyperparameters["seed"] == 5
    assert kept.hyperparameters["head"] == "hem"


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(name: str) -> None:
    if find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=rf"logger\.{name}: .*{name}"):
        build_trainer(load([*QUICK, f"logger={name}"]))
