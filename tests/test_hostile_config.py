"""Configurations that nobody vouches for: what they name is not run, and what is wrong with them is said."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hemnet import checkpoints
from hemnet.check import ConfigError, check
from hemnet.compose import build_evaluator, build_inference, build_network, load, restore
from hemnet.runs import Run

pytestmark = pytest.mark.usefixtures("bounded")

HOSTILE_TARGETS = [
    "os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "pathlib.Path.touch",
    "functools.partial", "hydra.utils.call", "hydra.utils.instantiate", "hydra.utils.get_method",
    "hydra.utils.get_object", "torch.load", "torch.hub.load", "numpy.load", "importlib.import_module",
    # By way of what this project's own modules, and those it is built of, import.
    "hemnet.files.os.system", "hemnet.data.files.os.system", "hemnet.nets.weights.torch.load",
    "hemnet.compose.instantiate", "hemnet.check.get_object", "hemnet.data.archives.unpack",
    "hemnet.download.download", "torch.optim.optimizer.torch.load", "torch.serialization.load",
    "pytorch_lightning.cli.LightningCLI", "pytorch_lightning.Trainer.fit", "torch.optim.SGD.step",
    "hemnet.data.files.Path",
    "hemnet", "hemnet.data", "torch.optim", "", "os", "..", 3, None, ["os.system"], {"a": 1},
]  # fmt: skip
PLACES = ["model.backbone", "model.head", "optim.optimizer", "trainer", "inference", "data.eval_transform",
          "trainer.plugins", "callbacks.extra", "model.head.gradient"]  # fmt: skip


def configured(tmp_path: Path, *overrides: str):
    return load([f"run_dir={tmp_path}", "logger=csv", "trainer.accelerator=cpu", *overrides])


@pytest.mark.parametrize("place", PLACES)
def test_nothing_but_parts_of_the_project_may_be_named(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path)
    called = []
    monkeypatch.setattr("os.system", lambda *a: called.append(a))
    for target in HOSTILE_TARGETS:
        changed = config.copy()
        node = {"_target_": target, "command": f"touch {tmp_path}/ran", "_args_": [f"touch {tmp_path}/ran"]}
        OmegaConf.update(changed, place, node, merge=False, force_add=True)
        with pytest.raises(ConfigError, match="_target_"):
            check(changed)
    assert not called
    assert not (tmp_path / "ran").exists()


def test_what_may_not_be_named_is_not_imported_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trojan.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Head: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = configured(tmp_path)
    config.model.head = {"_target_": "trojan.Head"}
    with pytest.raises(ConfigError, match="of your own if the environment variable HEMNET_PACKAGES names it"):
        check(config)
    assert not (tmp_path / "ran").exists()
    # Unless the one who runs it says so, in a place that no configuration reaches.
    monkeypatch.setenv("HEMNET_PACKAGES", "mine,trojan")
    check(config)
    assert (tmp_path / "ran").exists()


def test_the_builders_refuse_what_was_never_checked(tmp_path: Path) -> None:
    # A stored configuration is opened without a check; the one who calls instantiate makes sure.
    ran = tmp_path / "ran"
    order = {"_target_": "os.mkdir", "_args_": [str(ran)]}
    for place, build in (
        ("model.backbone", lambda c: build_network(c, 3)),
        ("model.backbone.stem", lambda c: build_network(c, 3)),
        ("inference", build_inference),
        ("trainer.plugins", build_evaluator),
        ("trainer.profiler", build_evaluator),
    ):
        config = configured(tmp_path)
        for node in (order, [order], {"deep": [order]}, {"_target_": "functools.partial", "_args_": [order]}):
            OmegaConf.update(config, place, node, merge=False, force_add=True)
            with pytest.raises((ConfigError, TypeError, ValueError)):
                build(config)
    assert not ran.exists()


def test_a_stranger_s_run_runs_nothing(tmp_path: Path) -> None:
    config = configured(tmp_path)
    config.model.head = {"_target_": "os.mkdir", "_args_": [str(tmp_path / "ran")]}
    OmegaConf.save(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    spec = {"name": "x", "classes": ["a", "b"], "palette": [[1, 1, 1], [2, 2, 2]]}
    about = {"format": checkpoints.CHECKPOINT_FORMAT, "spec": spec}
    checkpoints.write({"state_dict": {}, "hemnet": about}, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ConfigError, match=r"model\.head\._target_ names os\.mkdir, which is not run"):
        restore(Run.open(tmp_path))
    assert not (tmp_path / "ran").exists()
