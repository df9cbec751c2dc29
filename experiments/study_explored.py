"""The measures of experiments/study.py that STUDY.md calls exploratory."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from study_finished import Finished, Setting, score
from study_images import over_images
from study_measures import fall_sizes
from study_plan import Family
from study_tables import Table, mean_and_interval, to_text

from hemnet.errors import HemnetError
from hemnet.report.estimates import estimate

# Smaller falls of the likelihood are rounding: of those of measure.py, in nats per position of float64.
ROUNDING_NATS = 1e-9
# The columns of measure.py's e_step.csv that the table is made of.
E_STEP = ("features_whole", "features_e_step", "features_n_step", "means_whole", "means_e_step")

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
OF_REFITS = """
## T_eval with the layers after EM trained for it

By `refit.py`: `val/miou` of the network as trained, evaluated at T; and after its layers behind the EM layer
have been trained for T, T_train included.
"""
OF_IMAGES = """
## Intervals over images

Of the difference of `val/miou`, mean over the seeds, 10 000 draws: of images, the seeds as they are; of
blocks of 10 neighbouring images; and of seeds and images. docs/metrics.md says what they are and are not.
"""


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


def refits(groups: Mapping[Setting, Sequence[Finished]]) -> Iterator[str | Table]:
    """Yield the scores of refitted runs by T: as trained, and with the layers after EM trained for T."""
    known = [(setting, run) for setting, runs in groups.items() for run in runs if run.refitted]
    if not known:
        return
    yield OF_REFITS
    times = sorted({T for _, run in known for T in run.refitted})
    rows = [
        [setting, run.seed, name, *("" if scores.get(T) is None else f"{scores[T]:.4f}" for T in times)]
        for setting, run in known
        for name, scores in (("as trained", run.evaluated), ("trained for T", run.refitted))
    ]
    yield Table("refit", ("setting", "seed", "layers after EM", *(f"T = {T}" for T in times)), rows)


def e_step_rows(setting: Setting, runs: Sequence[Finished]) -> Iterator[list[object]]:
    """Yield a row for each iteration, for the readout and for the whole."""
    tables = [table for run in runs if (table := run.measured("e_step", E_STEP, (setting.T or 0) + 2))]
    if not tables:
        return
    columns = {name: np.array([table[name] for table in tables]) for name in E_STEP}
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
    names = [f"{t:02d}" for t in range((setting.T or 0) + 1)]
    tables = [table for run in runs if (table := run.measured("likelihood", names))]
    if not tables:
        return None
    course_NT = np.concatenate([np.stack([table[name] for name in names], axis=1) for table in tables])
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
                {seed: run for seed, run in found[setting].items() if run.counted} for setting in contrast[:2]
            )
            # As elsewhere, no number is shown before its contrast is complete.
            if contrast.measure is not score or len(first.keys() & second.keys()) != family.seeds:
                continue
            _require_same_images([*first.values(), *second.values()])
            sides = ({seed: run.counted for seed, run in side.items()} for side in (first, second))
            if interval := over_images(*sides):
                intervals = map(to_text, interval[3:])
                rows.append([contrast.name, *interval[:2], f"{interval.difference:+.4f}", *intervals])
    yield Table("images", header, rows)


def _require_same_images(runs: Sequence[Finished]) -> None:
    for run in runs:
        if run.counted.images != runs[0].counted.images:
            raise HemnetError(
                f"{runs[0].run.path} and {run.run.path} were evaluated on different images: evaluate both"
                " with the same data.root"
            )
