"""Checks every key and plain value of a configuration against the constructor that will receive it."""

import inspect
import os
import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.utils import get_object
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from hemnet.config.overrides import ConfigError
from hemnet.config.paths import recipes
from hemnet.errors import HemnetError
from hemnet.runs.redaction import learn
from hemnet.storage.places import absolute

GROUPS = ("data", "model", "optim", "task", "inference", "trainer", "callbacks", "logger")
# The nodes without a constructor, and the keys that each may have; None allows any key.
CONTAINERS: dict[str, set[str] | None] = {
    "": {"name", "sweep", "seed", "runs", "run_dir", "resume", "finetune", *GROUPS},
    "model": {"backbone", "head", "auxiliary", "num_components", "highway_scale", "mask_padding"},
    "callbacks": None,
    "logger": None,
}
# The nodes that every training needs. Loggers and callbacks may be null, which is none.
REQUIRED = (
    "data",
    "data.train",
    "data.val",
    "model",
    "model.backbone",
    "model.head",
    "optim",
    "task",
    "trainer",
)
# Keys that the composition passes to other nodes: the root of a data set goes to its readers.
SHARED_KEYS = {"data": {"root"}}
# The modules whose classes each part of a configuration may name. A configuration may come from anyone, with
# a run directory for example. The classes that it names are imported and called, so it may only name those
# that this project consists of.
TARGETS: dict[str, tuple[str, ...]] = {
    "data": ("hemnet.data",),
    "model": ("hemnet.nets",),
    "model.head.gradient": ("hemnet.em.gradient",),
    "model.auxiliary.gradient": ("hemnet.em.gradient",),
    "optim": ("hemnet.training.optim", "torch.optim"),
    "task": ("hemnet.training.task", "hemnet.training.loss"),
    "inference": ("hemnet.training.inference",),
    "trainer": (
        "hemnet.runs.checkpoint_io",
        "pytorch_lightning.trainer",
        "pytorch_lightning.strategies",
        "pytorch_lightning.plugins",
        "pytorch_lightning.profilers",
        "lightning_fabric.plugins",
    ),
    "callbacks": ("hemnet.callbacks", "pytorch_lightning.callbacks"),
    "logger": ("hemnet.loggers", "pytorch_lightning.loggers"),
}
# The paths among the keys that have no constructor; elsewhere a path is a parameter whose type admits a Path.
PATHS = {"runs", "run_dir", "resume", "data.root"}
# Values of such keys that are no paths. URLs are none either.
NO_PATHS = {"auto", "imagenet"}
OWN = "HEMNET_PACKAGES"
"""The environment variable with the names of your own packages, separated by commas."""
INSTANTIATE_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def explain(error: Exception) -> HemnetError:
    """Turn an error of Hydra or OmegaConf into one that names the key, and suggests a similar name."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group == "sweep" and option in recipes("evaluations"):
            return ConfigError(
                f"sweep={option} evaluates trained runs and trains none: hemnet evaluate --sweep {option}"
            )
        return ConfigError(f"unknown option {group}={option}: {nearest(option, error.options)}")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HemnetError):
            return cause
        parent, key = getattr(cause, "parent_node", None), getattr(cause, "full_key", None)
        if (
            isinstance(cause, ConfigAttributeError | ConfigKeyError)
            and isinstance(parent, DictConfig)
            and key
        ):
            what = _unknown(key, {str(k) for k in parent})
            return ConfigError(f"{what}. An argument that conf/ leaves at its default is set by +{key}=VALUE")
        if isinstance(cause, OmegaConfBaseException) and key:
            return ConfigError(f"{key}: {str(cause).splitlines()[0]}")
        cause = cause.__cause__
    return ConfigError(str(error))


def _unknown(full_key: str, known: set[str]) -> str:
    prefix, _, key = full_key.rpartition(".")
    dot = f"{prefix}." if prefix else ""
    return f"unknown key {full_key}: {nearest(key, known, dot)}"


def nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return a hint for an unknown name: the most similar of the known ones, or all of them."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(known))}"


def check(config: DictConfig) -> None:
    """Check every key and plain value against the constructor that will receive it; make paths absolute.

    Relative paths start from the folder in which the command was given, also if Hydra has left it
    (``hydra.job.chdir=true``).

    Raises:
        ConfigError: a key is unknown (the message suggests a similar one), a value or a part is missing or
            has the wrong type, or a ``_target_`` does not exist or is not allowed.
        HemnetError: a path begins with ``~user``, and there is no such user.
    """
    resolved = check_parts(config)
    paths: dict[str, str] = {}
    try:
        _check_node(resolved, "", paths)
    except _WrongValue as error:
        given = _as_given(config, error.key)
        via = "" if given == error.key else f" ({error.key} takes its value)"
        raise ConfigError(f"{given} is {error.reason}{via}") from error
    for key, value in paths.items():
        if (whole := absolute_path(value)) != value:
            OmegaConf.update(config, key, whole)


def check_parts(config: DictConfig) -> Any:
    """Check that a configuration has its parts and can be resolved, without importing anything slow.

    Returns:
        the resolved configuration, as plain containers.

    Raises:
        ConfigError: a value or a part is missing, or a reference leads nowhere.
    """
    learn(config)  # first, since an error may quote a secret value
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    for key in REQUIRED:
        if not isinstance(node := OmegaConf.select(config, key, default={}), DictConfig | dict):
            raise ConfigError(f"{key} is {node}: it must have keys, _target_ or others")
    return resolved


def absolute_path(value: str) -> str:
    """Return the value of a path's key made absolute; URLs and `NO_PATHS` are returned unchanged."""
    if value in NO_PATHS or re.match(r"\w+://", value):
        return value
    start = HydraConfig.get().runtime.cwd if HydraConfig.initialized() else None
    return str(absolute(value, start))


class _WrongValue(Exception):
    """The value at ``key`` is wrong; ``reason`` quotes it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason


def _as_given(config: DictConfig, key: str) -> str:
    """Return the key that a user sets: that of ``${seed}`` at ``data.seed`` is ``seed``."""
    for _ in range(10):  # a chain of references; more would be a circle
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        raw = node._get_node(name) if isinstance(node, DictConfig) else None
        content = raw._value() if isinstance(raw, Node) else None
        found = re.fullmatch(r"\$\{(\w[\w.]*)\}", content) if isinstance(content, str) else None
        if found is None:
            break
        key = found[1]
    return key


def _check_node(node: Any, path: str, paths: dict[str, str]) -> None:
    """Check a node and all inside it; collect the paths in it by their keys."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            _check_node(item, f"{path}[{i}]", paths)
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
        if isinstance(value, str) and value and (full_key in PATHS or _admits_path(hints.get(key))):
            paths[full_key] = value
        _check_node(value, full_key, paths)


def _admits_path(hint: Any) -> bool:
    return hint is Path or any(map(_admits_path, get_args(hint)))


def _signature(target: str, path: str) -> tuple[set[str], dict[str, Any]]:
    """Return the names of a target's parameters, and their types as far as annotations can be resolved."""
    call = _find(target, path)
    try:
        hints = get_type_hints(call.__init__ if inspect.isclass(call) else call)
    except (NameError, TypeError):
        hints = {}  # some packages have annotations that only type checkers can resolve
    try:
        return set(inspect.signature(call).parameters), hints
    except ValueError as error:
        raise ConfigError(f"{path}._target_ is {target}, which takes no arguments by name") from error


def _find(target: Any, path: str) -> Any:
    """Return the class that a target names; only targets that are allowed are imported."""
    where = f"{path}._target_" if path else "_target_"
    own = tuple(filter(None, os.environ.get(OWN, "").split(",")))
    group, *inner = re.split(r"[.\[]", path)
    # Few classes may be named inside a part of a network: a backbone there could load weights from anywhere.
    place = path if group == "model" and len(inner) > 1 else group
    allowed = (*TARGETS.get(place, ()), *own)
    packages = {module.partition(".")[0] for module in allowed}
    refused = ConfigError(
        f"{where} names {target}, which is not allowed: name a class of {', '.join(allowed) or 'no module'}, "
        f"or of your own package, after adding that to the environment variable {OWN}"
    )
    if not isinstance(target, str) or target.partition(".")[0] not in packages:
        raise refused
    if target.startswith("torch.") and not _within(target, allowed):
        raise refused
    try:
        call = get_object(target)
    except Exception as error:
        raise ConfigError(f"{where} names {target}, which cannot be imported: {error}") from error
    # Judged by the module that defines it: any module also contains what it imports, such as `os`.
    home = str(getattr(call, "__module__", ""))
    if not (inspect.isclass(call) or _within(home, own)) or not _within(home, allowed):
        raise refused
    return call


def _within(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def require_known_targets(node: Any, path: str) -> None:
    """Raise a ConfigError if a resolved node names, at any depth, a target that is not allowed."""
    if isinstance(node, str) and "${" in node:
        # Hydra would resolve this again, into a node that has not been checked.
        raise ConfigError(f"{path} is {node!r}: a value must not be an interpolation once it is resolved")
    if isinstance(node, dict):
        if "_target_" in node:
            _find(node["_target_"], path)
        for key, value in node.items():
            require_known_targets(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, item in enumerate(node):
            require_known_targets(item, f"{path}[{i}]")


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_target, value.values()))
    return isinstance(value, list) and any(map(_has_target, value))


def _check_value(value: Any, hint: Any, full_key: str) -> None:
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(e["msg"].lower() for e in error.errors()))
        raise _WrongValue(full_key, f"{value!r}: {reason}") from error
    except PydanticUserError:
        pass  # pydantic has no schema for this type; the constructor checks the value


def check_batch_statistics(config: DictConfig, *, ranks_on_cpu: bool) -> None:
    """Refuse synchronised batch normalisation on the CPU, which torch only refuses at the first batch.

    Raises:
        ConfigError: ``trainer.sync_batchnorm`` is true, and the run is of ``ranks_on_cpu``.
    """
    if config.trainer.sync_batchnorm and ranks_on_cpu:
        raise ConfigError(
            "trainer.sync_batchnorm is true for processes on the CPU, where torch cannot do it: set it to "
            "false, or trainer.accelerator=gpu"
        )
