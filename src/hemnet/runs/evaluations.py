"""Where the results of evaluations are in a run directory.

RUN/evaluation/NAME/ holds the `FILES` of one evaluation, and T<n>/ in it those of one with n EM iterations.
NAME is that of `hemnet.runs.outputs`.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.outputs import Origin, output_name
from hemnet.runs.run import RESULT
from hemnet.storage.files import entry, read_json, write_table

FOLDER, OTHER_DATA, TABLE = "evaluation", "-data-", "iterations.csv"
FILES = (RESULT, "classes.csv", "images.csv", "counts.csv", "confusion.png", "worst.png")
"""The files of an evaluation: result.json says what all of them are of."""
CONTENT = "content"
"""The entry of result.json with the hash of images that were asked for by another ``data.root``."""
COUNTS = ("image", "class", "intersection", "union", "pixels")
"""The columns of counts.csv: a row for each class that an image's truth or prediction has, in pixels.

``intersection`` are in both, ``union`` in either, ``pixels`` in the truth. Ignored pixels count nowhere.
"""


def at_iterations(folder: Path, iterations: int | None) -> Path:
    """Return the folder of the evaluation with T iterations; None stands for the T of the run."""
    return folder if iterations is None else folder / f"T{iterations}"


def read_results(folder: Path, digest: str | None) -> dict[int | None, dict[str, Any]]:
    """Return the result.json of each evaluation in a folder, by T; key None has the T of the run.

    Results of a checkpoint with another hash than ``digest`` are left out; if that is None, those that have
    another than most results in the folder.
    """
    depths = sorted(int(path.name[1:]) for path in folder.glob("T*") if path.name[1:].isdecimal())
    every = {T: read_json(at_iterations(folder, T) / RESULT) for T in (None, *depths)}
    found = {
        T: result
        for T, result in every.items()
        if isinstance(metrics := result.get("metrics"), dict) and metrics
    }
    every_digest = (result.get("checkpoint_sha256") for result in found.values())
    hashes = Counter(digest for digest in every_digest if isinstance(digest, str))
    most = hashes.most_common(1)[0][0] if hashes else None
    known = digest or most
    return {T: result for T, result in found.items() if known in (None, result.get("checkpoint_sha256"))}


def finished(
    run: Path, name: str, content: Callable[[], str] | None = None, worst: int = 0
) -> set[int | None]:
    """Return the numbers T whose evaluations are in a run directory, of what is asked for.

    Args:
        run: the run directory.
        name: of the folder, see `hemnet.runs.outputs.output_name`.
        content: returns the hash of the images, see `hemnet.data.readers.content_of`; None for the run's own.
        worst: how many of the worst images are to be shown.
    """
    folders = [name]
    if content is not None:
        beside = re.compile(re.escape(name + OTHER_DATA) + "[0-9a-f]{8}")
        folders += [path.name for path in (run / FOLDER).glob("*") if beside.fullmatch(path.name)]
    found = [item for folder in folders for item in results_of(run, folder).items()]
    if content is not None and (found := [(T, result) for T, result in found if CONTENT in result]):
        wanted = content()
        found = [(T, result) for T, result in found if result[CONTENT] == wanted]
    return {T for T, result in found if entry(result, "worst", 0.0) >= worst}


def _is_own(result: dict[str, Any], folder: str) -> bool:
    """Return whether a result.json is of what its folder is named for, as far as it says."""
    if not {"checkpoint", "settings", "changes"} <= result.keys():
        return True  # of an older version
    try:
        name = output_name(result["checkpoint"], result["settings"], result["changes"])
        return folder in (name, f"{name}{OTHER_DATA}{result.get('data', {}).get('sha256', '')[:8]}")
    except (TypeError, ValueError, AttributeError):
        return False


def results_of(run: Path, name: str = "last") -> dict[int | None, dict[str, Any]]:
    """Return what `read_results` does of one folder of a run directory's evaluations.

    Results of something else than the folder is named for, such as of other inference options, are left out.

    Args:
        run: the run directory.
        name: the folder's, see `hemnet.runs.outputs.output_name`; by default the plain evaluation.
    """
    checkpoint = run / "checkpoints" / f"{name.partition('-')[0]}.ckpt"
    found = read_results(run / FOLDER / name, fingerprint(checkpoint))
    return {T: result for T, result in found.items() if _is_own(result, name)}


def require_own(folder: Path, origin: Origin, iterations: Sequence[int] = ()) -> None:
    """Refuse to replace files that are not of an evaluation of this origin, see `Origin.require_own`.

    Args:
        folder: to write to.
        origin: of the evaluation.
        iterations: the numbers of EM iterations to evaluate with; none means the T of the run.

    Raises:
        HemnetError: a file to be written is there, and the result.json beside it is not of this origin; or
            results for other T in the folder are of another origin.
    """
    counts: Sequence[int | None] = iterations or [None]
    for place in [at_iterations(folder, T) for T in counts]:
        for name in FILES:
            origin.require_own(place / name, lambda path: read_json(path.with_name(RESULT)))
    held = _held(folder)
    for place, found in held:
        origin.require_own(place / RESULT, lambda _, found=found: found)  # type: ignore[misc]
    if iterations and not held:
        origin.require_own(folder / TABLE, lambda _: None)


def digest_of(names: Iterable[str], pixels: Iterable[int]) -> dict[str, Any]:
    """Return what tells one set of images from another, wherever they are: their number and a hash.

    Args:
        names: of the images.
        pixels: how many pixels of the truth each class has.
    """
    ordered = sorted(names)
    digest = hashlib.sha256(repr((ordered, [int(count) for count in pixels])).encode()).hexdigest()
    return {"images": len(ordered), "sha256": digest}


def folder_for(folder: Path, data: dict[str, Any], *, others: bool = False) -> Path:
    """Return the folder for an evaluation on these images, see `digest_of`.

    It is ``folder``, unless these are known to be ``others`` than those of the run, such as those at another
    ``data.root``, or it has an evaluation on other images: then its name is followed by the hash.
    """
    for _, found in _held(folder):
        others |= found.get("data", data) != data or found.get("images", data["images"]) != data["images"]
    end = f"{OTHER_DATA}{data['sha256'][:8]}"
    return folder.with_name(folder.name + end) if others and not folder.name.endswith(end) else folder


def _held(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the results in a folder, of any checkpoint, each with its path."""
    places = [folder, *sorted(folder.glob("T*"))]
    return [(place, found) for place in places if "checkpoint" in (found := read_json(place / RESULT))]


def write_iterations(folder: Path, digest: str, keys: Sequence[str]) -> None:
    """Write iterations.csv: a row for each T with a result of this checkpoint, earlier ones too."""
    rows = [
        [T, *(cell(entry(result["metrics"], key, math.nan)) for key in keys)]
        for T, result in read_results(folder, digest).items()
        if T is not None
    ]
    write_table(folder / TABLE, ["iterations", *keys], rows)


def cell(score: float | None) -> str:
    """Return the table cell for a score, empty for None or NaN: a class or image that has no score."""
    return "" if score is None or math.isnan(score) else f"{score:.6f}"
