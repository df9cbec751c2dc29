"""What the scripts that go over runs share: command line, loop, and the place of measure.py's tables."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hemnet.errors import HemnetError
from hemnet.runs.checkpoints import fingerprint
from hemnet.runs.evaluations import results_of
from hemnet.runs.finding import find_runs
from hemnet.runs.identity import PLAIN_HEADS, identity
from hemnet.runs.run import Run, counts
from hemnet.storage.files import read_json
from hemnet.storage.places import absolute

MEASURES = "measures"
"""The folder of a run with what measure.py and refit.py found."""
ABOUT, REFIT = "about.json", "refit.json"
"""What measure.py's tables are of, checkpoint and images; and what refit.py found, with its checkpoint."""
REFIT_EPOCHS = 5
"""How long refit.py trains in STUDY.md."""


def is_whole(about: Mapping[str, Any]) -> bool:
    """Return whether a JSON file of measures has something, and not a quick look by an older version."""
    return bool(about) and not about.get("images_asked") and about.get("epochs", REFIT_EPOCHS) == REFIT_EPOCHS


def of_last(run: Path, name: str = ABOUT) -> dict[str, Any] | None:
    """Return a JSON file of a run's measures; None without a whole one, or if not of the last checkpoint.

    Where the checkpoint is not at hand, that is the one which the run's evaluations are of.
    """
    about = read_json(run / MEASURES / name)
    if not is_whole(about):
        return None
    known = fingerprint(run / "checkpoints" / "last.ckpt")
    digests = [known] if known else [result.get("checkpoint_sha256") for result in results_of(run).values()]
    digests = [digest for digest in digests if digest]
    return about if not digests or about.get("checkpoint_sha256") in digests else None


def parser_of_runs(doc: str) -> argparse.ArgumentParser:
    """Return a parser of runs and folders of runs, ``folders``, described by a module's first line."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument(
        "folders", nargs="+", type=absolute, metavar="RUN_OR_FOLDER", help="runs, or folders of runs"
    )
    return parser


def over_em_runs(folders: Sequence[Path], work: Callable[[Run], bool], done: str, written: str) -> None:
    """Do something with each finished run with an EM layer, except trials of the code; see `over_runs`.

    Args:
        folders: runs, or folders of runs.
        work: does it; returns whether there was anything to do.
        done: what then has been done with a run.
        written: what the work writes.
    """

    def act(run: Run) -> str | None:
        if not counts(run.result) or identity(run.config).head in PLAIN_HEADS.values():
            return None
        return f"{run.path}: {done if work(run) else f'was {done}'}"

    def wrong(error: HemnetError | OSError) -> object:
        return f"cannot write its {written} ({error})" if isinstance(error, OSError) else error

    over_runs(folders, act, wrong)


def over_runs(
    folders: Sequence[Path],
    act: Callable[[Run], str | None],
    wrong: Callable[[HemnetError | OSError], object],
) -> None:
    """Print what is said of each run, if anything; a run that fails is named, and the exit status is 1.

    Args:
        folders: runs, or folders of runs.
        act: does something with a run, and says what.
        wrong: says what went wrong.

    Raises:
        HemnetError: a folder is missing.
    """
    failed = False
    for path in find_runs(folders):
        try:
            if said := act(Run.open(path)):
                print(said, flush=True)
        except (HemnetError, OSError) as error:
            failed = True
            print(f"{path}: {wrong(error)}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(1)
