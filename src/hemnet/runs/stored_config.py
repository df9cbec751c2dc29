"""Reading config.yaml of a run: of any version of hemnet, and from people who are not trusted."""

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemnet.errors import HemnetError
from hemnet.runs.own_packages import recall
from hemnet.runs.renamed import with_present_names

DEEPEST = 50


def read_config(path: Path) -> DictConfig:
    """Return the configuration in a run's file, with today's name in every ``_target_``.

    The run's own packages are allowed from here on, see `hemnet.runs.own_packages.recall`.

    Raises:
        HemnetError: the file cannot be read, or is not the configuration of a run.
    """
    try:
        _require_tree(path.read_text("utf-8"))
        config = OmegaConf.create(with_present_names(OmegaConf.to_container(OmegaConf.load(path))))
        if not isinstance(config, DictConfig):
            raise ValueError("it has no keys")
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise HemnetError(
            f"{path}: not the configuration of a run ({' '.join(str(error).split())[:300]}): restore the file"
        ) from error
    recall(path.parent / "environment.json")
    return config


def _require_tree(text: str) -> None:
    """Raise a ValueError for YAML with aliases or deep nesting.

    OmegaConf copies the content of each alias, so a short file could take for ever to load.
    """
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError(f"it has YAML aliases, or more than {DEEPEST} levels, which no run writes")
