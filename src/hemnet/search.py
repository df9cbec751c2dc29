"""Search for settings with Optuna: ``python -m hemnet.search NAME [key=value ...]``.

``experiments/searches/NAME.yaml`` defines the search. Each trial is a training run in its own process. The
same command continues a search that was stopped.
"""

import hemnet.lab

import argparse
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from hemnet.config import paths
from hemnet.config.command_line import run_entry
from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.storage.files import hold, write_table
from hemnet.sweeps.board import Board
from hemnet.sweeps.jobs import Job
from hemnet.sweeps.pool import run_jobs
from hemnet.sweeps.sweep import slots_for

if TYPE_CHECKING:  # an optional extra, and slow to import
    import optuna

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Space:
    """The search space: configuration keys, each with a range or a list of choices.

    Attributes:
        ranges: by key, a list of choices, or ``{low, high}`` and optionally ``log: true``; if both bounds are
            integers, the values are too.

    Raises:
        HemnetError: a range has another form.
    """

    ranges: dict[str, Any]

    def suggest(self, trial: "optuna.Trial") -> list[str]:
        """Return the overrides that Optuna suggests for a trial."""
        return [f"{key}={self._value(trial, key, spec)}" for key, spec in self.ranges.items()]

    def _value(self, trial: "optuna.Trial", key: str, spec: Any) -> Any:
        if isinstance(spec, list):
            return trial.suggest_categorical(key, spec)
        low, high, log = spec["low"], spec["high"], bool(spec.get("log", False))
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(key, low, high, log=log)
        return trial.suggest_float(key, low, high, log=log)

    def __post_init__(self) -> None:
        for key, spec in self.ranges.items():
            right = bool(spec) and isinstance(spec, list | dict)
            if right and isinstance(spec, dict):
                known = {"low", "high"} <= spec.keys() <= {"low", "high", "log"}
                right = known and spec["low"] < spec["high"]
            if not right:
                raise HemnetError(
                    f"space.{key} is {spec!r}: write {{low: 0.1, high: 10, log: true}}, or a list of choices"
                )


class Search:
    """An Optuna study whose trials are runs.

    Args:
        name: the name of the search.
        recipe: the content of its file.
        assignments: further overrides of every trial.
        folder: the folder of the study and its runs.

    Raises:
        HemnetError: the recipe has missing or unknown keys, or Optuna is not installed.
    """

    def __init__(self, name: str, recipe: DictConfig, assignments: Sequence[str], folder: Path) -> None:
        unknown = recipe.keys() - {"experiment", "trials", "overrides", "space"}
        if unknown or not {"experiment", "trials", "space"} <= recipe.keys():
            raise HemnetError(
                f"the search {name} must have experiment, trials and space, and may have overrides; "
                f"unknown: {', '.join(sorted(map(str, unknown))) or 'none'}"
            )
        content: Any = OmegaConf.to_container(recipe, resolve=True)
        self.folder = folder
        self.trials = int(content["trials"])
        self.space = Space(content["space"])
        self.overrides = _last_wins(
            [f"experiment={content['experiment']}", *content.get("overrides", []), *assignments]
        )
        self.jobs: list[Job] = []
        self._study = self._open()

    def _open(self) -> "optuna.Study":
        try:
            import optuna
        except ImportError as error:
            raise HemnetError("a search needs Optuna: pip install 'hemnet[search]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=f"sqlite:///{self.folder / 'study.db'}", study_name="study", direction="maximize",
            load_if_exists=True,
        )  # fmt: skip
        # constant_liar: trials that run at the same time get different suggestions. The seed changes when a
        # search is continued, so that it does not repeat its first suggestions.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), constant_liar=True)
        return study

    def jobs_to_run(self, total: int) -> Iterator[Job]:
        """Yield the trials that a stopped search left unfinished, then new ones until there are ``total``."""
        import optuna

        for left in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            yield self._job(left.number, [f"{key}={value}" for key, value in left.params.items()])
        while len(self._study.trials) < total:
            trial = self._study.ask()
            yield self._job(trial.number, self.space.suggest(trial))

    def _job(self, number: int, chosen: list[str]) -> Job:
        name = f"trial-{number:04d}"
        self.jobs.append(Job(name, self.folder / name, [*self.overrides, *chosen]))
        return self.jobs[-1]

    def tell(self, job: Job) -> None:
        """Report a trial's score to the study; a trial without a score, or with NaN, has failed."""
        import optuna

        number = int(job.name.removeprefix("trial-"))
        miou = job.miou
        if miou is None or math.isnan(miou):
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, miou)
        self.write()

    def write(self) -> None:
        """Write trials.csv, the best first."""
        trials = sorted(self._study.trials, key=lambda t: math.inf if t.value is None else -t.value)
        rows = [
            [f"trial-{t.number:04d}", t.state.name, t.value, *map(t.params.get, self.space.ranges)]
            for t in trials
        ]
        write_table(self.folder / "trials.csv", ["trial", "state", "val/miou", *self.space.ranges], rows)

    def best(self) -> "optuna.trial.FrozenTrial":
        """Return the best trial.

        Raises:
            HemnetError: none has a score.
        """
        try:
            return self._study.best_trial
        except ValueError as error:
            errors = {job.error for job in self.jobs if job.error}
            raise HemnetError(
                f"no trial in {self.folder} has a score: {'; '.join(sorted(errors)) or 'none was run'}"
            ) from error


def _last_wins(overrides: Sequence[str]) -> list[str]:
    """Return the last override of each key; Hydra refuses repeated ones."""
    return list({override.partition("=")[0]: override for override in overrides}.values())


def search(name: str, assignments: Sequence[str], *, trials: int | None, parallel: int | None) -> Search:
    """Start or continue a search until it has its number of trials; print the best trial.

    Args:
        name: the search, ``experiments/searches/NAME.yaml``.
        assignments: ``key=value`` for every trial; ``runs=FOLDER`` sets where the runs are written.
        trials: the total number of trials; None takes it from the file.
        parallel: how many trials to run at a time, see `hemnet.sweeps.pool.make_slots`.

    Raises:
        HemnetError: the search is unknown or its file is wrong, another process runs it, or no trial has a
            score.
    """
    recipe = OmegaConf.load(paths.recipe("searches", name))
    assert isinstance(recipe, DictConfig)
    config = load(_last_wins([f"experiment={recipe.experiment}", *assignments]))
    found = Search(name, recipe, assignments, Path(config.runs) / "searches" / name)
    busy = f"another search is running in {found.folder}: wait for it or stop it"
    with hold(found.folder / ".lock", busy), Board(found.jobs, found.folder) as board:
        slots = slots_for(config, parallel, None)
        run_jobs(found.jobs_to_run(trials or found.trials), slots, board.update, found.tell)
    best = found.best()
    settings = " ".join(f"{key}={value}" for key, value in best.params.items())
    print(
        f"best of {len(found._study.trials)}: val/miou {best.value:.4f}, trial-{best.number:04d}: {settings}"
    )
    return found


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet search", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the search, experiments/searches/NAME.yaml")
    parser.add_argument("--trials", type=int, help="total number of trials, earlier ones included")
    parser.add_argument(
        "--parallel", type=int, help="trials at a time; default: as many as there are GPUs, or 1"
    )
    parser.add_argument("overrides", nargs="*", help="key=value of every trial, as hemnet.train takes them")
    options = parser.parse_intermixed_args()
    search(options.name, options.overrides, trials=options.trials, parallel=options.parallel)


if __name__ == "__main__":
    run_entry(_entry)
