"""What the command-line entries share: reporting an error, changing a stored config, the score table."""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from hemnet.check import ConfigError, check, explain
from hemnet.errors import HemnetError

USER_ERROR = 2
"""Exit status after an error that its message explains."""


def run_entry(entry: Callable[[], None]) -> None:
    """Run a command; print an error meant for users as one message, without a traceback, and exit with 2."""
    try:
        entry()
    except HemnetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def log_to_terminal() -> None:
    """Send log messages to the terminal, for the entries that write no run.log."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def override(config: DictConfig, assignments: list[str]) -> DictConfig:
    """Return a copy of a stored config with ``key=value`` assignments, in Hydra's grammar, made and checked.

    Raises:
        ConfigError: an assignment has no ``=``, or names a key that the config does not have.
    """
    changed = config.copy()
    OmegaConf.set_struct(changed, True)
    for assignment in assignments:
        if "=" not in assignment:
            raise ConfigError(f"{assignment!r} is no assignment: write key=value, such as data.root=FOLDER")
        try:
            parsed = OverridesParser.create().parse_override(assignment)
            OmegaConf.update(changed, parsed.key_or_group, parsed.value())
        except HydraException as error:
            raise ConfigError(f"{assignment!r} cannot be read: {error}") from error
        except OmegaConfBaseException as error:
            raise explain(error) from error
    check(changed)
    return changed


def print_scores(scores: Mapping[str, float], classes: Sequence[str], title: str) -> None:
    """Print the per-class and overall scores of ``hemnet.metrics.summarize`` as a table, in per cent."""
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name in classes:
        table.add_row(name, _percent(scores[f"val/iou/{name}"]))
    table.add_section()
    for label, key in (
        ("mean IoU", "miou"),
        ("mean accuracy", "mean_accuracy"),
        ("pixel accuracy", "pixel_accuracy"),
    ):
        table.add_row(label, _percent(scores[f"val/{key}"]))
    Console().print(table)


def _percent(score: float) -> str:
    return "absent" if math.isnan(score) else f"{100 * score:.2f}"
