"""Names of a sweep and of its jobs, which the same command gives again: so it finds what it has done."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from hemnet.runs.identity import below, differences, is_placement, job_name
from hemnet.runs.redaction import is_secret, redacted
from hemnet.runs.run import Run

Jobs = Sequence[Sequence[str]]
"""The overrides ``key=value`` of each job."""
Compose = Callable[[Sequence[str]], DictConfig]
"""Returns the configuration of a job from its overrides."""


def sweep_name(overrides: Iterable[str]) -> str:
    """Return the folder's name of a multirun without a file: its axes, and a digest of what else it sets.

    Further values of an axis do not change the name; they are further jobs in the same folder.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    counted = [each for each in parsed if not _is_unnamed(each.get_key_element())]
    axes = sorted(each.get_key_element() for each in counted if each.is_sweep_override())
    rest = sorted(str(each.input_line) for each in counted if not each.is_sweep_override())
    digest = hashlib.sha256("\n".join([*axes, "", *rest]).encode()).hexdigest()[:8]
    return "_".join(["sweep", *(axis.split(".")[-1].replace("/", "-") for axis in axes), digest])


def _is_unnamed(key: str) -> bool:
    return is_placement(key.lstrip("+~")) or is_secret(key)


def job_names(jobs: Jobs, axes: Mapping[str, Sequence[str]], folder: Path, compose: Compose) -> list[str]:
    """Return the name of each job: the keys that vary in the sweep, with the job's values.

    The names have all keys of the jobs if the folder has a run of such a name already, or a run that was made
    with other values of the keys that do not vary.

    Args:
        jobs: the overrides of each job.
        axes: by key, the values that the sweep's file gives to its axes. A key with several varies, also if
            this command gives it one value: a later one may give it others.
        folder: the folder of the sweep.
        compose: composes the configuration of a job.
    """
    everywhere = set.intersection(*map(set, jobs))
    varying = {_key(each) for job in jobs for each in job if each not in everywhere}
    varying |= {key for key, values in axes.items() if len(values) > 1}
    whole = [job_name(job) for job in jobs]
    short = [job_name([each for each in job if _key(each) in varying]) for job in jobs]
    if not varying or any((folder / name / "config.yaml").is_file() for name in {*whole} - {*short}):
        return whole
    for name, job in zip(short, jobs, strict=True):
        constant = [_key(each) for each in job if _key(each) not in varying]
        if (folder / name / "config.yaml").is_file() and constant:
            changed = differences(Run.open(folder / name).config, redacted(compose(job)))
            # The choice of an experiment changes any key, and its name always.
            tops = ["name" if key == "experiment" else key.lstrip("+~").replace("/", ".") for key in constant]
            return whole if any(below(key, tops) for key in changed) else short
    return short


def _key(override: str) -> str:
    return override.partition("=")[0]
