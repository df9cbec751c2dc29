"""Measure the EM layer, the input path, or training by several processes."""

import hemnet.lab

import argparse
import sys
from importlib import import_module

from hemnet.bench.arguments import Disagreement
from hemnet.config.command_line import run_entry

DISAGREED = 1
"""Exit status when an engine disagrees with the reference, so that there is nothing to report."""
SUBJECTS = ("em", "data", "ddp")
"""What can be measured; the module bench_SUBJECT has its options and imports the rest when it runs."""


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet bench", description=__doc__)
    subparsers = parser.add_subparsers(dest="subject", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    for name in SUBJECTS:
        subject = import_module(f"hemnet.bench.bench_{name}")
        about = subject.__doc__ or ""
        described = subparsers.add_parser(
            name, help=about.partition("\n")[0], description=about, formatter_class=raw
        )
        subject.add_arguments(described)
        described.set_defaults(run=subject.run)
    options = parser.parse_args()
    try:
        options.run(options)
    except Disagreement as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(DISAGREED)


if __name__ == "__main__":
    run_entry(_entry)
