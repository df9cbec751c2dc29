"""Measure what trained networks' EM does on their validation images, for experiments/study.py.

    python experiments/measure.py RUN_OR_FOLDER [RUN_OR_FOLDER ...] [--images N]

Per run, from its last checkpoint, at its own T, in float64, over all validation images unless told otherwise:

- ``RUN/measures/e_step.csv``: norms, over the images, of the gradient that each iteration passes to the
  features and of that to the means: whole, by the N-steps alone, and what the E-steps carry; see e_step.py.
- ``RUN/measures/likelihood.csv``: eq (5) in nats per position at mu^(0) ... mu^(T), of each image.

With ``--images`` the tables go to ``RUN/measures/images-N/``, which study.py and keep.py leave alone.

Runs without an EM layer are left out, and those measured already at the same checkpoint. A run that cannot be
measured is named with the reason, the others are measured, and the exit status is 1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from e_step import COLUMNS, rows, squares
from em_inputs import Given, at_layers
from over_runs import ABOUT, MEASURES, over_em_runs, parser_of_runs

from hemnet.config.command_line import run_entry
from hemnet.errors import HemnetError
from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.run import Run
from hemnet.storage.files import read_json, write_json, write_table


def log_likelihoods(given: Given) -> list[float]:
    """Return eq (5) at mu^(0) ... mu^(T) of one image, nats per position."""
    positions = given.x_BNC.shape[1] if given.weights_BN is None else given.weights_BN.sum().item()
    likelihood_TB = given.fit(given.layer.iterations).diagnostics().log_likelihood
    return (likelihood_TB[:, 0] / positions).tolist()


def measure(run: Run, images: int | None) -> bool:
    """Measure one run; return whether there was anything to do.

    Raises:
        HemnetError: see `at_layers` and `squares`.
        OSError: the tables cannot be written.
    """
    place = run.path / MEASURES / ("" if images is None else f"images-{images}")
    about: dict[str, Any] = {"checkpoint_sha256": fingerprint(run.checkpoint()), "images_asked": images}
    if about["checkpoint_sha256"] is not None and read_json(place / ABOUT).items() >= about.items():
        return False
    total: dict[str, torch.Tensor] = {}
    courses: list[list[object]] = []
    count = 0
    for image, layers in at_layers(run, images):
        count += 1
        for layer, given in layers.items():
            found = squares(given, given.layer.iterations)
            total[layer] = total[layer] + found if layer in total else found
            courses.append([layer, image, *(f"{value:.12g}" for value in log_likelihoods(given))])
    if not courses:
        raise HemnetError("no EM layer runs in evaluation, or the split has no image: leave the run out")
    place.mkdir(parents=True, exist_ok=True)
    (place / ABOUT).unlink(missing_ok=True)  # it stands for whole tables, and those are replaced now
    longest = max(len(course) for course in courses) - 2
    write_table(place / "likelihood.csv", ["layer", "image", *(f"{t:02d}" for t in range(longest))], courses)
    norms = [[layer, *row] for layer, squares_T6 in total.items() for row in rows(squares_T6)]
    write_table(place / "e_step.csv", ["layer", "t", *COLUMNS], norms)
    write_json(place / ABOUT, about | {"images": count})
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every finished run with an EM layer."""
    parser = parser_of_runs(__doc__)
    parser.add_argument(
        "--images",
        type=int,
        help="only so many validation images, spread over the split: a quick look, in a folder of its own",
    )
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        parser.error(f"--images {options.images}: give 1 or more")

    over_em_runs(options.folders, lambda run: measure(run, options.images), "measured", "tables")


if __name__ == "__main__":
    run_entry(main)
