"""Two ways to write one thing are one setting, and two things are never one."""

import importlib
import inspect
import pkgutil
from collections import defaultdict

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import hemnet
from hemnet.config.compose import load
from hemnet.config.targets import TARGETS
from hemnet.nets import EfficientNetLite, ResNet
from hemnet.runs.canonical import class_name, text, told
from hemnet.runs.identity import differences, identity
from hemnet.runs.run_settings import DEFAULTS, columns, settings

OWNERS = {"trainer": (pl.Trainer,), "model.backbone": (ResNet, EfficientNetLite)}
"""Classes that take the options of `DEFAULTS`, by the node of the configuration."""


def of_keys(**keys: object) -> dict[str, str]:
    """Return the settings of a run in which these dotted keys, with two underscores for a dot, are set."""
    config = load(["experiment=synthetic_hem", "run_dir=/nowhere", "seed=0"])
    for key, value in keys.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return settings(OmegaConf.to_container(config, resolve=True))


def classes_of(package: str) -> dict[str, set[type]]:
    """Return the classes that may be named in a package by their names, whatever module exports them."""
    found = defaultdict(set)
    module = importlib.import_module(package)
    inner = pkgutil.iter_modules(module.__path__, f"{package}.") if hasattr(module, "__path__") else []
    for name in (package, *(each.name for each in inner if not each.name.endswith("__main__"))):
        for kind, made in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if made.__module__.startswith(package) and not kind.startswith("_"):
                found[kind].add(made)
    return found


def test_a_name_of_a_class_is_of_one_class_in_each_package_of_hemnet() -> None:
    every = defaultdict(set)
    for package in {package for packages in TARGETS.values() for package in packages}:
        if package.startswith(f"{hemnet.__name__}."):
            for name, classes in classes_of(package).items():
                every[name] |= classes
    assert len(every) > 40
    assert {name for name, classes in every.items() if len(classes) > 1} == set()


def test_each_path_to_a_class_is_one_setting() -> None:
    for short, long in (
        ("hemnet.nets.EMHead", "hemnet.nets.heads.EMHead"),
        ("torch.optim.AdamW", "torch.optim.adamw.AdamW"),
        ("pytorch_lightning.Trainer", "pytorch_lightning.trainer.trainer.Trainer"),
    ):
        assert class_name(short) == class_name(long) != class_name(long.replace(".", "x."))
    usual = of_keys()
    assert of_keys(model__head___target_="hemnet.nets.heads.EMHead") == usual
    assert of_keys(optim__optimizer___target_="torch.optim.adamw.AdamW") == usual
    one, other = (load(["experiment=synthetic_hem", "run_dir=/nowhere", "seed=0"]) for _ in range(2))
    other.optim.optimizer._target_ = "torch.optim.adamw.AdamW"
    assert differences(one, other) == []
    other.optim.optimizer._target_ = "mine.AdamW"
    assert differences(one, other) == ["optim.optimizer._target_"]


@pytest.mark.parametrize("name", ["FCNHead", "EMHead"])
def test_a_users_class_is_not_that_of_hemnet_by_the_same_name(name: str) -> None:
    config = load(["experiment=synthetic_hem", "run_dir=/nowhere", "seed=0"])
    config.model.head = {"_target_": f"mine.heads.{name}", "iterations": "many"}
    found = identity(config)
    assert (found.head, found.iterations) == (f"mine.heads.{name}", None)
    config.model.head._target_ = f"yours.heads.{name}"
    assert identity(config).head != found.head
    assert told(f"mine.{name}") == f"mine.{name}"
    assert told(f"hemnet.nets.{name}") == name
    own = of_keys(data__val___target_="mine.CamVid")
    assert own["data.val._target_"] == "mine.CamVid"


@pytest.mark.parametrize("name", ["strategy", "devices", "cache", "root", "profiler", "precision"])
@pytest.mark.parametrize("place", ["model__head", "data__train", "optim__optimizer"])
def test_an_option_of_a_class_counts_whatever_it_is_called(name: str, place: str) -> None:
    assert of_keys(**{f"{place}__{name}": "a"}) != of_keys(**{f"{place}__{name}": "b"})


@pytest.mark.parametrize(
    "key",
    [
        "data.pin_memory",
        "data.cache_gib",
        "trainer.strategy",
        "trainer.benchmark",
        "trainer.val_check_interval",
    ],
)
def test_what_changes_the_place_alone_is_no_setting(key: str) -> None:
    assert of_keys(**{key.replace(".", "__"): 2, "data__batch_size": 4}) == of_keys(data__batch_size=4)


def test_numbers_are_told_apart_as_finely_as_training_tells_them() -> None:
    assert of_keys(optim__optimizer__lr=0.12345678) != of_keys(optim__optimizer__lr=0.12345679)
    assert of_keys(model__head__highway_scale=1 - 0.7) == of_keys(model__head__highway_scale=0.3)
    assert of_keys(optim__optimizer__betas=[0, 0.999]) == of_keys(optim__optimizer__betas=[0.0, 0.999])
    assert of_keys(model__head__variance=1) == of_keys(model__head__variance=1.0)


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        (0.5, 0.5),
        ([0.5] * 3, 0.5),
        (1 - 0.7, 0.3),
        (0.12345678, 0.12345678),
        ([0.5, 0, 0.5], "0.5/0/0.5"),
    ],
)
def test_h_is_the_same_as_one_number_and_as_a_schedule_of_it(scale: object, found: object) -> None:
    config = load(["experiment=synthetic_hem", "run_dir=/nowhere", "seed=0"])
    config.model.head.highway_scale = scale
    assert identity(config).highway_scale == found
    assert columns(config)["h"] == found


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(plain)
def test_a_value_has_one_text_whatever_the_order_of_keys_and_the_kind_of_numbers(
    value: object,
) -> None:
    def turned(node: object) -> object:
        if isinstance(node, dict):
            return {key: turned(each) for key, each in reversed(node.items())}
        if isinstance(node, list):
            return [turned(each) for each in node]
        return float(node) if isinstance(node, int) and not isinstance(node, bool) else node

    assert text(turned(value)) == text(value)


@given(plain, plain)
def test_two_values_that_differ_have_two_texts(one: object, other: object) -> None:
    def same(a: object, b: object) -> bool:
        """Whether two values of a configuration are one: numbers by value, null as no key."""
        if isinstance(a, dict) and isinstance(b, dict):
            a, b = ({key: each for key, each in node.items() if each is not None} for node in (a, b))
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(same, a, b))
        numbers = [isinstance(each, int | float) and not isinstance(each, bool) for each in (a, b)]
        return f"{a:.12g}" == f"{b:.12g}" if all(numbers) else type(a) is type(b) and a == b

    assert (text(one) == text(other)) == same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a, b"], ["a", "b"]),
        ("True", True),
        ("1", 1),
        (["1"], [1]),
        ("[1]", [1]),
        ("None", None),
        ({"a": 1}, "{'a': 1}"),
    ],
)
def test_a_text_is_not_what_it_reads_like(one: object, other: object) -> None:
    assert text(one) != text(other)


def test_what_comes_to_the_same_is_one_setting() -> None:
    usual = of_keys()
    assert of_keys(model__head__iterations_eval=3) == usual != of_keys(model__head__iterations_eval=4)
    assert of_keys(trainer__gradient_clip_val=0) == of_keys(trainer__gradient_clip_val=None)
    assert of_keys(trainer__precision=32) == of_keys(trainer__precision="32") == usual
    assert of_keys(trainer__gradient_clip_algorithm="value") == usual  # of gradients that are not clipped
    assert of_keys(trainer__precision="bf16") != of_keys(trainer__precision="bf16-true")
    steps = [{"_target_": "albumentations.Blur", "p": 0.5}]
    more = [{**steps[0], "limit": None}]
    assert of_keys(data__train_transform__pipeline=steps) == of_keys(data__train_transform__pipeline=more)


@pytest.mark.parametrize(("key", "value"), DEFAULTS.items())
def test_an_option_that_is_null_is_its_default(key: str, value: str) -> None:
    where, _, option = key.rpartition(".")
    usual = {"precision": "32-true", "gradient_clip_algorithm": "norm"}.get(option)
    node = yaml.safe_load(value) if usual is None else usual
    clip, keyword = {"trainer__gradient_clip_val": 1.0}, key.replace(".", "__")
    assert of_keys(**clip, **{keyword: None}) == of_keys(**clip, **{keyword: node})
    for owner in OWNERS[where]:
        declared = inspect.signature(owner.__init__).parameters[option].default
        assert declared is None or declared == node


def test_lightnings_defaults_are_what_it_declares_null() -> None:
    """Those of its options that are null until the trainer has chosen."""
    trainer = pl.Trainer(accelerator="cpu", logger=False, max_steps=3)
    assert trainer.precision == DEFAULTS["trainer.precision"]
    assert trainer.limit_train_batches == trainer.limit_val_batches == 1.0
    assert trainer.gradient_clip_algorithm in (None, DEFAULTS["trainer.gradient_clip_algorithm"])
    assert trainer.checkpoint_callback is not None  # enable_checkpointing
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_order_of_the_data_is_a_setting_if_its_seed_is_not_the_runs() -> None:
    assert of_keys(seed=3, data__seed=3) == of_keys()
    assert of_keys(seed=3, data__seed=4) not in (of_keys(), of_keys(seed=3, data__seed=5))


def test_callbacks_that_end_training_or_skip_steps_are_settings() -> None:
    usual = of_keys()
    timer = {"_target_": "pytorch_lightning.callbacks.Timer", "duration": "00:00:01:00"}
    assert of_keys(callbacks__t=timer) != usual
    assert of_keys(callbacks__finite__policy="skip") != usual
    assert of_keys(callbacks__finite__most=3) == usual


def test_images_that_are_normalised_in_parts_are_another_setting() -> None:
    config = load(["experiment=synthetic_hem", "run_dir=/nowhere", "seed=0"])

    def of(batch: int, processes: int, together: bool) -> dict[str, str]:
        config.data.batch_size, config.trainer.sync_batchnorm = batch, together
        return settings(OmegaConf.to_container(config, resolve=True), (), processes)

    assert of(8, 1, False) == of(8, 1, True) == of(4, 2, True) == of(2, 4, True)
    assert of(4, 2, False) not in (of(8, 1, False), of(2, 4, False))


@pytest.mark.parametrize("change", [
    {"conclusive": False}, {"model.head.highway_scale": [0.5] * 3},
    {"model.head.gradient": {"_target_": "hemnet.em.Unrolled"}}, {"seed": 4},
])  # fmt: skip
def test_wandb_averages_what_the_report_does(change: dict[str, object]) -> None:
    config = load(["experiment=synthetic_hem", "run_dir=/nowhere", "seed=0"])
    before = columns(config)["setting"]
    for key, value in change.items():
        OmegaConf.update(config, key, value, merge=False)
    config.data.seed = config.seed
    assert (columns(config)["setting"] == before) == ("conclusive" not in change)
