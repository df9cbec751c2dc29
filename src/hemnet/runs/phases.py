"""Metrics at the start, in the middle and at the end of training, among them those per iteration of EM.

Shapes: S logged steps, T iterations; a curve is (S, 2): optimizer step and value.
"""

import re
from collections.abc import Mapping

import numpy as np

PER_ITERATION = re.compile(
    r"(gradient/(?:means|share)|em/(?:log_likelihood|step_length|components|entropy))/(\d+)$"
)
"""A metric per iteration, ``family/t``; of the network's first EM layer."""
PHASES = ("start", "middle", "end")
PHASE_SHARE = 0.1
"""Share of the logged steps that a phase averages over, because the gradient of one batch is noisy."""
FARTHEST = 0.25
"""Share of the training by which what stands for a phase may lie from its start, middle or end."""


def phases(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``family`` -> (3, iterations logged): the mean over each phase; NaN where it is not known.

    Means of ``gradient/means``, which are ratios, are geometric.

    Args:
        curves: all metrics of a run by name, since the last step of any is the end of training.
    """
    last = last_step(curves)
    families: dict[str, dict[int, np.ndarray]] = {}
    for name, curve_S2 in curves.items():
        if match := PER_ITERATION.match(name):
            families.setdefault(match[1], {})[int(match[2])] = curve_S2
    found = {}
    for family, members in families.items():
        found[family] = np.full((len(PHASES), max(members) + 1), np.nan)
        for t, curve_S2 in members.items():
            known = by_phase(curve_S2, last).values()
            found[family][:, t] = [_mean(values, geometric=family == "gradient/means") for values in known]
    return found


def last_step(curves: Mapping[str, np.ndarray]) -> float:
    """Return the last step at which a run logged anything; 0 if it logged nothing."""
    return max((float(curve_S2[-1, 0]) for curve_S2 in curves.values() if len(curve_S2)), default=0.0)


def by_phase(curve_S2: np.ndarray, last: float) -> dict[str, np.ndarray]:
    """Return the values of a curve in each of `PHASES`: the first, middle and last tenth of its logged steps.

    Steps at which the curve has no value count among the logged ones: a value that is not finite is not
    logged, so a curve may stop before training does, begin after it, or have gaps. Where less than half of a
    phase has values, or they are farther than `FARTHEST` from it, none is returned.

    Args:
        curve_S2: its steps rise.
        last: the last step of the training.
    """
    steps_S = curve_S2[:, 0]
    if not len(steps_S):
        return dict.fromkeys(PHASES, curve_S2[:, 1])
    places_S, size = _places(steps_S, last)
    width = max(1, round(PHASE_SHARE * size))
    begins, targets = (0, (size - width) // 2, size - width), (0.0, last / 2, last)
    found = {}
    for phase, begin, target in zip(PHASES, begins, targets, strict=True):
        # Places rise, as steps do.
        inside_N2 = curve_S2[slice(*np.searchsorted(places_S, (begin, begin + width)))]
        enough = len(inside_N2) and 2 * len(inside_N2) >= width
        near = enough and abs(inside_N2[:, 0].mean() - target) <= FARTHEST * last
        found[phase] = inside_N2[:, 1] if near else curve_S2[:0, 1]
    return found


def evenness(shares_T: np.ndarray) -> float:
    """Return how evenly the iterations share the gradient: exp(entropy) / T of the shares, scaled to sum 1.

    It is 1 if all are equal, 1/T if one has everything; NaN if a share is not known, or all are 0.
    """
    with np.errstate(invalid="ignore"):
        scaled_T = shares_T / shares_T.sum()
    if not len(shares_T) or np.isnan(scaled_T).any():
        return np.nan
    held = scaled_T[scaled_T > 0]
    return float(np.exp(-(held * np.log(held)).sum()) / len(scaled_T))


def cut_off(curve_S2: np.ndarray, last: float) -> list[str]:
    """Return the phases of which a curve has no values, though it would have several at its pace."""
    without = [phase for phase, values in by_phase(curve_S2, last).items() if not len(values)]
    several = len(curve_S2) and without and _places(curve_S2[:, 0], last)[1] * PHASE_SHARE >= 1
    return without if several else []


def _places(steps_S: np.ndarray, last: float) -> tuple[np.ndarray, int]:
    """Return which of the steps at the usual pace each step is, and how many there are until the last."""
    pauses = np.diff(steps_S)
    pace = float(np.median(pauses[pauses > 0])) if (pauses > 0).any() else last + 1
    missing_S = np.maximum(0, np.rint(np.diff(steps_S, prepend=-1.0) / pace) - 1)
    places_S = np.arange(len(steps_S)) + np.cumsum(missing_S)
    return places_S, int(places_S[-1]) + 1 + max(0, int((last - steps_S[-1]) // pace))


def _mean(values: np.ndarray, geometric: bool) -> float:
    """Return the mean, geometric on request; NaN of no values."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if not geometric:
            return float(values.mean()) if len(values) else np.nan
        return float(np.exp(np.log(values).mean())) if len(values) else np.nan
