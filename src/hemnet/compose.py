"""From configuration to objects: the composition root, and the only caller of Hydra's ``instantiate``.

``conf/`` holds the parts, ``experiments/NAME.yaml`` the recipes; a recipe is chosen with ``experiment=NAME``.
"""

import inspect
import secrets
import time
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from hemnet.data import DatasetSpec, EvalTransform, SegmentationData
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.runs import Checkpoint, Run
from hemnet.task import CHECKPOINT_FORMAT, SegmentationTask

PROJECT = Path(__file__).parents[2]
CONF = PROJECT / "conf"
EXPERIMENTS = PROJECT / "experiments"

# The nodes that are containers rather than calls, and the keys that each may have; None: any.
CONTAINERS: dict[str, set[str] | None] = {
    "": {
        "name",
        "seed",
        "runs",
        "run_dir",
        "data",
        "model",
        "optim",
        "task",
        "trainer",
        "callbacks",
        "logger",
    },
    "model": {"backbone", "head", "auxiliary", "num_components"},
    "callbacks": None,
    "logger": None,
}
# Keys that the composition hands on: the root of a data set goes to its readers.
SHARED_KEYS = {"data": {"root"}}
INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


class ConfigError(HemnetError):
    """A key, value or choice of the configuration is wrong."""


def register_recipes(folder: Path = EXPERIMENTS) -> None:
    """Make each ``folder/NAME.yaml`` known to Hydra as ``experiment=NAME``, with ``name: NAME`` in it."""
    # The time for people, the random part so that runs started in one second get directories of their own.
    OmegaConf.register_new_resolver(
        "run_id",
        lambda: f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}",
        use_cache=True,
        replace=True,
    )
    store = ConfigStore.instance()
    for path in sorted(folder.glob("*.yaml")):
        recipe = OmegaConf.merge(OmegaConf.load(path), {"name": path.stem})
        store.store(
            group="experiment", name=path.stem, node=recipe, package="_global_", provider="experiments"
        )


def load(overrides: list[str]) -> DictConfig:
    """Compose the training configuration as ``python -m hemnet.train OVERRIDES`` does, and check it.

    Raises:
        ConfigError: an override, a recipe or a part of the configuration is wrong.
    """
    register_recipes()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
            config = compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    check(config)
    return config


def explain(error: Exception) -> ConfigError:
    """Return Hydra's error as one that names the nearest right key or option, where one was misspelt."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return ConfigError(f"unknown option {group}={option}: {_nearest(option, error.options)}")
    cause: BaseException | None = error
    while cause is not None:
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "full_key", None)
        if isinstance(parent, DictConfig) and key:
            return ConfigError(_unknown(key, {str(k) for k in parent}))
        cause = cause.__cause__
    return ConfigError(str(error))


def _unknown(full_key: str, known: set[str]) -> str:
    prefix, _, key = full_key.rpartition(".")
    dot = f"{prefix}." if prefix else ""
    return f"unknown key {full_key}: {_nearest(key, known, dot)}"


def _nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def check(config: DictConfig) -> None:
    """Check every key and plain value of a configuration against what it will be handed to.

    Raises:
        ConfigError: a key that nothing takes (with the nearest one that something does), a missing or
            mistyped value, or a target that does not exist.
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    _check_node(resolved, "")


def _check_node(node: Any, path: str) -> None:
    if isinstance(node, list):
        for i, item in enumerate(node):
            _check_node(item, f"{path}[{i}]")
    if not isinstance(node, dict):
        return
    hints: dict[str, Any] = {}
    known = CONTAINERS.get(path)
    if "_target_" in node:
        known, hints = _signature(node["_target_"], path)
        known |= INSTANTIATE_KEYS | SHARED_KEYS.get(path, set())
    for key, value in node.items():
        full_key = f"{path}.{key}" if path else str(key)
        if known is not None and key not in known:
            raise ConfigError(_unknown(full_key, known - INSTANTIATE_KEYS))
        if key in hints and not _has_target(value):
            _check_value(value, hints[key], full_key)
        _check_node(value, full_key)


def _signature(target: str, path: str) -> tuple[set[str], dict[str, Any]]:
    """Return the parameter names of a target and the types of those whose annotations can be resolved."""
    try:
        call = get_object(target)
    except Exception as error:
        raise ConfigError(f"{path}._target_ names {target}, which cannot be imported: {error}") from error
    try:
        hints = get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except (NameError, TypeError):
        hints = {}  # annotations of other packages that exist for type checkers alone
    return set(inspect.signature(call).parameters), hints


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_target, value.values()))
    return isinstance(value, list) and any(map(_has_target, value))


def _check_value(value: Any, hint: Any, full_key: str) -> None:
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(e["msg"].lower() for e in error.errors()))
        raise ConfigError(f"{full_key} is {value!r}: {reason}") from error
    except PydanticUserError:
        pass  # a type that pydantic has no schema for; its constructor judges


def _build(config: DictConfig, key: str, **given: Any) -> Any:
    """Instantiate the node at ``key`` with what is given besides."""
    return _call(OmegaConf.to_container(OmegaConf.select(config, key), resolve=True), key, **given)


def _call(node: Any, key: str, **given: Any) -> Any:
    """Instantiate a node; errors meant for users pass through, others name its key."""
    try:
        # Partial, then called: what is given stays the very object, where Hydra would merge it into the node.
        return instantiate(node, _convert_="all", _partial_=True)(**given)
    except (InstantiationException, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, HemnetError):
            raise cause from error
        if isinstance(cause, ValueError | TypeError):
            raise ConfigError(f"{key}: {cause}") from error
        raise


def build_data(config: DictConfig) -> SegmentationData:
    """Return the data module; its readers look at the files at once, so missing data fails here."""
    node: Any = OmegaConf.to_container(config.data, resolve=True)
    if "root" in node:
        root = node.pop("root")
        for split in ("train", "val"):
            node[split].setdefault("root", root)
    return _call(node, "data")


def build_eval_transform(config: DictConfig) -> EvalTransform:
    """Return the transform of evaluation, for which no data is needed."""
    return _build(config, "data.eval_transform")


def build_network(config: DictConfig, num_classes: int, *, pretrained: bool = True) -> Segmenter:
    """Return the network for ``num_classes``; without ``pretrained``, no weights file is looked for."""
    backbone = _build(config, "model.backbone", **({} if pretrained else {"weights": None}))
    heads = {}
    for role in ("head", "auxiliary"):
        if OmegaConf.select(config, f"model.{role}"):  # {} where there is none
            heads[role] = _build(
                config, f"model.{role}", in_channels=backbone.channels, num_classes=num_classes
            )
    return Segmenter(backbone, **heads)


def build_task(config: DictConfig, network: Segmenter, spec: DatasetSpec) -> SegmentationTask:
    """Return the LightningModule around a network."""
    return _build(config, "task", network=network, spec=spec, optimization=_build(config, "optim"))


def build_trainer(config: DictConfig) -> pl.Trainer:
    """Return the trainer with the configured callbacks and loggers, keyed nodes of which null is left out."""
    parts: dict[str, list[Any]] = {
        group: [_build(config, f"{group}.{name}") for name, node in config[group].items() if node is not None]
        for group in ("callbacks", "logger")
    }
    return _build(config, "trainer", default_root_dir=config.run_dir, **parts)


def build_evaluator(config: DictConfig) -> pl.Trainer:
    """Return a trainer that evaluates on the configured device and leaves nothing behind."""
    quiet = {"logger": False, "callbacks": [], "enable_checkpointing": False, "enable_model_summary": False}
    return _build(config, "trainer", **quiet)


def restore(run: Run, which: Checkpoint = "last") -> tuple[Segmenter, DatasetSpec]:
    """Return the trained network of a run, in eval mode on the CPU, and its classes; no data set is needed.

    Raises:
        HemnetError: there is no such checkpoint, or it was not written by this version of hemnet.
    """
    path = run.checkpoint(which)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    about = checkpoint.get("hemnet", {})
    if about.get("format") != CHECKPOINT_FORMAT:
        raise HemnetError(
            f"{path} has checkpoint format {about.get('format')}, this version of hemnet reads "
            f"{CHECKPOINT_FORMAT}: use the version named in {run.path / 'environment.json'}"
        )
    spec = DatasetSpec.from_dict(about["spec"])
    network = build_network(run.config, spec.num_classes, pretrained=False)
    prefix = "network."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(state)
    return network.eval(), spec
