"""The whole report: from folders of runs to a page, figures and tables on disk."""

import json
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from hemnet.errors import HemnetError
from hemnet.report.collect import collect
from hemnet.report.printable import printable
from hemnet.storage.destinations import named_by, require_writable
from hemnet.storage.files import write_json

GENERATOR = "hemnet.report"
"""The entry ``generator`` of the list of files, by which it is known where there is no page yet."""
MARK = f'<meta name="generator" content="{GENERATOR}">'
"""A line of the page, by which a later report knows that it may replace it."""
LISTED = "files.json"
"""Lists the files of a report. The next report in the same folder replaces or removes these alone."""
FOLDERS = ("figures", "tables")
OWN_FILE = re.compile(r"(figures/\w+\.(pdf|svg)|tables/\w+\.(csv|tex))")


def write_report(folders: Sequence[Path], out: Path, *, images: bool = True) -> Path:
    """Write the report on all runs at or below the folders and return the path of its page.

    Args:
        folders: run directories, or folders that hold some.
        out: the folder of the report; an earlier report in it is replaced, other files are kept.
        images: whether the page shows predictions and attention maps.

    Raises:
        HemnetError: a folder is missing, there is no run, or ``out`` cannot be written or holds an index.html
            or files.json of something else.
    """
    page = out / "index.html"
    with named_by("--out", out):  # before the runs are read, which takes long
        for folder in (out, *(out / name for name in FOLDERS)):
            require_writable(folder, folder=True)
        old = _own_files(page, out / LISTED)
    records, unreadable = printable(collect(folders))
    from hemnet.report.assemble import write_page  # here, as it takes seconds, which errors do without

    with named_by("--out", out):
        for name in FOLDERS:
            (out / name).mkdir(parents=True, exist_ok=True)
        files = write_page(records, unreadable, page, images=images, claim=partial(_claim, out, old))
        for name in {*(old or ())} - {*files}:
            # The list may be anybody's, so no other file is removed.
            if OWN_FILE.fullmatch(name) and not (out / name).is_dir():
                (out / name).unlink(missing_ok=True)
        _write_list(out, files)
    return page


def _claim(out: Path, old: Sequence[str] | None, files: Sequence[str]) -> None:
    """List files that will be written, beside those of the earlier report, and refuse those of somebody else.

    They are listed before they are written, so that a report that is killed leaves none that nobody owns.
    """
    for name in files:
        if old is not None and name not in old and os.path.lexists(out / name):
            _refuse(out / name)
    _write_list(out, sorted({*(old or ()), *files}))


def _write_list(out: Path, files: list[str]) -> None:
    write_json(out / LISTED, {"generator": GENERATOR, "files": files})


def _own_files(page: Path, listing: Path) -> list[str] | None:
    """Return the files of the earlier report in a folder, and refuse what is none of hemnet's.

    A page or a list that is empty is what a full disk left of a report. Older versions wrote the names alone.
    None stands for a report of which the list is lost: its files may be replaced, and none is removed.
    """
    text = page.read_text("utf-8", "replace") if page.exists() else None
    if text and MARK not in text:
        _refuse(page)
    if not listing.exists():
        return None if text else []
    try:
        content = json.loads(listing.read_text("utf-8") or "[]")
    except (ValueError, RecursionError):
        content = None
    marked = isinstance(content, dict) and content.get("generator") == GENERATOR
    names = content.get("files") if marked else content
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or (text is None and not marked):
        _refuse(listing)
    return names or (None if text else [])


def _refuse(path: Path) -> NoReturn:
    raise HemnetError(
        f"{path} is not of a report of hemnet and is not replaced: name another --out, or delete it"
    )
