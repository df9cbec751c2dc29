"""The configuration of a resumed run: the one that it was made with, changed by the command line alone."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from hemnet.config.check import absolute_path
from hemnet.config.explain import ConfigError
from hemnet.errors import HemnetError
from hemnet.runs.identity import SHARED, leaves
from hemnet.runs.moved import ROOT, moved
from hemnet.runs.redaction import REDACTED
from hemnet.runs.stored_config import read_config

PATHS = ("callbacks", "logger", "trainer")
"""The parts of a configuration that hold paths inside the run directory."""


def require_run(resume: str) -> Path:
    """Return the run directory that ``resume`` names.

    Raises:
        HemnetError: there is no run.
    """
    path = Path(absolute_path(resume, "resume"))
    if not (path / "config.yaml").is_file():
        raise HemnetError(f"resume={resume}: there is no run; give a run directory, or auto")
    return path


def resumed(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration with which the run that ``resume`` names goes on.

    The run knows its recipe, its data and its options, so that the command need not repeat them. The key of
    each override is taken from the composed configuration, and all others from the run's config.yaml. With
    ``resume`` null or auto the command says everything, and ``config`` is returned as it is.

    Args:
        config: the composed configuration.
        overrides: those of the command line, from which it was composed.

    Raises:
        HemnetError: the run's config.yaml cannot be read, or holds no value of a secret that is not given.
    """
    if config.resume in (None, "auto"):
        return config
    stored = read_config(require_run(config.resume) / "config.yaml")
    for part in PATHS:
        if OmegaConf.select(stored, part) is not None:
            stored[part] = moved(OmegaConf.to_container(stored[part]), stored.get("run_dir"), config.run_dir)
    for override in OverridesParser.create().parse_overrides([*overrides]):
        # The recipe is known by its name, and that of another run is refused.
        key = {"experiment": "name"}.get(override.key_or_group, override.key_or_group.replace("/", "."))
        if key in SHARED:
            _require_same_shared(stored, config, key)
        if key == ROOT:
            stored.data = moved(
                OmegaConf.to_container(stored.data), stored.data.get("root"), config.data.root
            )
        if not key.startswith("hydra"):
            _take(stored, config, key)
    for name in ("run_dir", "resume", "runs", *(name for name in config if name not in stored)):
        _take(stored, config, str(name))  # among them parts that the run's version of hemnet did not have
    return _with_secrets(stored, config)


def _require_same_shared(stored: DictConfig, config: DictConfig, key: str) -> None:
    """Refuse to change a key whose value the run's head has taken when the run was made."""
    own = f"model.head.{key.rpartition('.')[2]}"
    given, before = OmegaConf.select(config, key), OmegaConf.select(stored, own)
    if given not in (before, OmegaConf.select(stored, key)):
        raise ConfigError(f"{key}={given}: the run was made with {own}={before}; leave {key} out")


def _take(stored: DictConfig, config: DictConfig, key: str) -> None:
    """Set a key to its value in ``config``, or remove it if it has been removed there."""
    missing = object()
    value = OmegaConf.select(config, key, default=missing)
    if value is not missing:
        OmegaConf.update(stored, key, value, merge=False, force_add=True)
        return
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(stored, parent) if parent else stored
    if isinstance(node, DictConfig) and name in node:
        del node[name]


def _with_secrets(stored: DictConfig, config: DictConfig) -> DictConfig:
    """Take the secrets, which are not stored, from the composed configuration."""
    for key, value in leaves(OmegaConf.to_container(stored)):
        if isinstance(value, str) and REDACTED in value:
            given = OmegaConf.select(config, key)
            if given is None:
                raise ConfigError(f"{key} is a secret, which the run does not hold: give it again, {key}=..")
            OmegaConf.update(stored, key, given)
    return stored
