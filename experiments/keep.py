"""Copy the small files of finished runs, without the paths of this machine, to where they can be committed.

    python experiments/keep.py RUN_OR_FOLDER [RUN_OR_FOLDER ...] --to experiments/results/study_primary

Per run: configuration, environment, metrics, result, scores of evaluations and measures (measure.py), and its
figures where these show no photographs, since most data sets' may not be passed on. Checkpoints stay. The
paths of the run and of its data become ``<run>`` and ``<CamVid>`` (the class that reads the data), and those
of the program ``src/hemnet/train.py``. What was kept of the same run before is replaced.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from hemnet.errors import HemnetError
from hemnet.runs.finding import find_runs
from hemnet.runs.run import ENVIRONMENT, Run
from hemnet.storage.files import read_json, replacing

# What leads to a file of the program, wherever it was installed when the run was made.
TO_PROGRAM = re.compile(r"/[^\s\"']*?/(?=(?:src/)?hemnet/\w+\.py)")
TEXTS = (
    "config.yaml", ENVIRONMENT, "metrics.csv", "result.json", "measures/*.csv", "measures/*.json",
    "evaluation/**/result.json", "evaluation/**/counts.csv", "evaluation/**/iterations.csv",
)  # fmt: skip
FIGURES = ("figures/learning_curves.png", "figures/predictions.png")


def keep(run: Run, folder: Path) -> Path:
    """Copy a run's small files into a folder below this one, and return that.

    Raises:
        HemnetError: another run has been kept under this name.
        OSError: a file cannot be read or written.
    """
    place = folder / run.path.name
    known, own = (read_json(path / ENVIRONMENT).get("started") for path in (place, run.path))
    if place.exists() and known != own:
        raise HemnetError(
            f"{place} is of a run that started at {known}, and this one at {own}: rename the run"
        )
    config = OmegaConf.load(run.path / "config.yaml")  # as it was trained: the run may have been moved since
    reader, root, trained = (
        str(OmegaConf.select(config, key) or "") for key in ("data.val._target_", "data.root", "run_dir")
    )
    named = {str(run.path): "<run>", trained: "<run>", root: f"<{reader.rpartition('.')[2] or 'data'}>"}
    # The longer first, since one may be inside the other. What is relative says nothing of the machine.
    paths = sorted((path for path in named if path.startswith("/")), key=len, reverse=True)
    for path in (path for pattern in TEXTS for path in run.path.glob(pattern)):
        text = path.read_text("utf-8")
        for machine in paths:
            text = text.replace(machine, named[machine])
        with replacing(place / path.relative_to(run.path)) as part:
            part.write_text(TO_PROGRAM.sub("", text), "utf-8")
    photographs = OmegaConf.select(run.config, "callbacks.predictions.show_images")
    for path in (run.path / name for name in FIGURES if photographs is False or "predictions" not in name):
        if path.exists():
            with replacing(place / path.name) as part:
                part.write_bytes(path.read_bytes())
    return place


def main(arguments: Sequence[str] | None = None) -> None:
    """Keep every finished run; a run that cannot be kept is named, and the exit status is 1."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN_OR_FOLDER", help="runs, or folders of runs"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="gets a folder per run")
    options = parser.parse_args(arguments)
    failed = False
    try:
        paths = sorted({path for folder in options.folders for path in find_runs(folder)})
    except HemnetError as error:
        sys.exit(str(error))
    for path in paths:
        try:
            run = Run.open(path)
            print(keep(run, options.to) if run.status == "finished" else f"{path}: not finished, left out")
        except (HemnetError, OSError, UnicodeDecodeError) as error:
            failed = True
            print(f"{path}: cannot be kept: {error}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
