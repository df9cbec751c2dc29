"""Download, check and view data sets."""

import hemnet.lab

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from hemnet.config.check import check as check_config
from hemnet.config.check import check_parts
from hemnet.config.command_line import INTERRUPTED, log_to_terminal, run_entry
from hemnet.config.compose import compose_only, load
from hemnet.config.feasible import require_data
from hemnet.data.archives.catalogue import CATALOGUE
from hemnet.data.archives.fetch import describe, fetch, missing
from hemnet.data.degenerate import degenerate, too_few_classes
from hemnet.data.listing import collecting
from hemnet.data.spec import DataError, DatasetSpec
from hemnet.data.survey import Survey, by_cause, walk
from hemnet.runs.redaction import redact_argument
from hemnet.storage.destinations import JsonOutput, named_by, require_own, require_writable
from hemnet.storage.download import Patience
from hemnet.storage.places import absolute
from hemnet.wording import counted

log = logging.getLogger(__name__)
SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")
WRONG = 1
SHOWN = 3
"""How many messages of one cause are printed."""


def get(name: str, root: Path | None, mirror: str | None, timeout: float, ask: bool) -> None:
    """Download a data set, after printing its source and terms.

    Args:
        name: a key of the catalogue.
        root: folder of the data set; default: that of ``data=NAME``.
        mirror: URL of a folder with the same files.
        timeout: seconds without data after which a connection is given up.
        ask: whether to ask for confirmation.

    Raises:
        hemnet.errors.HemnetError: there is no such data set, or it cannot be downloaded completely.
    """
    if name not in CATALOGUE:
        raise DataError(f"no data set {name!r}: there are {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]
    root = root or absolute(os.environ.get("HEMNET_DATA", "data")) / name
    wanted = missing(entry, root)
    if wanted:
        print("\n".join(describe(entry, wanted, root, mirror)), flush=True)
        if ask and input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise DataError("nothing was downloaded")
        fetch(entry, root, mirror, Patience(timeout))
    said = "is in" if wanted else "is already in"
    print(f"{name} {said} {root}; check it: python -m hemnet.data check data={name} data.root={root}")


def check(overrides: list[str], workers: int, output: Path | None) -> bool:
    """Read both splits of a data set, print their contents, and return whether every sample can be used.

    Args:
        overrides: ``data=NAME`` and further assignments, as for training.
        workers: processes that share the work; 0 uses this process.
        output: JSON file for all results.

    Raises:
        hemnet.errors.HemnetError: the configuration is wrong, or neither split can be opened.
    """
    config = compose_only(overrides)
    require_data(check_parts(config))
    check_config(config)
    about = {"made_by": "hemnet data check", "overrides": [redact_argument(word) for word in overrides]}
    results = JsonOutput(output, "--json", about)
    from hemnet.config.build import build_reader  # here, as it takes seconds, which --help does without

    surveys: dict[str, Survey] = {}
    broken: dict[str, str] = {}
    spec: DatasetSpec | None = None
    for split in SPLITS:
        try:
            with collecting() as incomplete:
                reader = build_reader(config, split)
        except DataError as error:
            broken[split] = str(error)
            continue
        spec, surveys[split] = reader.spec, Survey(problems=incomplete)
        pieces = walk(reader, workers)
        console = Console(stderr=True)
        doing = escape(f"{spec.name} {split}")
        for piece in track(pieces, doing, total=None, console=console, transient=True,
                           disable=not console.is_terminal):  # fmt: skip
            surveys[split].add(piece)
    if spec is None:
        raise DataError("; ".join(dict.fromkeys(broken.values())))
    _judge_labels(surveys, spec)
    problems = {split: surveys[split].problems for split in surveys} | {s: [broken[s]] for s in broken}
    sound = not any(problems.values())
    _print_surveys(surveys, spec, problems)
    found = {split: survey.to_dict(spec) for split, survey in surveys.items()}
    found |= {split: {"problems": [message]} for split, message in broken.items()}
    results.write({"data": spec.name, "sound": sound, "splits": found})
    return sound


def _judge_labels(surveys: dict[str, Survey], spec: DatasetSpec) -> None:
    """Add what is wrong with the labels of a split as a whole to its problems."""
    wrong = degenerate(spec, {split: survey.counts for split, survey in surveys.items()})
    for split, message in wrong.items():
        surveys[split].problems.append(message)
    if few := too_few_classes(spec):
        surveys[next(iter(surveys))].problems.append(few)


def _print_surveys(surveys: dict[str, Survey], spec: DatasetSpec, problems: dict[str, list[str]]) -> None:
    title = f"{escape(spec.name)}: per cent of the labelled pixels, and images"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for split in surveys:
        table.add_column(f"{split} %", justify="right")
        table.add_column(f"{split} images", justify="right")
    for k, name in enumerate(spec.classes):
        cells = [(100 * s.frequencies(spec)[k], s.images[k]) for s in surveys.values()]
        table.add_row(
            escape(name), *(text for share, images in cells for text in (f"{share:.3f}", str(images)))
        )
    Console().print(table)
    for split, survey in surveys.items():
        print(f"{split}: {counted(survey.samples, 'sample')}, {survey.readable} can be used; "
              f"{100 * survey.ignored_share:.2f} % of the pixels are ignored")  # fmt: skip
        if survey.unlabelled:
            print(f"  note: {counted(survey.unlabelled, 'usable sample')} without a labelled pixel")
    count = sum(map(len, problems.values()))
    print(counted(count, "problem") + (":" if count else ""))
    for split, messages in problems.items():
        for group in by_cause(messages):
            if len(group) > 1:
                print(f"  {split}: {len(group)} times, in different files:")
            for message in group[:SHOWN]:
                print(f"  {split}: {message}" if len(group) == 1 else f"    {message}")
            if len(group) > SHOWN:
                print(f"    ... and {len(group) - SHOWN} more; --json FILE writes all of them")


def browse(overrides: list[str], output: Path | None, count: int) -> None:
    """Write a figure of the first training crops of the first epoch, with their labels.

    Args:
        overrides: ``data=NAME`` and further assignments, as for training.
        output: the PNG file; None is browse/NAME.png beside the runs, NAME being that of the data set.
        count: number of crops, >= 1.

    Raises:
        hemnet.errors.HemnetError: the configuration or the data are wrong.
    """
    if count < 1:
        raise DataError(f"--count must be 1 or more, got {count}")
    config = load(overrides)
    from hemnet.config.build import build_reader, build_train_transform
    from hemnet.data import EpochSampler, SampleDataset, denormalize
    from hemnet.figures.predictions import Shown, contact_sheet, record_of

    reader, seed = build_reader(config, "train"), config.data.seed
    dataset = SampleDataset(reader, build_train_transform(config), seed)
    keys = list(EpochSampler(len(dataset), seed))[:count]
    about = {"made_by": "hemnet data browse", "data": reader.spec.name}
    page = output or Path(config.runs) / "browse" / f"{reader.spec.name}.png"
    # Those of older versions, which have an empty record, are replaced in the place that is not the user's.
    needed = None if output else ()
    require_own(page, record_of, about, maker=about["made_by"], needed=needed)
    with named_by("--output", page):
        require_writable(page)
    items = [dataset[key] for key in keys]
    shown = [Shown(item["name"], denormalize(item["image"]), item["mask"].numpy()) for item in items]
    with named_by("--output", page):
        contact_sheet(shown, reader.spec, page, json.dumps(about))
    print(
        f"{len(keys)} of {counted(len(dataset), 'training image')}, as augmented in the first epoch; "
        f"written to {page}"
    )


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
    """Add a subcommand, with what it does in the list of them and in its own help."""
    return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hemnet data", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    known = ", ".join(CATALOGUE)
    getter = _command(commands, "get", "download, verify and unpack a data set")
    getter.add_argument("name", help=f"one of {known}")
    getter.add_argument("--root", type=absolute, help="folder; default: NAME under $HEMNET_DATA, else data/")
    getter.add_argument(
        "--mirror", help="URL of a folder with the same files, used instead of the official ones"
    )
    getter.add_argument(
        "--timeout", type=float, default=30.0, help="seconds without data after which to give up; default: 30"
    )
    getter.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    checker = _command(
        commands, "check", "read every file, count classes, list problems; exit status 1 if there are any"
    )
    checker.add_argument("--workers", type=int, default=0, help="processes that share the work; default: 0")
    checker.add_argument("--json", type=absolute, help="write all results to this file")
    browser = _command(commands, "browse", "draw augmented training crops with their labels")
    browser.add_argument("--output", type=absolute, help="PNG file; default: runs/browse/SET.png")
    browser.add_argument("--count", type=int, default=12, help="crops to show; default: 12")
    for command in (checker, browser):
        command.add_argument("overrides", nargs="+", metavar="data=NAME",
                             help="and other key=value, as for training: data.root=FOLDER")  # fmt: skip
    return parser


def _entry() -> None:
    options = _parser().parse_args()
    log_to_terminal()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that incomplete files are removed
    try:
        if options.command == "get":
            ask = sys.stdin.isatty() and sys.stdout.isatty() and not options.yes
            get(options.name, options.root, options.mirror, options.timeout, ask)
        elif options.command == "browse":
            browse(options.overrides, options.output, options.count)
        elif not check(options.overrides, options.workers, options.json):
            sys.exit(WRONG)
    except KeyboardInterrupt:
        print("interrupted; run the same command to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)


def main() -> None:
    """Run the command."""
    run_entry(_entry)


if __name__ == "__main__":
    main()
