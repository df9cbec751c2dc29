"""The whole report: from folders of runs to a page, figures and tables on disk."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from hemnet.errors import HemnetError
from hemnet.report.collect import collect

MARK = '<meta name="generator" content="hemnet.report">'
"""A line of the page, by which a later report knows that it may replace it."""
LISTED = "files.json"
"""Lists the files of a report, so that the next report in the same folder can remove outdated ones."""
OWN_FILE = re.compile(r"(figures/\w+\.(pdf|svg)|tables/\w+\.(csv|tex))")


def write_report(folders: Sequence[Path], out: Path, *, images: bool = True) -> Path:
    """Write the report on all runs at or below the folders and return the path of its page.

    Args:
        folders: run directories, or folders that hold some.
        out: the folder of the report; an earlier report in it is replaced, other files are kept.
        images: whether the page shows predictions and attention maps.

    Raises:
        HemnetError: a folder is missing, there is no run, or ``out`` holds an index.html of something else.
    """
    _refuse_foreign(out)
    records, unreadable = collect(folders)
    from hemnet.report.assemble import write_page  # here, as it takes seconds, which errors do without

    page = out / "index.html"
    _forget_old(out, write_page(records, unreadable, page, images=images))
    return page


def _refuse_foreign(out: Path) -> None:
    page = out / "index.html"
    if out.exists() and not out.is_dir():
        raise HemnetError(f"{out} is a file: name a folder for the report with --out")
    if page.is_file() and MARK not in page.read_text(encoding="utf-8", errors="replace"):
        raise HemnetError(
            f"{page} is not a report of hemnet and is not replaced: name another folder with --out"
        )


def _forget_old(out: Path, files: Sequence[str]) -> None:
    listing = out / LISTED
    try:
        old = {str(name) for name in json.loads(listing.read_text("utf-8"))} if listing.is_file() else set()
    except (ValueError, TypeError, RecursionError):
        old = set()  # the list is damaged; the files it named are kept
    for name in old - set(files):
        if OWN_FILE.fullmatch(name):  # the list may be anybody's, so no other file is removed
            (out / name).unlink(missing_ok=True)
    listing.write_text(json.dumps(files, indent=1) + "\n", "utf-8")
