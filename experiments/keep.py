"""Copy the small files of finished runs, without the paths of this machine, to where they can be committed.

    python experiments/keep.py RUN_OR_FOLDER [RUN_OR_FOLDER ...] --to experiments/results/study_primary

Per run: configuration, environment, metrics, result, what evaluations, measure.py and refit.py found in its
last checkpoint (evaluations of ``best`` too), and its figures where these show no photographs, since most
data sets' may not be passed on. Checkpoints and quick looks stay. The paths of the run and of its data become
``<run>`` and ``<CamVid>`` (the class that reads the data; of data of one's own, which the report tells apart
by the name of their folder, with that, as in ``<Folder>/roads``), those of the program
``src/hemnet/train.py``, and others ``<elsewhere>/digits/name``, where the digits stand for the folder. What
was kept of the same run before is replaced.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from over_runs import ABOUT, MEASURES, REFIT, is_whole, of_last, over_runs, parser_of_runs

from hemnet.config.command_line import run_entry
from hemnet.errors import HemnetError
from hemnet.report import checks
from hemnet.runs.canonical import digits
from hemnet.runs.evaluations import FOLDER, at_iterations, results_of
from hemnet.runs.identity import identity
from hemnet.runs.run import ENVIRONMENT, RESULT, Run, counts
from hemnet.runs.run_settings import NAMED_BY_FOLDER, data_folder
from hemnet.storage.files import read_json, replacing, write_json
from hemnet.storage.places import absolute

CONFIG = "config.yaml"
OWN = (CONFIG, ENVIRONMENT, RESULT, "metrics.csv")
FIGURES = ("learning_curves.png", "predictions.png")
MEASURED = (f"{MEASURES}/*.csv", f"{MEASURES}/{ABOUT}", f"{MEASURES}/{REFIT}")
EVALUATED = tuple(f"{FOLDER}/**/{name}" for name in (RESULT, "counts.csv", "iterations.csv"))
# Nothing of a word is before an absolute path, as in val/iou/sky. A folder may have spaces in its name.
ABSOLUTE = re.compile(r"(?:(?<![\w>}./~-])|\b\w+:/{2,}|(?i:\bfile://)[^/\s]*)/(?![/\s])[^/\n]+/")


def keep(run: Run, folder: Path) -> Path:
    """Copy a run's small files into a folder below this one, and return that.

    Raises:
        HemnetError: it is the run itself, another run has been kept under this name, or a text has a path in
            its midst.
        OSError: a file cannot be read or written.
    """
    place = folder / run.path.name
    _require_same(run, place)
    roots = _roots(run)
    made = {path: name for name, path in _files(run)}
    texts = {
        path: _without_paths(_read(path), roots, path) for path in made if path.suffix in (".json", ".yaml")
    }
    for path, name in made.items():
        if path.suffix == ".json":
            write_json(place / name, texts[path])
        else:
            with replacing(place / name) as part:
                part.write_bytes(
                    OmegaConf.to_yaml(OmegaConf.create(texts[path])).encode()
                    if path in texts
                    else path.read_bytes()
                )
    before = (path for pattern in (*OWN, *FIGURES, *MEASURED, *EVALUATED) for path in place.glob(pattern))
    for path in {path for path in before if path.is_file()} - {place / name for name in made.values()}:
        if not _is_spoilt(run, path):
            path.unlink()  # it is not there any more
    return place


def _require_same(run: Run, place: Path) -> None:
    """Raise a HemnetError if something else than what was kept of a run before is in a folder."""
    if place.resolve() == run.path.resolve():
        raise HemnetError(f"{place} is the run itself: choose another folder for --to")
    if not place.exists():
        return
    known, own = (read_json(path / ENVIRONMENT).get("started") for path in (place, run.path))
    if own is None or known != own:
        raise HemnetError(
            f"{place} is of a run that started at {known}, and this one at {own}: rename the run"
        )
    before, now = read_json(place / RESULT), run.result
    if any(before.get(key) != now.get(key) for key in ("steps", "metrics")):
        raise HemnetError(
            f"{place} is of another run, which started in the same second and ended with other scores: rename"
            " the run"
        )


def _files(run: Run) -> Iterator[tuple[str, Path]]:
    """Yield the files to keep, each with its name in the folder."""
    names = [*OWN]
    for path in (path for pattern in MEASURED for path in run.path.glob(pattern)):
        if of_last(run.path, _about(path)) is not None:
            names.append(str(path.relative_to(run.path)))
    for place in sorted((run.path / FOLDER).glob("*")):
        results = results_of(run.path, place.name)
        inner = {T: at_iterations(Path(FOLDER, place.name), T) for T in results}
        names += [str(folder / RESULT) for folder in inner.values()]
        # Of the pixels by image, which are many, study.py reads those at the run's own T.
        if own := inner.get(None) or inner.get(identity(run.config).iterations):
            names.append(str(own / "counts.csv"))
        names += [str(Path(FOLDER, place.name, "iterations.csv"))] if results else []
    yield from ((name, run.path / name) for name in names if (run.path / name).is_file())
    photographs = OmegaConf.select(run.config, "callbacks.predictions.show_images")
    for name in FIGURES if photographs is False else FIGURES[:1]:
        if (run.path / "figures" / name).is_file():
            yield name, run.path / "figures" / name


def _about(measure: Path) -> str:
    """Return the name of the JSON file that says what a file of the measures is of."""
    return REFIT if measure.name == REFIT else ABOUT


def _is_spoilt(run: Run, path: Path) -> bool:
    """Return whether a kept measure is whole, and what the run has of it now is not."""
    source = run.path / MEASURES / _about(path)
    return path.parent.name == MEASURES and source.exists() and not is_whole(read_json(source))


def _read(path: Path) -> Any:
    if path.suffix != ".json":
        return OmegaConf.to_container(OmegaConf.load(path))
    with checks.reading(str(path)):
        return checks.json_object(path)


def _roots(run: Run) -> dict[Path, str]:
    """Return the folders that have a name of their own, the inner ones first."""
    config = _read(run.path / CONFIG)  # as the run was trained: it may have been moved since
    data = config.get("data") or {}
    reader = str((data.get("val") or {}).get("_target_") or "data").rpartition(".")[2]
    root = Path(data.get("root") or "")
    own = f"/{data_folder(config)}" if reader in NAMED_BY_FOLDER else ""
    named = {
        run.path: "<run>",
        Path(config.get("run_dir") or ""): "<run>",
        root: f"<{reader}>{own}",
    }
    whole = (path for path in named if path.is_absolute() and path != Path("/"))
    return {path: named[path] for path in sorted(whole, key=lambda path: -len(path.parts))}


def _without_paths(value: Any, roots: Mapping[Path, str], where: Path) -> Any:
    """Return what a JSON or YAML file holds with names in the place of this machine's paths."""
    if isinstance(value, dict):
        return {key: _without_paths(each, roots, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each, roots, where) for each in value]
    if not isinstance(value, str):
        return value
    key, equals, path = value.rpartition("=")  # of an override; of other texts all is the path
    whole = path.startswith("/")
    shown = f"{key}{equals}{_named(Path(path), roots)}" if whole else value
    if ABSOLUTE.search(key if whole else value):
        raise HemnetError(
            f"{where} has a path in the midst of {shown!r}, which cannot be replaced: replace it there"
        )
    return shown


def _named(path: Path, roots: Mapping[Path, str]) -> str:
    for root, name in roots.items():
        if path.is_relative_to(root):
            return str(name / path.relative_to(root))
    if path.suffix == ".py" and "hemnet" in path.parts:
        inner = len(path.parts) - 1 - path.parts[::-1].index("hemnet")
        return str(Path("src", *path.parts[inner:]))
    return f"<elsewhere>/{digits(str(path.parent))}/{path.name}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep every finished run; a run that cannot be kept is named, and the exit status is 1."""
    parser = parser_of_runs(__doc__)
    parser.add_argument("--to", type=absolute, required=True, metavar="FOLDER", help="gets a folder per run")
    options = parser.parse_args(arguments)

    def act(run: Run) -> str:
        if (run.path / RESULT).exists():
            _read(run.path / RESULT)
        if not counts(run.result):
            return f"{run.path}: not finished, or to try the code: left out"
        return str(keep(run, options.to))

    over_runs(options.folders, act, lambda error: f"cannot be kept: {error}")


if __name__ == "__main__":
    run_entry(main)
