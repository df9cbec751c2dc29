"""Reading run directories: what each run is, how it ended, and what it measured.

Shapes: S logged steps; a curve is (S, 2): optimizer step and value.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hemnet.errors import HemnetError
from hemnet.report import checks
from hemnet.report.record import STATUSES, Record, Unreadable
from hemnet.runs import metrics_csv
from hemnet.runs.evaluations import FOLDER, results_of
from hemnet.runs.finding import find_runs
from hemnet.runs.identity import identity
from hemnet.runs.phases import PER_ITERATION, phases
from hemnet.runs.run import EARLIER_PARTS, ENVIRONMENT, EXTENDED, FINETUNE, GIT, INSTRUCTIONS, RESULT, Run
from hemnet.runs.run_settings import ITERATIONS_EVAL, settings
from hemnet.sweeps.jobs import CONSOLE, last_lines
from hemnet.wording import one_line

CONFIG, METRICS = "config.yaml", "metrics.csv"
WRITTEN = (ENVIRONMENT, METRICS, RESULT)
"""What a run writes after its configuration."""
MARKS = ((CONFIG,), (CONSOLE,), *combinations(WRITTEN, 2))
"""Files that mark a run directory: any of these sets. A job of a sweep that failed before training has only
the second, and a run that lost its configuration one of the others.
"""
SAME_SCORE = 1e-4
"""Most by which one score may differ between two files of a run."""
# What the chapters use of a run's files.
KINDS: dict[str, dict[str, Any]] = {
    RESULT: {
        "metrics": dict,
        "seconds": int | float,
        "steps": int | float,
        "processes": int,
        "warnings": list,
        "labelled_pixels": dict,
        "debug": list,
        "finetune": dict,
    },
    ENVIRONMENT: {
        "command": list,
        GIT: dict,
        INSTRUCTIONS: str,
        **dict.fromkeys(EARLIER_PARTS.values(), list),
        EXTENDED: list,
    },
    FINETUNE: {"sha256": str},
}


def collect(folders: Sequence[Path]) -> tuple[list[Record], list[Unreadable]]:
    """Read every run at or below the folders, in the order of their paths.

    Raises:
        HemnetError: a folder is missing, or there is no run in any.
    """
    records: list[Record] = []
    unreadable: list[Unreadable] = []
    for path in find_runs(folders, MARKS):
        try:
            records.append(read(path))
        except Exception as error:  # one bad run must not prevent the report on the others
            known = isinstance(error, HemnetError)
            unreadable.append(Unreadable(path, str(error) if known else f"{type(error).__name__}: {error}"))
    if not records and not unreadable:
        named = " ".join(map(str, folders))
        raise HemnetError(f"no run in {named}: train first (hemnet train), or name other folders")
    return records, unreadable


def read(path: Path) -> Record:
    """Read one run directory.

    Raises:
        HemnetError: it did not begin, or a file that tells what it is or how it ended is damaged.
        Exception: of any other type; anything can be wrong with the files.
    """
    if not any(os.path.lexists(path / name) for name in (CONFIG, *WRITTEN)):
        said = last_lines(path / CONSOLE) or [
            "its console.log is empty, as while it starts, or if it was killed then"
        ]
        raise HemnetError(f"it did not begin: {said[-1]}")
    result, environment = _json(path / RESULT), _json(path / ENVIRONMENT)
    with checks.reading(RESULT):
        status, scores = _status(result), checks.scores(result.get("metrics") or {})
    with checks.reading(CONFIG):
        if not checks.require_file(path / CONFIG):
            raise ValueError("it is missing, and says what was trained")
    run = Run.open(path)
    doubts, weights = _forget_impossible(result), _weights(path, result)
    with checks.reading(CONFIG):
        checks.require_settings(run.config)
        config: Any = OmegaConf.to_container(run.config, resolve=False)
        own = settings(config, environment.get(EXTENDED) or (), result.get("processes"), weights)
        who = identity(run.config)
        record = Record(path, who, config, own, status, str(result.get("error", "")), result, environment,
                        scores, doubts=doubts)  # fmt: skip
        if status == "finished" and record.limits:
            record.status, record.error = "debug", f"limited by {', '.join(record.limits)} to try the code"
    with checks.reading(RESULT):
        for name, value in (("experiment", who.experiment), ("seed", who.seed)):
            if (told := result.get(name)) is not None and str(told) != str(value):
                raise ValueError(f"{name} is {shown(told)}, and that of config.yaml {shown(value)}")
    if record.status == "finished":
        _read_metrics(record, run)
        _read_evaluations(record)
    return record


def _weights(path: Path, result: Mapping[str, Any]) -> str | None:
    """Return the SHA-256 of the checkpoint that a run was fine-tuned from; None if it recorded none."""
    known = result.get("finetune") or _json(path / FINETUNE)
    weights = known.get("sha256")
    return weights if isinstance(weights, str) else None


def _forget_impossible(result: dict[str, Any]) -> list[str]:
    """Set the entries of a result.json to None that have values which no run has, and return why."""
    doubts = []
    for name, (least, most) in checks.OF_A_RUN.items():
        if (value := result.get(name)) is not None and not checks.within(value, least, most):
            doubts.append(f"{RESULT}: {name} is {shown(value)}, which no run takes: not used")
            result[name] = None
    return doubts


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} without a file; an entry in `KINDS` is of that kind, or null."""
    with checks.reading(path.name):
        if not checks.require_file(path):
            return {}
        content = checks.json_object(path)
        if not content:
            raise ValueError("it is an empty object, which hemnet does not write")
        for name, kind in KINDS[path.name].items():
            if not isinstance(content.get(name), kind | None):
                raise ValueError(f"{name} is {shown(content[name])}, which hemnet does not write")
    return content


def _status(result: Mapping[str, Any]) -> str:
    if not result:
        return "unfinished"
    if (status := result.get("status")) not in STATUSES:
        raise ValueError(f"status is {shown(status)}, and hemnet writes {', '.join(STATUSES)}")
    return str(status)


def _read_metrics(record: Record, run: Run) -> None:
    try:
        with checks.reading(METRICS):
            if not checks.require_file(run.path / METRICS):
                raise ValueError("it is missing")
            if metrics_csv.is_cut(run.path / METRICS):
                raise ValueError("its last row was cut short")
            curves = checks.logged(run.metrics(), record.result.get("steps"), _most_iterations(record))
    except HemnetError as error:
        record.doubts.append(f"{error}. Its scores count, what it logged in training does not")
        return
    _require_own(record, curves.get("val/miou"))
    record.logged, record.phases = True, phases(curves)
    record.doubts += [f"{METRICS}: {text}" for text in checks.in_part(curves)]
    for name, curve_S2 in curves.items():
        if name.startswith("cost/"):
            value = float(curve_S2[-1, 1])
            if checks.within(value, 0, checks.LARGEST_COST):
                record.cost[name] = value
            else:
                record.doubts.append(f"{METRICS}: {name} is {value:g}, which nothing costs: not used")
        elif not PER_ITERATION.match(name):
            record.curves[name] = curve_S2


def _require_own(record: Record, curve_S2: np.ndarray | None) -> None:
    """Raise a HemnetError if the last validation in metrics.csv is of the last step, with another score."""
    if curve_S2 is None or curve_S2[-1, 0] != (record.result.get("steps") or 0) - 1 or not record.scored:
        return
    last = curve_S2[-1, 1]
    if abs(last - record.miou) > SAME_SCORE:
        raise HemnetError(
            f"{METRICS} and {RESULT} are not of one run, as the last val/miou is {last:.4f} in the one and"
            f" {record.miou:.4f} in the other: {checks.REMEDY}"
        )


def _most_iterations(record: Record) -> int | None:
    """Return the largest T that the run logs of, in training or evaluation; None without an EM layer."""
    T, later = record.identity.iterations, record.settings.get(ITERATIONS_EVAL)
    return T if T is None or later is None else max(T, int(later))


def _read_evaluations(record: Record) -> None:
    """Read the score at each T, and doubt each file that has none; one of another checkpoint is no damage."""
    found = results_of(record.path)
    for folder in sorted((record.path / FOLDER / "last").glob("T*")):
        number, file = folder.name[1:], folder / RESULT
        T = int(number) if number.isdecimal() else -1
        try:
            if str(T) != number or not checks.require_file(file):
                continue
            content = found.get(T) or checks.json_object(file)
            score = checks.evaluated(content)
            if (named := content.get("iterations_eval", T)) != T:
                raise ValueError(f"it is of {shown(named)} iterations, and its folder of {T}")
            if T > checks.MOST_ITERATIONS:
                raise ValueError("no evaluation has so many iterations")
            if T in found:
                record.evaluated[T] = score
        except (OSError, ValueError) as error:
            place = file.relative_to(record.path)
            record.doubts.append(f"{place}: {one_line(error, 160)}: not used; evaluate the run again")
