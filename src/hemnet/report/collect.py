"""Reading run directories: what each run is, how it ended, and what it measured.

Shapes: S logged steps; a curve is (S, 2): optimizer step and value.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hemnet.errors import HemnetError
from hemnet.runs.evaluations import results_of
from hemnet.runs.finding import find_runs
from hemnet.runs.identity import Identity, debugging, identity
from hemnet.runs.phases import PER_ITERATION, phases
from hemnet.runs.run import Run
from hemnet.runs.run_settings import settings
from hemnet.sweeps.jobs import CONSOLE, last_lines

MARKS = ("config.yaml", CONSOLE)
"""Files that mark a run directory; a job of a sweep that failed before training has only the second."""
WANTED = re.compile(rf"val/miou$|cost/|gradient/backbone/|{PER_ITERATION.pattern}")
MOST_POINTS = 200
# What the chapters use of a run's files.
RESULT = {
    "metrics": dict,
    "seconds": int | float,
    "steps": int | float,
    "warnings": list,
    "labelled_pixels": dict,
}
ENVIRONMENT = {"git": dict}


@dataclass
class Record:
    """What the report uses of one run.

    Attributes:
        path: the run directory.
        identity: recipe, head, T, h, seed and sweep.
        config: resolved, as nested plain containers.
        settings: those on which the outcome depends, see `hemnet.runs.run_settings`.
        status: ``finished``, ``failed``, ``preempted``, ``unfinished`` (no result: running or killed), or
            ``debug`` (finished, but limited to try the code).
        error: message of a run that failed, or why it does not count.
        result: result.json, {} if there is none.
        environment: environment.json, {} if there is none.
        scores: final scores, NaN where result.json has null.
        curves: (S, 2) per other metric of `WANTED`, thinned to at most `MOST_POINTS`.
        phases: ``family`` -> (3, t+1): mean over each phase of training, per iteration.
        cost: the last value of each ``cost/*``.
        evaluated: ``val/miou`` of the last checkpoint by the T that `hemnet.evaluate` used.
        superseded: whether a later run has the same settings and seed.
    """

    path: Path
    identity: Identity
    config: dict[str, Any]
    settings: dict[str, str]
    status: str
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    phases: dict[str, np.ndarray] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    evaluated: dict[int, float] = field(default_factory=dict)
    superseded: bool = False

    @property
    def miou(self) -> float:
        """The final ``val/miou``; NaN if there is none."""
        return self.scores.get("val/miou", float("nan"))


@dataclass(frozen=True)
class Unreadable:
    """A run directory that cannot be read, and why."""

    path: Path
    error: str


def collect(folders: Sequence[Path]) -> tuple[list[Record], list[Unreadable]]:
    """Read every run at or below the folders, in the order of their paths.

    Raises:
        HemnetError: a folder is missing, or there is no run in any.
    """
    records: list[Record] = []
    unreadable: list[Unreadable] = []
    for path in sorted({path for folder in folders for path in find_runs(folder, MARKS)}):
        try:
            records.append(read(path))
        except Exception as error:  # one bad run must not prevent the report on the others
            unreadable.append(Unreadable(path, f"{type(error).__name__}: {error}"))
    if not records and not unreadable:
        named = " ".join(map(str, folders))
        raise HemnetError(f"no run in {named}: train first (hemnet train), or name other folders")
    return records, unreadable


def read(path: Path) -> Record:
    """Read one run directory.

    Raises:
        Exception: of any type; anything can be wrong with the files.
    """
    if not (path / "config.yaml").is_file():
        raise HemnetError(f"it did not begin: {(last_lines(path / CONSOLE) or ['no reason was given'])[-1]}")
    run = Run.open(path)
    config: Any = OmegaConf.to_container(run.config, resolve=False)
    result = _json(path / "result.json", RESULT)
    environment = _json(path / "environment.json", ENVIRONMENT)
    if "extended" in environment:  # its learning rates are not those of a run that was as long from the start
        config["extended"] = environment["extended"]
    record = Record(
        path,
        identity(run.config),
        config,
        settings(config),
        status=str(result.get("status", "unfinished")),
        error=str(result.get("error", "")),
        result=result,
        environment=environment,
        scores={k: _number(v) for k, v in (result.get("metrics") or {}).items()},
    )
    if record.status == "finished" and (limits := debugging(run.config)):
        record.status, record.error = "debug", f"limited by {', '.join(limits)} to try the code"
    if record.status == "finished":
        _read_metrics(record, run)
        record.evaluated = {
            T: miou
            for T, result in results_of(path).items()
            if T is not None and isinstance(miou := result["metrics"].get("val/miou", math.nan), int | float)
        }
    return record


def _json(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object, {} without a file; an entry in ``kinds`` is of that kind, or null."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind | None):
            raise ValueError(f"{name} in {path.name} is {content[name]!r}, which hemnet does not write")
    return content


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _read_metrics(record: Record, run: Run) -> None:
    curves = run.curves(WANTED.match)
    record.phases = phases(curves)
    for name, curve_S2 in curves.items():
        if name.startswith("cost/"):
            record.cost[name] = float(curve_S2[-1, 1])
        elif not PER_ITERATION.match(name):
            record.curves[name] = _thinned(curve_S2)


def _thinned(curve_S2: np.ndarray) -> np.ndarray:
    """Return at most `MOST_POINTS` points, each the mean of neighbouring points."""
    if len(curve_S2) <= MOST_POINTS:
        return curve_S2
    return np.array([chunk.mean(axis=0) for chunk in np.array_split(curve_S2, MOST_POINTS)])
