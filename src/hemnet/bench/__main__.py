"""The command line of the benchmarks: ``python -m hemnet.bench {em,data,ddp}``."""

import hemnet.lab

import argparse
import sys

from hemnet.bench import ddp, engines, input_path
from hemnet.bench.agreement import Disagreement
from hemnet.config.command_line import run_entry

DISAGREED = 1
"""Exit status when an engine disagrees with the reference, so that there is nothing to report."""
SUBJECTS = {"em": engines, "data": input_path, "ddp": ddp}


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="subject", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    for name, subject in SUBJECTS.items():
        subject.add_arguments(subparsers.add_parser(name, description=subject.__doc__, formatter_class=raw))
    options = parser.parse_args()
    try:
        SUBJECTS[options.subject].run(options)
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(DISAGREED)


if __name__ == "__main__":
    run_entry(_entry)
