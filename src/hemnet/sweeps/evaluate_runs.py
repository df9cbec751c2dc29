"""The evaluation of many runs, each in its own process, without repeating finished evaluations."""

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from hemnet.config.machine import on_this_machine
from hemnet.config.paths import recipe
from hemnet.config.trained import ITERATIONS, override
from hemnet.errors import HemnetError
from hemnet.runs.evaluations import FOLDER, finished
from hemnet.runs.finding import find_runs
from hemnet.runs.identity import PLAIN_HEADS, debugging, identity
from hemnet.runs.outputs import changes, elsewhere, output_name
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.places import absolute
from hemnet.sweeps.jobs import Evaluation
from hemnet.sweeps.pool import Slot
from hemnet.sweeps.sweep import run_and_report, slots_for
from hemnet.wording import one_line


def read_sweep(name: str) -> tuple[list[Path], list[int]]:
    """Return the folders of runs and the values of T in ``experiments/evaluations/NAME.yaml``.

    Raises:
        HemnetError: there is no such file, or it has other keys.
    """
    path = recipe("evaluations", name)
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict) or content.keys() != {"runs", "iterations"}:
        raise HemnetError(f"{path} must have runs, a folder, and iterations, a list, and nothing else")
    return [absolute(content["runs"])], list(content["iterations"])


def evaluate_runs(
    folders: Sequence[Path],
    which: Checkpoint,
    assignments: Sequence[str],
    *,
    iterations: Sequence[int] = (),
    parallel: int | None = None,
    worst: int = 0,
) -> None:
    """Evaluate every finished run at or below the folders, several at a time, without repeating evaluations.

    The file jobs.csv in the folder ``evaluation`` beside the runs shows the state. If ``iterations`` are
    given, runs without an EM layer are skipped.

    Args:
        folders: run directories, or folders that hold some.
        which: the checkpoint to evaluate.
        assignments: ``key=value`` changes to the configuration of every run.
        iterations: the numbers T of EM iterations to evaluate every run with; none means the T of the run.
        parallel: how many evaluations to run at a time, see `hemnet.sweeps.pool.make_slots`.
        worst: how many of the worst images to show.

    Raises:
        HemnetError: a folder is missing, there is no run in any, or evaluations failed, which the message
            names; the others are done.
    """
    paths = find_runs(folders)
    if not paths:
        raise HemnetError(f"no run in {' '.join(map(str, folders))}: train first, or name other folders")
    top = Path(os.path.commonpath([path.parent for path in paths]))
    jobs = [Evaluation(str(path.relative_to(top)), path / FOLDER, []) for path in paths]
    slots: list[Slot] = []
    content_at = cache(_content)  # many runs share a data set
    for job, path in zip(jobs, paths, strict=True):
        try:
            run = Run.open(path)
            config = override(run.config, assignments, "evaluate", ITERATIONS if iterations else ())
            job.overrides = _arguments(run, config, which, assignments, iterations, worst, content_at)
            slots = slots or slots_for(on_this_machine(config, assignments), parallel, None)
        except _NothingToDo as reason:
            job.status, job.error = "skipped", str(reason)
        except HemnetError as error:
            job.status, job.error = "failed", str(error)
        except Exception as error:  # of any type: a damaged run must not keep the others from evaluation
            job.status, job.error = "failed", f"{path} cannot be read as a run ({one_line(error)})"
    run_and_report(jobs, slots, top / FOLDER)


def _content(data: str) -> str:
    """Return the hash of the evaluated images of a configuration's key ``data``, or its readers, as YAML."""
    from hemnet.config.build import build_reader  # here, and below: slow to import
    from hemnet.data.readers import content_of

    return content_of(build_reader(OmegaConf.create({"data": OmegaConf.create(data)}), "val"))


class _NothingToDo(Exception):
    """Why a run is skipped."""


def _arguments(
    run: Run,
    config: DictConfig,
    which: Checkpoint,
    assignments: Sequence[str],
    iterations: Sequence[int],
    worst: int,
    content_at: Callable[[str], str],
) -> list[str]:
    """Return the arguments of `hemnet.evaluate` for the evaluations of a run that are still missing."""
    from hemnet.config.build import build_inference

    if run.status != "finished":
        raise _NothingToDo(f"it has not finished: {run.status or 'no result yet'}")
    if limits := debugging(run.config):
        raise _NothingToDo(f"it counts nowhere, because of {', '.join(limits)}")
    about = identity(run.config)
    if iterations and about.head in PLAIN_HEADS.values():  # of a user's own head, its evaluation tells
        raise _NothingToDo(f"{about.head} has no EM layer, and so no T")
    run.checkpoint(which)  # an error if there is none
    name = output_name(which, build_inference(config).settings, changes(run.config, config))
    content = None
    if elsewhere(run.config, config):
        images = OmegaConf.masked_copy(config.data, {"root", "train", "val"} & config.data.keys())
        content = partial(content_at, OmegaConf.to_yaml(images, resolve=True))
    done = finished(run.path, name, content, worst)
    wanted: Sequence[int | None] = iterations or [None]
    left = [str(T) for T in wanted if T not in done]
    if not left:
        raise _NothingToDo("")
    how = ["--iterations", *left] if iterations else []
    return [str(run.path), *how, "--checkpoint", which, "--worst", str(worst), *assignments]
