"""A search: an Optuna study whose trials are runs, each in its own process."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from hemnet.config.compose import load
from hemnet.errors import HemnetError
from hemnet.runs.identity import differences
from hemnet.runs.redaction import redacted
from hemnet.runs.run import Run
from hemnet.storage.files import write_table
from hemnet.sweeps.jobs import Job
from hemnet.sweeps.sweep import failures

if TYPE_CHECKING:  # an optional extra, and slow to import
    import optuna
    from optuna.distributions import BaseDistribution

CONFIG = "config"
"""The study's user attribute that holds the configuration of its trials, without their suggestions."""


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

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Return the ranges as Optuna has them, and as it keeps them with each trial."""
        return {key: _distribution(spec) for key, spec in self.ranges.items()}

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


def _distribution(spec: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(spec, list):
        return CategoricalDistribution(spec)
    low, high, log = spec["low"], spec["high"], bool(spec.get("log", False))
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log)
    return FloatDistribution(low, high, log)


class Search:
    """An Optuna study whose trials are runs, all of one configuration but for the keys of the search space.

    Args:
        name: the name of the search.
        recipe: the content of its file.
        assignments: further overrides of every trial.
        folder: the folder of the study and its runs; None is that of the search in the folder ``runs``.

    Attributes:
        config: the configuration of the trials, without their suggestions.

    Raises:
        HemnetError: the recipe has missing or unknown keys, Optuna is not installed, or the study in the
            folder has trials of another configuration or search space.
    """

    def __init__(
        self, name: str, recipe: DictConfig, assignments: Sequence[str], folder: Path | None = None
    ) -> None:
        unknown = recipe.keys() - {"experiment", "trials", "overrides", "space"}
        if unknown or not {"experiment", "trials", "space"} <= recipe.keys():
            raise HemnetError(
                f"the search {name} must have experiment, trials and space, and may have overrides; "
                f"unknown: {', '.join(sorted(map(str, unknown))) or 'none'}"
            )
        content: Any = OmegaConf.to_container(recipe, resolve=True)
        self.trials = int(content["trials"])
        self.space = Space(content["space"])
        self.overrides = _last_wins(
            [f"experiment={content['experiment']}", *content.get("overrides", []), *assignments]
        )
        self.config = redacted(load(self.overrides))
        self.folder = folder or Path(self.config.runs) / "searches" / name
        self.jobs: list[Job] = []
        self._study = self._open()
        self._require_same()

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

    def _require_same(self) -> None:
        """Refuse to go on with the study of another search; the scores of its trials are not comparable."""
        wanted = self.space.distributions()
        for trial in self._study.trials:
            if trial.distributions and trial.distributions != wanted:
                keys = wanted.keys() | trial.distributions.keys()
                changed = sorted(key for key in keys if trial.distributions.get(key) != wanted.get(key))
                self._refuse(
                    f"space.{changed[0]}", trial.distributions.get(changed[0]), wanted.get(changed[0])
                )
        for recorded, config in self._recorded():
            # The experiment's name first, then short keys: others follow from them.
            changed = sorted(differences(recorded, config), key=lambda key: key.count("."))
            for key in ("name", "data.root", *changed):
                values = [OmegaConf.select(content, key) for content in (recorded, config)]
                if values[0] != values[1]:
                    self._refuse("experiment" if key == "name" else key, *values)

    def _refuse(self, key: str, before: object, now: object) -> NoReturn:
        raise HemnetError(
            f"the trials in {self.folder} are of another search: {key} is {before} there, and {now} here. "
            "Give runs=FOLDER for a study of its own, or the former value"
        )

    def _recorded(self) -> Iterator[tuple[DictConfig, DictConfig]]:
        """Yield configurations of the study's trials, each with what this search would make of it.

        The study has one as a user attribute. Older versions did not write that, but each trial has its own.
        """
        if (known := self._study.user_attrs.get(CONFIG)) is not None:
            if self._study.trials:
                yield OmegaConf.create(known), self.config
            return
        for trial in self._study.trials:
            path = self.folder / _name(trial.number)
            if (path / "config.yaml").is_file():
                yield Run.open(path).config, redacted(load([*self.overrides, *_chosen(trial.params)]))

    def jobs_to_run(self, total: int) -> Iterator[Job]:
        """Yield the trials that a stopped search left unfinished, then new ones until there are ``total``.

        The caller must be the only process that works in the folder.
        """
        import optuna

        self._require_same()  # again, since another process may have begun the study before this one's lock
        self._study.set_user_attr(CONFIG, OmegaConf.to_container(self.config))
        for left in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            if left.params.keys() == self.space.ranges.keys():
                yield self._job(left.number, left.params)
            else:  # the process was killed while it made the suggestions
                self._study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        while len(self._study.trials) < total:
            trial = self._study.ask(self.space.distributions())
            yield self._job(trial.number, trial.params)

    def _job(self, number: int, suggested: Mapping[str, Any]) -> Job:
        name = _name(number)
        self.jobs.append(Job(name, self.folder / name, [*self.overrides, *_chosen(suggested)]))
        return self.jobs[-1]

    def tell(self, job: Job) -> None:
        """Report a trial's score to the study; a trial without a score, or with NaN, has failed.

        So has one whose directory holds another run: the score there is not the trial's.
        """
        import optuna

        number = int(job.name.removeprefix("trial-"))
        miou = None if job.status == "failed" else job.miou
        if miou is None or math.isnan(miou):
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(number, miou)
        self.write()

    def write(self) -> None:
        """Write trials.csv, the best first."""
        trials = sorted(self._study.trials, key=lambda t: math.inf if t.value is None else -t.value)
        rows = [
            [_name(t.number), t.state.name, t.value, *map(t.params.get, self.space.ranges)] for t in trials
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
            reason = failures(self.jobs) or "; ".join(sorted({job.error for job in self.jobs if job.error}))
            raise HemnetError(
                f"no trial in {self.folder} has a score:\n  {reason or 'none was run'}"
            ) from error


def _name(number: int) -> str:
    return f"trial-{number:04d}"


def _chosen(suggested: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in suggested.items()]


def _last_wins(overrides: Sequence[str]) -> list[str]:
    """Return the last override of each key; Hydra refuses repeated ones."""
    return list({override.partition("=")[0]: override for override in overrides}.values())
