"""Composes the configuration of a run from the parts in ``conf/`` and the recipes in ``experiments/``.

A recipe is one file, ``experiments/NAME.yaml``, and is chosen with ``experiment=NAME``.
"""

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemnet.config.check import absolute_path, check
from hemnet.config.explain import explain
from hemnet.config.overrides import readable
from hemnet.config.paths import CONF, parts, recipes
from hemnet.config.resuming import require_run, resumed
from hemnet.errors import HemnetError
from hemnet.processes.launch import in_slurm
from hemnet.runs.identity import job_name

log = logging.getLogger(__name__)


# The resolvers of conf/. A job on a cluster imports this module, and has them without calling a function.
def _run_id() -> str:
    """Return a name that no other run has: the time, and a random part that tells apart runs of one second.

    Ranks that torchrun or SLURM started must agree on the name of their run, so they take it from the number
    of their job. A job that SLURM requeues keeps its number, and so resumes the same run.
    """
    if in_slurm() and os.environ["SLURM_NTASKS"] != "1":
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_STEP_ID', '0')}"
    if os.environ.get("WORLD_SIZE", "1") != "1":
        shared = os.environ.get("TORCHELASTIC_RUN_ID", "none")
        if shared == "none":
            raise HemnetError("processes that were started apart cannot agree on a name: give run_dir=..")
        return f"torchrun-{shared}"
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


OmegaConf.register_new_resolver("hemnet.run_id", _run_id, use_cache=True, replace=True)
OmegaConf.register_new_resolver("hemnet.job_name", job_name, replace=True)


def _place(resume: str | None, fresh: str) -> str:
    """Return the run directory: Hydra's for a job of a sweep, else that of a resumed run, else ``fresh``."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return str(HydraConfig.get().runtime.output_dir)
    if resume in (None, "auto"):
        return fresh
    require_run(str(resume))
    return str(resume)


if not os.environ.get("HEMNET_DATA", "data"):  # an empty variable is as none, and not the root of the disk
    del os.environ["HEMNET_DATA"]
OmegaConf.register_new_resolver("hemnet.place", _place, replace=True)
OmegaConf.register_new_resolver("hemnet.absolute", absolute_path, replace=True)


def _parts() -> str:
    """Return each group with its options, a line each, for --help; Hydra's own list takes seconds."""
    files = [
        path.relative_to(CONF)
        for path in sorted(CONF.glob("*/**/*.yaml"))
        if path.relative_to(CONF).parts[0] != "hydra"
    ]
    groups: dict[str, list[str]] = {}
    for group, name in [*((file.parent.as_posix(), file.stem) for file in files), *parts()]:
        groups.setdefault(group, []).append(name)
    groups |= {"experiment": sorted(recipes()), "sweep": sorted(recipes("sweeps"))}
    return "\n".join(f"{group}: {', '.join(options)}" for group, options in sorted(groups.items()))


OmegaConf.register_new_resolver("hemnet.parts", _parts, replace=True)


def register_recipes() -> None:
    """Make known to Hydra the recipes and sweeps, and the parts that are not hemnet's own.

    They are those shipped, those of the user's packages, and those of the working folder. A file
    ``conf/GROUP/NAME.yaml`` is chosen with ``GROUP=NAME``, unless hemnet has an option of that name.

    ``experiments/NAME.yaml`` is chosen with ``experiment=NAME``, which also sets ``name: NAME``.
    ``experiments/sweeps/NAME.yaml`` is chosen with ``sweep=NAME``, which also sets ``sweep: NAME``, goes on
    with the jobs that exist, and keeps them in a folder of that name.

    A file that cannot be read as YAML, or holds no keys, is left out with a warning: it may be another
    program's, or not the one that is asked for.
    """
    for path in recipes().values():
        register_recipe(path)
    for name, path in recipes("sweeps").items():
        place = {"sweep": {"dir": "${runs}/sweeps/" + name}}
        _register("sweep", path, {"sweep": name, "resume": "auto", "hydra": place})
    for (group, _), path in parts().items():
        package = re.search(r"^#\s*@package\s+(\S+)", path.read_text("utf-8", "replace"), re.MULTILINE)
        _register(group, path, {}, package[1] if package else None)


def register_recipe(path: Path) -> None:
    """Make one recipe known to Hydra, a file in any folder, as ``experiment=STEM``."""
    _register("experiment", path, {"name": path.stem})


def _register(group: str, path: Path, added: dict[str, Any], package: str | None = "_global_") -> None:
    try:
        node = OmegaConf.merge(OmegaConf.load(path), added)
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
        log.warning("%s is no %s, and is left out: %s", path, group, " ".join(str(error).split()))
        return
    ConfigStore.instance().store(
        group=group, name=path.stem, node=node, package=package, provider="experiments"
    )


def load(overrides: list[str]) -> DictConfig:
    """Compose the training configuration as ``hemnet train OVERRIDES`` does, and check it.

    Raises:
        ConfigError: an override, a recipe or a part of the configuration is wrong.
    """
    config = compose_only(overrides)
    check(config)
    return config


def compose_only(overrides: list[str]) -> DictConfig:
    """Compose the training configuration without checking it.

    Raises:
        ConfigError: an override or a recipe is wrong.
    """
    readable_overrides = readable(overrides)
    with _composing():
        return resumed(compose("train", readable_overrides), readable_overrides)


def other_data(name: str, own: DictConfig) -> DictConfig:
    """Return the node of ``data=NAME``, to evaluate a run on another data set than its own.

    The network is given images as in the run: `eval_transform` is the run's, and so is `num_workers`.

    Args:
        name: of the data set, as in training.
        own: the node ``data`` of the run.

    Raises:
        ConfigError: there is no such data set.
    """
    with _composing():
        node = compose("train", [f"data={name}"]).data
    kept = [key for key in ("eval_transform", "num_workers") if key in own]
    for key in kept:
        node[key] = OmegaConf.masked_copy(own, key)[key]
    return node


@contextmanager
def _composing() -> Iterator[None]:
    """Let Hydra find `conf/` and what is the user's own in the block, and raise its errors as ConfigError."""
    register_recipes()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="train"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
