"""What the values in a run's files can be: a value that no run has never enters a mean.

Shapes: S logged steps; a curve is (S, 2): optimizer step and value.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as shown
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hemnet.errors import HemnetError
from hemnet.runs.canonical import TARGET, class_name
from hemnet.runs.metrics_csv import curves
from hemnet.runs.phases import PER_ITERATION, cut_off, last_step
from hemnet.runs.renamed import EM_HEAD
from hemnet.runs.stored_config import PARTS
from hemnet.wording import one_line

SCORES = re.compile(r"val/(miou|\w+_accuracy|iou/.+)$", re.DOTALL)
"""What lies between 0 and 1."""
WANTED = re.compile(rf"val/miou$|cost/|gradient/backbone/|{PER_ITERATION.pattern}")
"""What the report uses of metrics.csv."""
NODES = [part for part in PARTS if part not in ("name", "seed")]
"""The keys of a configuration that have others below them."""
REMEDY = "restore the file, or move the run elsewhere"
# Far above what any run has.
LONGEST = 1e9  # seconds, 30 years
MOST_STEPS = 1e12
MOST_PROCESSES = 1_000_000
OF_A_RUN = {"seconds": (0, LONGEST), "steps": (0, MOST_STEPS), "processes": (1, MOST_PROCESSES)}
"""Bounds of the numbers in a result.json."""
MOST_ITERATIONS = 10_000
LARGEST_COST = 1e18
LARGEST = 1e100  # of a metric; a float32 ends at 3e38, and charts do not reach the largest float64
ROUNDING = 1e-3
BOUNDS = {
    "val/miou$": (0, 1),
    "gradient/share/": (-ROUNDING, 1 + ROUNDING),
    "gradient/(means|backbone)/|em/step_length/": (0, math.inf),
    "em/entropy/": (-ROUNDING, math.inf),
    "em/components/": (1 - ROUNDING, math.inf),
}
"""What the values of a metric lie between, by the beginning of its name."""


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Name the file whose content the block finds wrong, and what can be done.

    Raises:
        HemnetError: the block raised any exception.
    """
    try:
        yield
    except Exception as error:  # anything can be wrong with a file
        kind = "" if isinstance(error, HemnetError | ValueError) else f"{type(error).__name__}: "
        raise HemnetError(f"{file}: {kind}{one_line(error, 160)}: {REMEDY}") from error


def require_file(path: Path) -> bool:
    """Return whether there is a file.

    Raises:
        ValueError: something else has its name.
    """
    if os.path.lexists(path) and not path.is_file():
        raise ValueError("it is a folder, a link that leads nowhere, or another thing that is no file")
    return path.is_file()


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: there is none in it.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON, or was cut short ({one_line(error, 80)})") from error
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def within(value: Any, least: float, most: float) -> bool:
    """Return whether a value is a number in these bounds, which are included; NaN is in none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def score(name: str, value: Any) -> float:
    """Return a score; NaN for null and NaN, which stand for a score that could not be computed.

    Raises:
        ValueError: it is neither, nor a number from 0 to 1.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if not within(value, 0, 1):
        raise ValueError(f"{name} is {shown(value)}, and a score is a number from 0 to 1")
    return float(value)


def scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores among the metrics of a result.json, as `score` does."""
    return {name: score(name, value) for name, value in metrics.items() if SCORES.match(name)}


def evaluated(result: Mapping[str, Any]) -> float:
    """Return ``val/miou`` in the result.json of an evaluation.

    Raises:
        ValueError: there is none, or it is no score.
    """
    metrics = result.get("metrics")
    found = score("val/miou", metrics.get("val/miou") if isinstance(metrics, dict) else None)
    if math.isnan(found):
        raise ValueError("it has no val/miou")
    return found


def require_settings(config: DictConfig) -> None:
    """Refuse with a ValueError a configuration with which no run can have been trained."""
    if missing := [part for part in PARTS if part not in config]:
        raise ValueError(f"it lacks {', '.join(missing)}, which every run has")
    for key in (*NODES, "model.head"):
        if not isinstance(node := OmegaConf.select(config, key), DictConfig):
            raise ValueError(f"{key} is {shown(node)}, and a run has settings there")
    head: Any = OmegaConf.to_container(config.model.head, resolve=True)
    if class_name(head.get(TARGET)) == EM_HEAD:
        _require_em(head)


def _require_em(head: Mapping[str, Any]) -> None:
    """Refuse a head with an EM layer by which no setting can be told."""
    T, scale, later = head["iterations"], head["highway_scale"], head["iterations_eval"]
    mode, variance = head["gradient"], head["variance"]
    if not isinstance(mode.get(TARGET) if isinstance(mode, dict) else mode, str):
        raise ValueError(f"model.head.gradient is {shown(mode)}, and a gradient mode has a name or a class")
    if variance is not None and not within(variance, 0, LARGEST):
        raise ValueError(f"model.head.variance is {shown(variance)}, and a variance is a positive number")
    for name, count in {"iterations": T, "iterations_eval": T if later is None else later}.items():
        if not within(count, 0, MOST_ITERATIONS) or not isinstance(count, int):
            wanted = f"no whole number from 0 to {MOST_ITERATIONS}"
            raise ValueError(f"model.head.{name} is {shown(count)}, {wanted}")
    for h in scale if isinstance(scale, list) else [scale]:
        if not within(h, -1, 1) or abs(h) == 1:
            raise ValueError(f"model.head.highway_scale is {shown(scale)}, no number inside (-1, 1)")


def logged(
    rows: Sequence[dict[str, float]], steps: float | None, iterations: int | None
) -> dict[str, np.ndarray]:
    """Return the curves of `WANTED` in the rows of a metrics.csv.

    Args:
        rows: of a run that finished.
        steps: how many the run took; None if it did not say.
        iterations: the largest T of which the run logs; None without an EM layer.

    Raises:
        ValueError: the rows end long before the run did, or have values that no run logs.
    """
    placed = [row for row in rows if "step" in row]
    if not placed:
        raise ValueError("it has no row with a step")
    for row in placed:
        if not within(row["step"], 0, MOST_STEPS):
            raise ValueError(f"a step is {row['step']:g}")
    placed.sort(key=lambda row: row["step"])
    at = [row["step"] for row in placed]
    # A run logs at regular steps, so it ends at most such a pause after its last row.
    pause = max(later - earlier for earlier, later in zip([-1.0, *at], at, strict=False))
    if steps is not None and steps - 1 - at[-1] > 2 * pause:
        raise ValueError(f"it ends at step {at[-1]:g}, and the run took {steps:g} steps")
    found = curves(placed, WANTED.match)
    for name, curve_S2 in found.items():
        _require_loggable(name, curve_S2, MOST_ITERATIONS if iterations is None else iterations)
    return found


def _require_loggable(name: str, curve_S2: np.ndarray, iterations: int) -> None:
    if (match := PER_ITERATION.match(name)) and int(match[2]) > iterations:
        raise ValueError(f"it has a column {shown(name)}, and the largest T of the run is {iterations}")
    values_S = curve_S2[:, 1]
    bounds = (found for beginning, found in BOUNDS.items() if re.match(beginning, name))
    least, most = next(bounds, (-math.inf, math.inf))
    # NaN is what a training that diverges logs, and infinity too where the metric has no bound.
    too_large_S = np.isfinite(values_S) & (abs(values_S) > LARGEST)
    impossible_S = (values_S < least) | (values_S > most) | too_large_S
    if impossible_S.any():
        raise ValueError(f"{shown(name)} is {values_S[impossible_S][0]:g}, which no run logs")


def in_part(curves: Mapping[str, np.ndarray]) -> list[str]:
    """Return a sentence on each metric of gradient or EM that was logged in a part of training only."""
    last, told = last_step(curves), {}
    for name, curve_S2 in curves.items():
        if name.startswith(("gradient/", "em/")) and (without := cut_off(curve_S2, last)):
            first, end = curve_S2[[0, -1], 0]
            told[name.rpartition("/")[0]] = (
                f"from step {first:g} to {end:g} of {last:g} alone, so it is in no mean at the "
                f"{' and '.join(without)} of training"
            )
    return [f"{name} was logged {text}" for name, text in told.items()]
