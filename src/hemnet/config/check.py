"""Checks every key and plain value of a configuration against the constructor that will receive it."""

import re
from pathlib import Path
from typing import Annotated, Any, get_args

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from hemnet.config.explain import ConfigError, explain, unknown_key
from hemnet.config.targets import INSTANTIATE_KEYS, signature
from hemnet.runs.redaction import learn
from hemnet.storage.places import absolute

GROUPS = ("data", "model", "optim", "task", "inference", "trainer", "callbacks", "logger")
# The nodes without a constructor, and the keys that each may have; None allows any key.
CONTAINERS: dict[str, set[str] | None] = {
    "": {"name", "sweep", "seed", "runs", "run_dir", "resume", "finetune", "conclusive", *GROUPS},
    "model": {"backbone", "head", "auxiliary", "num_components", "highway_scale", "mask_padding"},
    "callbacks": None,
    "logger": None,
}
# The types of the values at the top, which have no constructor. numpy's generators take such seeds alone.
TOP: dict[str, Any] = {
    "name": str | int | float, "runs": str, "run_dir": str, "seed": Annotated[int, Field(ge=0, lt=2**32)],
    "resume": str | None, "finetune": str | None, "conclusive": Annotated[bool, Field(strict=True)],
}  # fmt: skip
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
# The paths among the keys that have no constructor; elsewhere a path is a parameter whose type admits a Path.
PATHS = {"runs", "run_dir", "resume", "finetune", "data.root"}
# Values of such keys that are no paths. URLs are none either.
NO_PATHS = {"auto", "imagenet"}


def check(config: DictConfig) -> None:
    """Check every key and plain value against the constructor that will receive it; make paths absolute.

    Relative paths start from the folder in which the command was given, also if Hydra has left it
    (``hydra.job.chdir=true``).

    Raises:
        ConfigError: a key is unknown (the message suggests a similar one), a value or a part is missing or
            has the wrong type, or a ``_target_`` does not exist or is not allowed.
        HemnetError: a path is empty, or begins with ``~user``, and there is no such user.
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
        if (whole := absolute_path(value, key)) != value:
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
        if not isinstance(node := OmegaConf.select(config, key), DictConfig | dict):
            raise ConfigError(f"{key} is {node}: it must have keys, _target_ or others")
    return resolved


def absolute_path(value: str, key: str = "a path") -> str:
    """Return the value of a path's key made absolute; URLs and `NO_PATHS` are returned unchanged.

    Raises:
        HemnetError: the value is empty, or see `absolute`.
    """
    if not value:
        raise ConfigError(f"{key} is empty: write null for none, or . for the working folder")
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
    hints: dict[str, Any] = {} if path else TOP
    known = CONTAINERS.get(path)
    if "_target_" in node:
        known, hints = signature(node["_target_"], path)
        known |= INSTANTIATE_KEYS | SHARED_KEYS.get(path, set())
    for key, value in node.items():
        full_key = f"{path}.{key}" if path else str(key)
        if known is not None and key not in known:
            raise ConfigError(unknown_key(full_key, known - INSTANTIATE_KEYS))
        if key in hints and not _has_target(value):
            _check_value(value, hints[key], full_key)
        if isinstance(value, str) and (full_key in PATHS or _admits_path(hints.get(key))):
            paths[full_key] = value
        _check_node(value, full_key, paths)


def _admits_path(hint: Any) -> bool:
    return hint is Path or any(map(_admits_path, get_args(hint)))


def _has_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_target, value.values()))
    return isinstance(value, list) and any(map(_has_target, value))


def _check_value(value: Any, hint: Any, full_key: str) -> None:
    try:
        read = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        # The constructor gets the value itself, and the text "no" would count as true there.
        if isinstance(read, bool) and isinstance(value, str):
            raise _WrongValue(full_key, f"{value!r}, a text: write true or false")
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(e["msg"].lower() for e in error.errors()))
        raise _WrongValue(full_key, f"{value!r}: {reason}") from error
    except SchemaError as error:  # the type is a protocol, of which only an object can be
        if value is not None or type(None) not in get_args(hint):
            raise _WrongValue(full_key, f"{value!r}: it must have keys, _target_ among them") from error
    except PydanticUserError:
        pass  # pydantic has no schema for this type; the constructor checks the value
