"""The measures of experiments/study.py besides the scores: those of STUDY.md, and the exploratory ones."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from scipy import stats
from study_images import over_images
from study_plan import Family
from study_runs import (
    TENTHS,
    Finished,
    Measure,
    Setting,
    evaluated_at,
    evenness,
    first_gain,
    readout_share,
    score,
    step_ratio,
)
from study_tables import Table, mean_and_interval, to_text

from hemnet.report.significance import Estimate, estimate

EVALUATED = (1, 2, 3, 4, 6, 8, 12, 16, 32)
# As a run records them, with the digits that are shown.
COSTS = {"cost/parameters": 0, "cost/gflops": 3}
# Smaller falls, relative to the log-likelihood, are rounding of float32.
ROUNDING = 1e-6
# The same of those of measure.py, in nats per position of float64.
ROUNDING_NATS = 1e-9

OF_ITERATIONS = """
## The gradient by iteration

Share of iteration t in the gradient to the features, without the readout's; and size of the gradient to
mu^(t) over that of mu^(T) (Eq. 15). By tenth of the recorded steps, means over runs, the second geometric.
"""
OF_E_STEPS = """
## What the E-steps carry of the gradient (Eq. 15 and 18)

By `measure.py`, of the trained networks, on validation images. Shares of iterations 0 to T-1 in the gradient
to the features, and what the N-steps alone would give; then the norm of what passes through the E-steps over
that of the whole, with its interval over runs; that of what the N-steps pass; and that through the E-steps of
the gradient to mu^(t). `all` is the whole gradient to the features, with the readout's.
"""
OF_LIKELIHOOD = """
## Images in which an iteration lowers the log-likelihood

By `measure.py`, in nats per position, over the images of all runs.
"""
OF_IMAGES = """
## Intervals over images

Of the difference of `val/miou`, mean over the seeds, 10 000 draws: of images, the seeds as they are; of
blocks of 10 neighbouring images; and of seeds and images. docs/metrics.md says what they are and are not.
"""


def planned(groups: Mapping[Setting, Sequence[Finished]]) -> Iterator[str | Table]:
    """Yield the measures that STUDY.md fixed, over the runs of each setting."""
    yield "## Evaluated at other T\n\nMean `val/miou` over the runs with such an evaluation; not tested.\n"
    yield Table("evaluated", ("setting", *(f"T = {T}" for T in EVALUATED)), [
        [setting, *(mean_and_interval(over(runs, partial(evaluated_at, T)))[0] for T in EVALUATED)]
        for setting, runs in groups.items()
    ])  # fmt: skip
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
        setting: {name: value for row in run.rows for name, value in row.items() if name in COSTS}
        for setting, by_seed in found.items()
        for run in [*by_seed.values()][:1]
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


def sharpened(found: Mapping[Setting, Mapping[int, Finished]]) -> Table:
    """Return in how many runs of each setting the entropy falls with every t: of all, and of the E-steps."""
    header = ("setting", "runs", "fell with every t", "over the E-steps")
    rows = []
    for setting in sorted(found, key=str):
        known = [e_T for run in found[setting].values() if (e_T := run.at_end("em/entropy")) is not None]
        ends = (None, -1)  # the last entropy is under the final means, for which there is no E-step
        rows.append(
            [setting, len(known), *(sum((np.diff(e_T[:end]) < 0).all() for e_T in known) for end in ends)]
        )
    return Table("sharpening", header, rows)


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


def over_split(groups: Mapping[Setting, Sequence[Finished]]) -> Iterator[str | Table]:
    """Yield what measure.py has measured of the networks, on all images of the validation split."""
    yield OF_E_STEPS
    norms = ("through E-steps", "95% interval", "through N-steps", "of means")
    header = ("setting", "t", "runs", "share", "by N-steps", *norms)
    yield Table("e_step", header, [row for group in groups.items() for row in e_step_rows(*group)])
    yield OF_LIKELIHOOD
    yield Table(
        "likelihood_images",
        ("setting", "runs", "steps that fell", "images with one", "their mean", "largest", "L(T) <= L(0)"),
        [row for group in groups.items() if (row := fallen_images(*group))],
    )


def e_step_rows(setting: Setting, runs: Sequence[Finished]) -> Iterator[list[object]]:
    """Yield a row for each iteration, for the readout and for the whole."""
    tables = [rows for run in runs if (rows := run.measured("e_step"))]
    if not tables:
        return
    columns = {
        name: np.array([[float(row.get(name, "nan")) for row in rows] for rows in tables])
        for name in tables[0][0]
        if name != "t"
    }
    part, rest = (columns[f"features_{step}"] / columns["features_whole"] for step in ("e_step", "n_step"))
    of_means = columns["means_e_step"] / columns["means_whole"]
    shares = [columns[name][:, :-2] for name in ("features_whole", "features_n_step")]
    shares = [(found / found.sum(axis=1, keepdims=True)).mean(axis=0) for found in shares]
    T = part.shape[1] - 2
    for t in range(T + 2):
        name = ("readout", "all")[t - T] if t >= T else t
        own = [f"{share[t]:.4f}" if t < T else "" for share in shares]
        found = estimate(part[:, t], (0.0, np.inf))  # a ratio of norms
        means = "" if t >= T else f"{of_means[:, t].mean():.4f}"
        alone = f"{rest[:, t].mean():.4f}"
        yield [setting, name, len(tables), *own, *mean_and_interval(found), alone, means]


def fallen_images(setting: Setting, runs: Sequence[Finished]) -> list[object] | None:
    """Return the row of a setting: how many steps fell, in how many images, and by how much."""
    tables = [rows for run in runs if (rows := run.measured("likelihood"))]
    if not tables:
        return None
    names = sorted(name for name in tables[0][0] if name.isdigit())
    course_NT = np.array([[float(row[name]) for name in names] for rows in tables for row in rows])
    steps_NT = np.diff(course_NT)
    fell_NT = steps_NT < -ROUNDING_NATS
    counts = [(fell_NT, fell_NT.size), (fell_NT.any(axis=1), len(fell_NT))]
    counts += [(course_NT[:, -1] <= course_NT[:, 0], len(course_NT))]
    steps, images, lost = (f"{fell.sum()} of {total}" for fell, total in counts)
    return [setting, len(tables), steps, images, *fall_sizes(-steps_NT[fell_NT]), lost]


def by_image(
    families: Sequence[tuple[Family, Mapping[Setting, Mapping[int, Finished]]]],
) -> Iterator[str | Table]:
    """Yield the intervals over images of the contrasts of scores whose runs have been evaluated."""
    yield OF_IMAGES
    header = ("contrast", "pairs", "images", "mean difference", "over images", "over blocks", "over both")
    rows = []
    for family, found in families:
        for contrast in family.contrasts:
            first, second = (
                {seed: run.counted for seed, run in found[setting].items() if run.counted is not None}
                for setting in contrast[:2]
            )
            # As elsewhere, no number is shown before its contrast is complete.
            complete = contrast.measure is score and len(first.keys() & second.keys()) == family.seeds
            if complete and (interval := over_images(first, second)):
                intervals = map(to_text, interval[3:])
                rows.append([contrast.name, *interval[:2], f"{interval.difference:+.4f}", *intervals])
    yield Table("images", header, rows)
