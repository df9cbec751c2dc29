"""Write a recipe for a folder of photographs and masks of your own.

It reads every file, finds the masks, the classes and the split, measures two steps of training, and writes
``experiments/NAME.yaml`` and ``experiments/NAME.csv``.
"""

import hemnet.lab

import argparse
import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hemnet.config.command_line import log_to_terminal, run_entry
from hemnet.data.spec import DataError
from hemnet.storage.places import absolute
from hemnet.wording import counted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hemnet init", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=absolute, help="folder of the photographs and their masks, however nested"
    )
    parser.add_argument("--name", help="name of the recipe; default: that of the folder")
    parser.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME",
        help="names of the labels in ascending order, or NAME=LABEL each, as road=7 or road='#ff8000'; "
        "default: those that a file in the folder names",
    )  # fmt: skip
    parser.add_argument(
        "--images", metavar="PATTERN", help="which files are photographs, such as 'photos/*.png'"
    )
    parser.add_argument("--masks", metavar="PATTERN", help="which files are masks, such as '*_mask.png'")
    parser.add_argument(
        "--groups", metavar="REGEX",
        help="keep images in one split in whose names this regular expression finds the same, such as "
        "'(.*)_[0-9]+' for the frames of videos",
    )  # fmt: skip
    parser.add_argument(
        "--val-share", type=float, default=0.2, help="share of the images for validation; default: 0.2"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split; default: 0")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long training may take here, about; default: 10"
    )
    return parser


def _entry() -> None:
    options = vars(_parser().parse_args())
    log_to_terminal()
    folder: Path = options.pop("folder")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the photographs and their masks")
    # Here, since the imports take seconds, which --help does without.
    from hemnet.planning.plan import Wishes, init, summary
    from hemnet.planning.recipe import common_sizes, suggestions

    written = init(folder, Wishes(**options), Path.cwd() / "experiments")
    recipe, name = written.recipe.relative_to(Path.cwd()), written.recipe.stem
    if written.plan is None:
        print(f"{recipe} is there already, for the same files; nothing was changed.")
    else:
        plan = written.plan
        table = Table(title=f"{escape(plan.root)}: classes", title_justify="left")
        for heading in ("class", "label", "pixels %", "train images", "val images"):
            table.add_column(heading, justify="left" if heading == "class" else "right")
        for row in summary(plan):
            table.add_row(*map(escape, row))
        Console().print(table)
        train, val = plan.count("train"), plan.count("val")
        print(f"{train} photographs to train on and {val} to validate on, {plan.split_by}")
        sizes = common_sizes(plan.labels)
        print(f"height x width: {sizes}; the network sees a longer side of {plan.settings.longest}")
        for note in (*written.notes, *plan.classes.notes, *suggestions(plan)):
            print(f"note: {note}")
        print(f"written: {recipe} and {recipe.with_suffix('.csv')}; read the first, change what you like.")
    print(f"Next:\n  hemnet train experiment={shlex.quote(name)}")
    print(f"  hemnet evaluate runs/{name}/RUN\n  hemnet predict runs/{name}/RUN FOLDER_OF_PHOTOGRAPHS")
    if written.plan is not None and written.plan.minutes() is not None:
        length = f"{counted(written.plan.settings.steps, 'step')} in about {written.plan.minutes()} minutes"
        print(f"Training takes {length} here, by two steps measured; --minutes sets how long.")


def main() -> None:
    """Run the command."""
    run_entry(_entry)


if __name__ == "__main__":
    main()
