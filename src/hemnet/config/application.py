"""``hemnet train`` as an application of Hydra: what happens before Hydra starts, and after a run has failed.

Hydra makes the run's folder and its run.log before the configuration is checked, and prints a line of its own
about an error that leaves the run. Here, a run that did not begin leaves no folder, and its error is printed
once, by `hemnet.config.command_line.run_entry`.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemnet.config.check import absolute_path
from hemnet.config.compose import register_recipes
from hemnet.config.explain import explain
from hemnet.config.overrides import for_hydra, parse_override
from hemnet.config.paths import CONF
from hemnet.storage.places import absolute

_failures: list[Exception] = []
_existing: set[Path] = set()


def start(application: Callable[[], object]) -> None:
    """Run a function that ``hydra.main`` has decorated, on the arguments of this process.

    Raises:
        ConfigError: Hydra refuses an argument or the configuration.
        Exception: that of the run, see `as_job`.
    """
    if {"--help", "-h"} & {*sys.argv[1:]}:
        # Hydra would compose the configuration, and copy it a hundred times to list the groups.
        print(OmegaConf.load(CONF / "train.yaml").hydra.help.template)
        sys.exit(0)
    sys.argv[1:] = for_hydra(sys.argv[1:])
    register_recipes()
    _existing.update(_folders(sys.argv[1:]))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises its errors, and `explain` sees them
    try:
        application()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    except (OSError, ValueError) as error:  # from Hydra, which makes the run's folder and run.log
        from hemnet.config.refusals import refusal  # here, as it takes seconds, which others do without

        if (said := refusal(error, {}, "run_dir")) is None:
            raise
        raise said from error
    if _failures:
        raise _failures.pop()


def as_job(task: Callable[[DictConfig], float], config: DictConfig) -> float:
    """Return the result of a task; an error of it is kept for `start` to raise, and NaN is returned.

    In a multirun the error is raised here, to the launcher.
    """
    try:
        return task(config)
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        _remove_if_unused(Path(HydraConfig.get().runtime.output_dir))
        _failures.append(error)
        return math.nan


def _folders(words: list[str]) -> set[Path]:
    """Return the folders that exist already, of those in which the command can make a run."""
    given = [word for word in words if word.startswith(("run_dir=", "runs="))]
    parsed = [parse_override(word) for word in given]
    places = [Path(absolute_path(str(each.value()), each.key_or_group)) for each in parsed] + [
        absolute("runs")
    ]
    return {folder for place in places for folder in (place, *place.parents) if folder.exists()}


def _remove_if_unused(folder: Path) -> None:
    """Remove what Hydra has made for a run that did not begin: run.log, and folders with nothing else."""
    if not {*os.listdir(folder)} <= {"run.log"}:
        return
    (folder / "run.log").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # of the first folder that is not empty
        for made in (folder, *folder.parents):
            if made in _existing:
                return
            made.rmdir()
