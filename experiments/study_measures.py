"""The measures of experiments/study.py besides the scores: those of STUDY.md, and the exploratory ones."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from scipy import stats
from study_finished import (
    TENTHS,
    Finished,
    Measure,
    Setting,
    evaluated_at,
    evenness,
    first_gain,
    readout_share,
    step_ratio,
)
from study_tables import Table, mean_and_interval

from hemnet.report.estimates import Estimate, estimate

EVALUATED = (1, 2, 3, 4, 6, 8, 12, 16, 32)
# As a run records them, with the digits that are shown.
COSTS = {"cost/parameters": 0, "cost/gflops": 3}
# Smaller falls, relative to the log-likelihood, are rounding of float32.
ROUNDING = 1e-6

OF_ITERATIONS = """
## The gradient by iteration

Share of iteration t in the gradient to the features, without the readout's; and size of the gradient to
mu^(t) over that of mu^(T) (Eq. 15). By tenth of the recorded steps, means over runs, the second geometric.
"""


def evaluated(groups: Mapping[Setting, Sequence[Finished]]) -> Iterator[str | Table]:
    """Yield the scores at other T of evaluation, of each setting with runs that were evaluated so."""
    yield "## Evaluated at other T\n\nRuns with such an evaluation, and mean `val/miou`; not tested.\n"
    rows = []
    for setting, runs in groups.items():
        # Of the same networks at every T: a T that one of them lacks is left out.
        if known := [run for run in runs if run.evaluated]:
            common = {T for T in EVALUATED if all(T in run.evaluated for run in known)}
            means = {T: mean_and_interval(over(known, partial(evaluated_at, T)))[0] for T in common}
            rows.append([setting, len(known), *(means.get(T, "") for T in EVALUATED)])
    yield Table("evaluated", ("setting", "runs", *(f"T = {T}" for T in EVALUATED)), rows)


def planned(groups: Mapping[Setting, Sequence[Finished]]) -> Iterator[str | Table]:
    """Yield the other measures that STUDY.md fixed, over the runs of each setting."""
    yield (
        "\n## Shares of the gradient\n\nEvenness (1 is even) by tenth of the recorded steps, mean over runs;"
        " the ratio of an\niteration's share to that of the one after, and the readout's share of the whole,"
        " over the last tenth.\n"
    )
    yield Table("gradient_shares", ("setting", "runs", *TENTHS, "ratio", "95% interval", "h", "readout"), [
        [
            setting, len(runs),
            *(mean_and_interval(over(runs, partial(evenness, tenth=tenth)))[0] for tenth in TENTHS),
            *mean_and_interval(over(runs, step_ratio)), setting.h,
            mean_and_interval(over(runs, readout_share))[0],
        ]
        for setting, runs in groups.items()
    ])  # fmt: skip
    yield OF_ITERATIONS
    header = ("setting", "t", *(f"{what}, {tenth}" for what in ("share", "means") for tenth in TENTHS))
    yield Table(
        "gradient_by_iteration", header, [row for group in groups.items() for row in by_iteration(*group)]
    )
    yield "\n## Part of the likelihood's gain in the first iteration, at the end of training\n"
    yield Table("first_gain", ("setting", "runs", "mean", "95% interval"), [
        [setting, len(runs), *mean_and_interval(over(runs, first_gain))] for setting, runs in groups.items()
    ])  # fmt: skip
    yield "\n## Iterations that lower the log-likelihood, at the end of training\n"
    yield Table(
        "likelihood_falls",
        ("setting", "runs", "steps that fell", "their mean", "largest", "L(T) <= L(0)"),
        [[setting, *falls(runs)] for setting, runs in groups.items()],
    )
    yield "\n## Gradient of the backbone\n\nMedian over steps, mean over runs; and the largest of all.\n"
    yield Table("backbone_gradient", ("setting", "runs", "median", "largest"), [
        [setting, len(norms), f"{np.mean([*map(np.median, norms)]):.3g}", f"{max(map(np.max, norms)):.3g}"]
        for setting, runs in groups.items()
        if (norms := [run.backbone for run in runs if len(run.backbone)])
    ])  # fmt: skip


def costs(found: Mapping[Setting, Mapping[int, Finished]]) -> Table:
    """Return parameters and FLOPs of each setting's network, which are the same for all seeds."""
    known = {
        setting: {
            name: value
            for run in by_seed.values()
            for row in run.rows
            for name, value in row.items()
            if name in COSTS
        }
        for setting, by_seed in found.items()
    }
    rows = [[setting, *(f"{cost[name]:.{digits}f}" for name, digits in COSTS.items())]
            for setting, cost in known.items() if len(cost) == len(COSTS)]  # fmt: skip
    return Table("cost", ("setting", "parameters", "GFLOPs"), rows)


def by_iteration(setting: Setting, runs: Sequence[Finished]) -> Iterator[list[object]]:
    """Yield the row of each iteration: shares and gradients to the means by tenth, empty if not recorded."""
    columns: list[np.ndarray | None] = []
    of_means = partial(Finished.of_tenth, family="gradient/means")
    for measure, mean in ((Finished.shares, np.mean), (of_means, stats.gmean)):
        for tenth in TENTHS:
            known = [found_T for run in runs if (found_T := measure(run, tenth=tenth)) is not None]
            columns.append(mean(known, axis=0) if known else None)
    for t in range(setting.T or 0):
        yield [setting, t, *("" if column is None else f"{column[t]:.4f}" for column in columns)]


def entropies(found: Mapping[Setting, Mapping[int, Finished]]) -> Table:
    """Return the mean entropy of the responsibilities of each run at the end of training, in nats."""
    known = {
        (setting, seed): entropy_T
        for setting in sorted(found, key=str)
        for seed, run in sorted(found[setting].items())
        if (entropy_T := run.at_end("em/entropy")) is not None
    }
    times = range(max(map(len, known.values()), default=0))
    rows = [[*cell, *(f"{value:.3f}" for value in entropy_T)] for cell, entropy_T in known.items()]
    return Table("entropy", ("setting", "seed", *(f"t = {t}" for t in times)), rows)


def sharpened(found: Mapping[Setting, Mapping[int, Finished]], name: str = "sharpening") -> Table:
    """Return in how many runs of each setting the entropy falls with every t: of all, and of the E-steps."""
    header = ("setting", "runs", "fell with every t", "over the E-steps")
    rows = []
    for setting in sorted(found, key=str):
        known = [e_T for run in found[setting].values() if (e_T := run.at_end("em/entropy")) is not None]
        ends = (None, -1)  # the last entropy is under the final means, for which there is no E-step
        rows.append(
            [setting, len(known), *(sum((np.diff(e_T[:end]) < 0).all() for e_T in known) for end in ends)]
        )
    return Table(name, header, rows)


def over(runs: Sequence[Finished], measure: Measure) -> Estimate | None:
    """Return the mean of a measure over the runs in which it is defined."""
    return estimate([math.nan if (value := measure(run)) is None else value for run in runs])


def falls(runs: Sequence[Finished]) -> list[object]:
    """Return number of runs, falling steps, mean and largest fall, and the runs with L(T) <= L(0)."""
    courses = [(run, found_T) for run in runs if (found_T := run.at_end("em/log_likelihood")) is not None]
    steps = np.concatenate([np.diff(found_T) for _, found_T in courses] or [np.zeros(0)])
    sizes = np.concatenate([np.abs(found_T[:-1]) for _, found_T in courses] or [np.zeros(0)])
    fell = -steps[steps < -ROUNDING * sizes]
    lost = ", ".join(run.run.path.name for run, found_T in courses if found_T[-1] <= found_T[0]) or "none"
    return [len(courses), f"{len(fell)} of {len(steps)}", *fall_sizes(fell), lost]


def fall_sizes(fell: np.ndarray) -> list[str]:
    """Return two cells, the mean and the largest of falls, empty if there are none."""
    return [f"{fell.mean():.2g}", f"{fell.max():.2g}"] if len(fell) else ["", ""]
