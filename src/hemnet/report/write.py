"""The whole report: from folders of runs to a page, figures and tables on disk."""

import errno
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hemnet.errors import HemnetError
from hemnet.report.collect import collect
from hemnet.report.file_names import FOLDERS, PAGE
from hemnet.report.printable import printable
from hemnet.storage.destinations import named_by, require_writable
from hemnet.storage.files import hold, remove_abandoned, remove_abandoned_in, replacing_in, write_json
from hemnet.wording import counted

log = logging.getLogger(__name__)
GENERATOR = "hemnet.report"
"""The entry ``generator`` of the list of files, by which it is known where there is no page yet."""
MARK = f'<meta name="generator" content="{GENERATOR}">'
"""A line of the page, by which a later report knows that it may replace it."""
LISTED = "files.json"
"""Lists the files of a report. The next report in the same folder replaces or removes these alone."""
LOCK = ".lock"
OWN_FILE = re.compile(r"(figures/\w+\.(pdf|svg)|tables/\w+\.(csv|tex))")
LINK = re.compile(rf'href="{OWN_FILE.pattern}"')
"""Of the page of a report to one of its files."""


def write_report(folders: Sequence[Path], out: Path, *, images: bool = True) -> Path:
    """Write the report on all runs at or below the folders and return the path of its page.

    Args:
        folders: run directories, or folders that hold some.
        out: the folder of the report; an earlier report in it is replaced, other files are kept.
        images: whether the page shows predictions and attention maps.

    Raises:
        HemnetError: a folder is missing, there is no run, or ``out`` cannot be written, holds an index.html
            or files.json of something else, or is being written by another process.
    """
    page = out / PAGE
    with named_by("--out", out):  # before the runs are read, which takes long
        for folder in (out, *(out / name for name in FOLDERS)):
            require_writable(folder, folder=True)
        _own_files(page, out / LISTED)
    records, unreadable = printable(collect(folders))
    from hemnet.report.assemble import write_page  # here, as it takes seconds, which errors do without

    busy = f"another report is being written to {out}: try again when it is done, or name another --out"
    with named_by("--out", out):
        out.mkdir(parents=True, exist_ok=True)
        with hold(out / LOCK, busy):
            remove_abandoned_in(out)
            remove_abandoned(out / LISTED)
            old = _own_files(page, out / LISTED)
            with replacing_in(out, last=PAGE) as part:  # a disk that is full leaves the earlier report whole
                files = write_page(records, unreadable, part, out, images=images)
                _claim(out, old, files)
            for name in {*old} - {*files}:
                # The list may be anybody's, so no other file is removed.
                if OWN_FILE.fullmatch(name) and not (out / name).is_dir():
                    (out / name).unlink(missing_ok=True)
            _write_list(out, files)
    finished = sum(record.counts for record in records)
    found = counted(len(records) + len(unreadable), "run")
    log.info("%s found, %d finished and counted; the report is %s", found, finished, page)
    return page


def _claim(out: Path, old: Sequence[str], files: Sequence[str]) -> None:
    """List files that will be written, beside those of the earlier report, and refuse those of somebody else.

    They are listed before they are there, so that a report that is killed leaves none that nobody owns.
    """
    for name in files:
        if name not in old and os.path.lexists(out / name):
            _refuse(out / name)
        if (out / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(out / name))
    _write_list(out, sorted({*old, *files}))


def _write_list(out: Path, files: list[str]) -> None:
    write_json(out / LISTED, {"generator": GENERATOR, "files": files})


def _own_files(page: Path, listing: Path) -> list[str]:
    """Return the files of the earlier report in a folder, and refuse what is none of hemnet's.

    A page or a list that is empty is what a full disk left of a report. Older versions wrote the names alone.
    Of a report of which the list is lost, they are those to which its page has links.
    """
    text = page.read_text("utf-8", "replace") if page.exists() else None
    if text and MARK not in text:
        _refuse(page)
    linked = [found[1] for found in LINK.finditer(text or "")]
    if not listing.exists():
        return linked
    try:
        content = json.loads(listing.read_text("utf-8") or "[]")
    except (ValueError, RecursionError):
        content = None
    marked = isinstance(content, dict) and content.get("generator") == GENERATOR
    names = content.get("files") if marked else content
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or (text is None and not marked):
        _refuse(listing)
    return names or linked


def _refuse(path: Path) -> NoReturn:
    raise HemnetError(
        f"{path} is not of a report of hemnet and is not replaced: name another --out, or delete it"
    )
