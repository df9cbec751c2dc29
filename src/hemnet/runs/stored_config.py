"""Reading config.yaml of a run: of any version of hemnet, and from people who are not trusted."""

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from hemnet.errors import HemnetError
from hemnet.runs.moved import moved
from hemnet.runs.own_packages import recall
from hemnet.runs.renamed import with_present_names
from hemnet.wording import one_line

PARTS = ("name", "seed", "data", "model", "optim", "task", "trainer")
"""The keys that the configuration of every run has, whichever version of hemnet wrote it."""
DEEPEST = 50
_PARSERS = (yaml.cyaml.CParser,) if yaml.__with_libyaml__ else ()


class _Loader(*_PARSERS, get_yaml_loader()):  # type: ignore[misc]
    """The YAML loader that OmegaConf reads files with, on the parser in C, which is five times as fast."""

    def __init__(self, text: str) -> None:
        if not _PARSERS:
            super().__init__(text)
            return
        yaml.cyaml.CParser.__init__(self, text)
        yaml.constructor.SafeConstructor.__init__(self)
        yaml.resolver.Resolver.__init__(self)


def read_config(path: Path) -> DictConfig:
    """Return the configuration in a run's file, with today's name in every ``_target_``.

    Paths in the run's folder, but those of data, are in the folder where it lies now.

    The run's own packages are allowed from here on, see `hemnet.runs.own_packages.recall`.

    Raises:
        HemnetError: the file cannot be read, or is not the configuration of a run.
    """
    try:
        text = path.read_text("utf-8")
        _require_tree(text)
        tree = yaml.load(text, _Loader)
        if not isinstance(tree, dict):
            raise ValueError("it has no keys")
        run_dir, here = str(tree.get("run_dir") or ""), str(path.parent)
        tree = {key: node if key == "data" else moved(node, run_dir, here) for key, node in tree.items()}
        config = OmegaConf.create(with_present_names(tree))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise HemnetError(
            f"{path}: not the configuration of a run ({one_line(error)}): restore the file"
        ) from error
    recall(path.parent / "environment.json")
    return config


def _require_tree(text: str) -> None:
    """Raise a ValueError for YAML with aliases or deep nesting.

    OmegaConf copies the content of each alias, so a short file could take for ever to load.
    """
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError(f"it has YAML aliases, or more than {DEEPEST} levels, which no run writes")
