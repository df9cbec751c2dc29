"""Where the results of evaluations are in a run directory.

RUN/evaluation/NAME/ holds the result.json, classes.csv, images.csv, counts.csv, confusion.png and worst.png
of one evaluation, and the same files in T<n>/ for one with n EM iterations. NAME is that of
`hemnet.runs.outputs`.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.outputs import Origin
from hemnet.runs.run import RESULT
from hemnet.storage.files import read_json, write_table

FOLDER = "evaluation"
COUNTS = ("image", "class", "intersection", "union", "pixels")
"""The columns of counts.csv: a row for each class that an image's truth or prediction has, in pixels.

``intersection`` are in both, ``union`` in either, ``pixels`` in the truth. Ignored pixels count nowhere.
"""


def at_iterations(folder: Path, iterations: int | None) -> Path:
    """Return the folder of the evaluation with T iterations; None stands for the T of the run."""
    return folder if iterations is None else folder / f"T{iterations}"


def read_results(folder: Path, checkpoint: Path) -> dict[int | None, dict[str, Any]]:
    """Return the result.json of each evaluation in a folder, by T; key None has the T of the run.

    Results whose checkpoint had another hash than ``checkpoint`` has are left out. If no hash is
    recorded there, all results are returned.
    """
    depths = sorted(int(path.name[1:]) for path in folder.glob("T*") if path.name[1:].isdecimal())
    found = {T: read_json(at_iterations(folder, T) / RESULT) for T in (None, *depths)}
    known = fingerprint(checkpoint)
    return {
        T: result for T, result in found.items()
        if isinstance(metrics := result.get("metrics"), dict) and metrics
        and known in (None, result.get("checkpoint_sha256"))
    }  # fmt: skip


def results_of(run: Path, name: str = "last") -> dict[int | None, dict[str, Any]]:
    """Return what `read_results` does of one folder of a run directory's evaluations.

    Args:
        run: the run directory.
        name: the folder's, see `hemnet.runs.outputs.output_name`; by default the plain evaluation.
    """
    return read_results(run / FOLDER / name, run / "checkpoints" / f"{name.partition('-')[0]}.ckpt")


def require_own(folder: Path, origin: Origin) -> None:
    """Raise a HemnetError if an evaluation of another origin is in a folder, see `Origin.require_own`."""
    for place, found in _held(folder):
        origin.require_own(place, found)


def digest_of(names: Iterable[str], pixels: Iterable[int]) -> dict[str, Any]:
    """Return what tells one set of images from another, wherever they are: their number and a hash.

    Args:
        names: of the images.
        pixels: how many pixels of the truth each class has.
    """
    ordered = sorted(names)
    digest = hashlib.sha256(repr((ordered, [int(count) for count in pixels])).encode()).hexdigest()
    return {"images": len(ordered), "sha256": digest}


def folder_for(folder: Path, data: dict[str, Any]) -> Path:
    """Return the folder for an evaluation on these images, see `digest_of`.

    It is ``folder``, unless that has an evaluation on other images, such as those at another ``data.root``:
    then its name is followed by the hash.
    """
    for _, found in _held(folder):
        if found.get("data", data) != data or found.get("images", data["images"]) != data["images"]:
            return folder.with_name(f"{folder.name}-data-{data['sha256'][:8]}")
    return folder


def _held(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the results in a folder, of any checkpoint, each with its path."""
    places = [folder, *sorted(folder.glob("T*"))]
    return [(place, found) for place in places if (found := read_json(place / RESULT))]


def write_iterations(folder: Path, checkpoint: Path, keys: Sequence[str]) -> None:
    """Write iterations.csv: a row for each T with a result in the folder, also from earlier evaluations."""
    rows = [
        [T, *(cell(result["metrics"].get(key)) for key in keys)]
        for T, result in read_results(folder, checkpoint).items()
        if T is not None
    ]
    write_table(folder / "iterations.csv", ["iterations", *keys], rows)


def cell(score: float | None) -> str:
    """Return the table cell for a score, empty for None or NaN: a class or image that has no score."""
    return "" if score is None or math.isnan(score) else f"{score:.6f}"
