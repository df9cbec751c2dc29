"""Errors in a configuration: they name the key, and suggest a similar one."""

from collections.abc import Collection
from difflib import get_close_matches

from hydra.errors import MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from hemnet.config.paths import recipes
from hemnet.errors import HemnetError


class ConfigError(HemnetError):
    """A key, value or choice of the configuration is wrong."""


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
            what = unknown_key(key, {str(k) for k in parent})
            return ConfigError(f"{what}. An argument that conf/ leaves at its default is set by +{key}=VALUE")
        if isinstance(cause, OmegaConfBaseException) and key:
            return ConfigError(f"{key}: {str(cause).splitlines()[0]}")
        cause = cause.__cause__
    return ConfigError(str(error))


def unknown_key(full_key: str, known: Collection[str]) -> str:
    """Return what is wrong with a key that is none of the ``known`` ones of its node."""
    if full_key == "experiment":
        return (
            "the keys of the recipe experiment=.. are under `experiment`, since its file lacks the line "
            "`# @package _global_` at the top: add it, or put the file into ./experiments, which need none"
        )
    prefix, _, key = full_key.rpartition(".")
    dot = f"{prefix}." if prefix else ""
    return f"unknown key {full_key}: {nearest(key, known, dot)}"


def nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    """Return a hint for an unknown name: the most similar of the known ones, or all of them."""
    near = get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(known))}"
