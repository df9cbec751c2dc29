"""Shared by the commands: arguments, error messages, tables of scores."""

import argparse
import codecs
import io
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hemnet.config.overrides import split
from hemnet.errors import HemnetError
from hemnet.runs.redaction import redacted_terminal
from hemnet.storage.places import absolute

USER_ERROR = 2
"""Exit status after an error meant for users, which its message explains."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""
ERROR = "error: "
"""How that message begins."""


def run_entry(entry: Callable[[], None]) -> None:
    """Run a command; print an error meant for users without a traceback, and exit with status 2.

    Any other error is printed with its traceback, and the exit status is 1; after Ctrl-C it is 130. Secrets
    are removed from all that is printed. Where the locale is ASCII, the process starts again, see
    `_read_utf8`.
    """
    _read_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The locale may lack letters of a class, and names of files may have undecodable bytes.
            stream.reconfigure(errors="backslashreplace")
    with redacted_terminal():
        try:
            entry()
        except HemnetError as error:
            print(f"{ERROR}{error}", file=sys.stderr)
            sys.exit(USER_ERROR)
        except KeyboardInterrupt:  # Ctrl-C
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except Exception:
            traceback.print_exc()
            sys.exit(1)


def _read_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if arguments and file names are read as ASCII.

    There, Python takes apart every other letter of an argument, and cannot open a file whose name has one.
    The terminal still gets ASCII alone, with the codes of other letters.
    """
    ascii_alone = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if not ascii_alone or os.environ.get("PYTHONUTF8") == "1" or not sys.executable:
        return
    shown = f"{getattr(sys.stdout, 'encoding', 'ascii')}:backslashreplace"
    variables = {"PYTHONIOENCODING": shown} | os.environ | {"PYTHONUTF8": "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)


# Warnings about what this project does on purpose.
EXPECTED_WARNINGS = (
    "Experiment logs directory .* exists and is not empty",  # the run directory itself
    ".*does not have many workers",  # the recipe says how many
    ".*isinstance.treespec, LeafSpec.. is deprecated",  # Lightning's use of torch
    "You're resuming from a checkpoint that ended before the epoch ended",  # the samplers know the position
    "Checkpoint directory .* exists and is not empty",  # that of the resumed run
    "torch.distributed.nn.functional.all_gather is deprecated",  # Lightning's use of torch
    "It is recommended to use `self.log",  # all ranks log the same scores
    "The number of training batches .* is smaller than the logging interval",
)


def ignore_expected_warnings() -> None:
    """Suppress warnings about what this project does on purpose."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def log_to_terminal() -> None:
    """Send log messages to the terminal, for commands that write no run.log."""
    ignore_expected_warnings()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for package in ("pytorch_lightning", "lightning_fabric"):  # its notes, as in conf/train.yaml
        logging.getLogger(f"{package}.utilities.rank_zero").setLevel(logging.WARNING)


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the arguments of all commands on a trained network: the run, or several, and the checkpoint."""
    example = "run directory, such as runs/synthetic_hem/20260101-120000-a1b2c3"
    if several:
        parser.add_argument("run", nargs="*", type=absolute, help=f"{example}, or a folder of runs")
    else:
        parser.add_argument("run", type=absolute, help=example)
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="default: last")


def add_run_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the arguments of all commands that run a trained network: also the inference options."""
    add_checkpoint_arguments(parser, several=several)
    group = parser.add_argument_group(
        "inference",
        "changes the run's config, inference.*; by default the whole image once, at its own scale",
    )
    group.add_argument("--scales", nargs="+", type=float, metavar="S", help="average over these scales; "
                       "the literature's are 0.5 0.75 1 1.25 1.5 1.75, with --flip")  # fmt: skip
    group.add_argument("--flip", action="store_true", help="average over the mirror images too")
    group.add_argument("--window", nargs=2, type=int, metavar=("H", "W"), help="slide a window of this size")
    group.add_argument("--stride", nargs=2, type=int, metavar=("H", "W"), help="default: 2/3 of the window")


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line: return the options, and the ``key=value`` assignments, which may be anywhere.

    The options of inference and --split become assignments, so that they are checked like all keys.
    """
    parser.add_argument_group(
        "changes", "key=value changes the run's config, such as model.head.iterations_eval=8"
    )
    parser.usage = parser.format_usage().removeprefix("usage: ").rstrip() + " [key=value ...]"
    words, assignments = split(parser, sys.argv[1:])
    # Intermixed: of several words without an option, some may come before options and some after them. With
    # "--" that fails for a run whose name begins with a dash.
    options = (parser.parse_args if "--" in words else parser.parse_intermixed_args)(words)
    for name in ("scales", "window", "stride"):
        if (values := getattr(options, name, None)) is not None:
            assignments.append(f"inference.{name}={values}")
    if (split_name := getattr(options, "split", None)) is not None:
        if not split_name:
            raise HemnetError("--split is empty: name a split, such as test, or leave the option out")
        assignments.append(f"data.val.split={split_name}")
    if getattr(options, "flip", False):
        assignments.append("inference.flip=true")
    return options, assignments


SUMMARY = {
    "mean IoU": "val/miou",
    "mean accuracy": "val/mean_accuracy",
    "pixel accuracy": "val/pixel_accuracy",
}


def print_scores(scores: Mapping[str, float], classes: Sequence[str], title: str) -> None:
    """Print the scores of `hemnet.training.metrics.summarize` as a table, in percent."""
    table = Table()
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    for name in classes:
        table.add_row(escape(name), _percent(scores[f"val/iou/{name}"]))
    table.add_section()
    for label, key in SUMMARY.items():
        table.add_row(label, _percent(scores[key]))
    print(title)  # above the table, whose own title would be broken at the table's width
    Console().print(table)


def print_sweep(scores: Mapping[int | None, Mapping[str, float]], title: str) -> None:
    """Print a table, in percent, with a row of overall scores for each number of EM iterations."""
    table = Table()
    for heading in ("iterations", *(f"{label} %" for label in SUMMARY)):
        table.add_column(heading, justify="right")
    for iterations, found in scores.items():
        table.add_row(str(iterations), *(_percent(found[key]) for key in SUMMARY.values()))
    print(title)  # above the table, whose own title would be broken at the table's width
    Console().print(table)


def _percent(score: float) -> str:
    return "absent" if math.isnan(score) else f"{100 * score:.2f}"
