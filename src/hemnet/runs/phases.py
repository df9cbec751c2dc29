"""Metrics per iteration of EM at the start, in the middle and at the end of training.

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


def phases(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``family`` -> (3, iterations logged): the mean over each phase; NaN where nothing is logged.

    Means of ``gradient/means``, which are ratios, are geometric.
    """
    families: dict[str, dict[int, np.ndarray]] = {}
    for name, curve_S2 in curves.items():
        if match := PER_ITERATION.match(name):
            families.setdefault(match[1], {})[int(match[2])] = curve_S2
    found = {}
    for family, members in families.items():
        found[family] = np.full((len(PHASES), max(members) + 1), np.nan)
        for t, curve_S2 in members.items():
            found[family][:, t] = _means(curve_S2[:, 1], geometric=family == "gradient/means")
    return found


def _means(values_S: np.ndarray, geometric: bool) -> np.ndarray:
    """Return the means over the first, middle and last tenth of the values; geometric on request."""
    size = len(values_S)
    width = max(1, round(PHASE_SHARE * size))
    begins = (0, (size - width) // 2, size - width)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled_S = np.log(values_S) if geometric else values_S
        means = np.array([scaled_S[begin : begin + width].mean() for begin in begins])
    return np.exp(means) if geometric else means
