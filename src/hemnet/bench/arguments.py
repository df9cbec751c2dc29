"""What the benchmarks share: option types, their errors, progress notes, and the JSON file."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from hemnet.errors import HemnetError
from hemnet.runs.provenance import environment
from hemnet.storage.destinations import JsonOutput

CONTENDERS = ("reference", "recompute", "triton", "compiled", "checkpointed")
"""The names of what the benchmark of the EM engines compares."""
ABOUT = {"made_by": "hemnet bench"}


class BenchError(HemnetError):
    """An option that cannot be satisfied on this machine, or a benchmark process that ended."""


class Disagreement(HemnetError):
    """A contender computes something else than the reference, so its times mean nothing."""


def require_place(file: Path | None) -> None:
    """Refuse a file for ``--json`` before anything is measured.

    Raises:
        BenchError: its folder does not exist.
        HemnetError: it cannot be written, or is no file of a benchmark.
    """
    if file is not None and not file.parent.is_dir():
        raise BenchError(f"--json: the folder {file.parent} does not exist; make it first")
    JsonOutput(file, "--json", ABOUT)


def write_findings(file: Path | None, found: dict[str, Any]) -> None:
    """Write a benchmark's results as JSON, if a file was named, and print where.

    Raises:
        HemnetError: see `require_place`.
    """
    if file is not None:
        JsonOutput(file, "--json", ABOUT).write(found)
        print(f"\nwritten to {file}")


def setting() -> dict[str, Any]:
    """Return the environment; the command is given without installation paths, since reports are shared."""
    return environment() | {"command": ["python", "-m", "hemnet.bench", *sys.argv[1:]]}


def say(what: str) -> None:
    """Print a progress note to stderr, apart from the results on stdout."""
    print(what, file=sys.stderr, flush=True)


def count(text: str) -> int:
    """Read a whole number, 1 or more."""
    if whole(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no count: give a whole number, 1 or more")
    return int(text)


def whole(text: str) -> int:
    """Read a whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count: give a whole number")
    return int(text)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted: give a number above 0")
    return value
