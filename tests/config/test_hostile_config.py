"""Malicious configurations: what they name is not run, and the error says what is wrong."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hemnet.config.build import (
    build_data,
    build_evaluator,
    build_inference,
    build_network,
    build_trainer,
    restore,
)
from hemnet.config.check import check
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.errors import HemnetError
from hemnet.runs import checkpoints
from hemnet.runs.run import Run

pytestmark = pytest.mark.usefixtures("bounded")

HOSTILE_TARGETS = [
    "os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "pathlib.Path.touch",
    "functools.partial", "hydra.utils.call", "hydra.utils.instantiate", "hydra.utils.get_method",
    "hydra.utils.get_object", "torch.load", "torch.hub.load", "numpy.load", "importlib.import_module",
    # Reached through what this project's modules and its dependencies import.
    "hemnet.storage.files.os.system", "hemnet.data.listing.os.system", "hemnet.nets.weights.torch.load",
    "hemnet.config.build.instantiate", "hemnet.config.targets.get_object",
    "hemnet.data.archives.unpack.unpack",
    "hemnet.storage.download.download", "torch.optim.optimizer.torch.load", "torch.serialization.load",
    "pytorch_lightning.cli.LightningCLI", "pytorch_lightning.Trainer.fit", "torch.optim.SGD.step",
    "hemnet.data.listing.Path",
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
    with pytest.raises(ConfigError, match=r"own package, .* environment variable HEMNET_PACKAGES"):
        check(config)
    assert not (tmp_path / "ran").exists()
    # The user can allow it, by a variable that no configuration can set.
    monkeypatch.setenv("HEMNET_PACKAGES", "mine,trojan")
    check(config)
    assert (tmp_path / "ran").exists()


def test_the_builders_refuse_what_was_never_checked(tmp_path: Path) -> None:
    # A stored configuration is opened unchecked; the caller of instantiate checks it.
    ran = tmp_path / "ran"
    order = {"_target_": "os.mkdir", "_args_": [str(ran)]}
    for place, build in (
        ("model.backbone", lambda c: build_network(c, 3)),
        ("model.backbone.stem", lambda c: build_network(c, 3)),
        ("inference", build_inference),
        ("trainer.plugins", build_evaluator),
        ("trainer.profiler", build_trainer),
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
    with pytest.raises(ConfigError, match=r"model\.head\._target_ names os\.mkdir, which is not allowed"):
        restore(Run.open(tmp_path))
    assert not (tmp_path / "ran").exists()


ORDERS = ["{_target_:os.mkdir,_args_:[RAN]}", "{_target_:torch.save,obj:[1],f:RAN}"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("escaped", ["", "\\"])
def test_an_interpolation_makes_no_node_that_nobody_looked_at(
    escaped: str, order: str, tmp_path: Path
) -> None:
    # The escaped interpolation resolves to a string, which Hydra would resolve again.
    for key, build in (
        ("model.backbone.weights", lambda c: build_network(c, 3, pretrained=False)),
        ("model.head.gradient", lambda c: build_network(c, 3)),
        ("data.train.root", build_data),
        ("trainer.default_root_dir", build_trainer),
    ):
        config = configured(tmp_path, "data=camvid")
        value = escaped + "${oc.create:" + order.replace("RAN", str(tmp_path / "ran")) + "}"
        OmegaConf.update(config, key, value, force_add=True)
        with pytest.raises(ConfigError, match=rf"{key}.* names|{key}.* is '\$\{{oc.create"):
            build(config)
    assert not (tmp_path / "ran").exists()


def test_a_part_of_a_network_has_none_within_that_fetches_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server at this address would receive any variable of the environment.
    asked = []
    monkeypatch.setattr("hemnet.nets.weights.download", lambda *a: asked.append(a))
    url = "http://127.0.0.1:9/${oc.env:HOME}-0123abcd.pth"
    for key in ("model.head.variance", "model.backbone.depth", "model.auxiliary.channels"):
        for wrap in (lambda node: node, lambda node: [node], lambda node: {"deep": node}):
            config = configured(tmp_path, "data=camvid")
            node = wrap({"_target_": "hemnet.nets.ResNet", "depth": 18, "weights": url})
            OmegaConf.update(config, key, node, merge=False, force_add=True)
            with pytest.raises(ConfigError, match="which is not allowed"):
                build_network(config, 3, pretrained=False)
    assert not asked


@pytest.mark.parametrize("value", [-1, 10**12, 10**30])
@pytest.mark.parametrize("key", ["model.head.channels", "model.backbone.width", "model.head.num_components"])
def test_a_size_that_no_layer_can_have_is_named(key: str, value: int, tmp_path: Path) -> None:
    config = configured(tmp_path)
    OmegaConf.update(config, key, value)
    with pytest.raises(ConfigError, match=rf"^{key.rpartition('.')[0]}: .") as caught:
        build_network(config, 3)
    assert "\n" not in str(caught.value)


def test_evaluation_leaves_no_profile(tmp_path: Path) -> None:
    profiler = {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": str(tmp_path / "any")}
    config = configured(tmp_path)
    OmegaConf.update(config, "trainer.profiler", {**profiler, "filename": "x"}, force_add=True)
    assert type(build_evaluator(config).profiler).__name__ == "PassThroughProfiler"


NO_CONFIGURATIONS = {
    "no YAML": b"a: [", "no text": b"a: \xff\xfe", "a list": b"- a", "a number": b"3", "twice": b"a: 1\na: 2",
    "Python": b"a: !!python/object/apply:os.getcwd []", "deep": b"a: " + b"[" * 99_999, "odd": b"a: ${",
    "aliases": b"a0: &a0 [x, x]\n"
    + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
    "within itself": b"a: &a [*a]",
}  # fmt: skip


@pytest.mark.parametrize("case", NO_CONFIGURATIONS)
def test_what_is_no_configuration_is_refused_by_name(case: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(NO_CONFIGURATIONS[case])
    with pytest.raises(HemnetError, match=r"config\.yaml: not the configuration of a run .*restore the file"):
        Run.open(tmp_path)


@pytest.mark.parametrize("node", [None, 3, [1], "text"])
def test_a_part_that_is_no_node_is_named(node: object, tmp_path: Path) -> None:
    config = configured(tmp_path)
    OmegaConf.update(config, "model.head", [1] if node == [1] else node, merge=False)
    OmegaConf.update(config, "model.backbone", node, merge=False)
    with pytest.raises(ConfigError, match=r"model\.backbone is .*; it must have keys"):
        build_network(config, 3)
