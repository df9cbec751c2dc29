"""Finding run directories in a folder."""

import logging
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from hemnet.errors import HemnetError

log = logging.getLogger(__name__)
INNER = {"evaluation", "checkpoints", "figures", "wandb"}
"""The folders inside a run directory, in which `find_runs` does not look for further runs."""
OF_WANDB = re.compile("wandb/(offline-)?run-")
"""The beginning of W&B's folders of runs, which hold a config.yaml of its own, wherever its folder is."""


def find_runs(
    folders: Sequence[Path], marks: Collection[Collection[str]] = (("config.yaml",),)
) -> list[Path]:
    """Return the directories at or below the folders that hold all names of one of the ``marks``.

    They are sorted, and each is there once. Links to folders are followed; of a directory that lies in one of
    the folders and also behind a link, the former path is returned. A warning names each folder that cannot
    be read.

    Raises:
        HemnetError: a folder is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise HemnetError(f"{folder} is no folder: name run directories or folders that hold some")
    found: list[Path] = []
    seen = set[str]()
    places = [folder.resolve() for folder in folders]
    for place in places:  # which grows by the links to folders that are met
        for path, names, files in os.walk(place, onerror=_warn):
            if (real := os.path.realpath(path)) in seen:
                names.clear()
                continue
            seen.add(real)
            inner = set[str]()
            here = {*files, *names}  # a folder in a file's place is damage to be told
            if any(here.issuperset(mark) for mark in marks):
                found.append(Path(path))
                inner = INNER
            within = os.path.basename(path)
            names[:] = [
                name for name in names
                if name not in inner and not name.startswith(".") and not OF_WANDB.match(f"{within}/{name}")
            ]  # fmt: skip
            places += [link for name in sorted(names) if (link := Path(path, name)).is_symlink()]
    return sorted(found)


def _warn(error: OSError) -> None:
    log.warning("%s cannot be read (%s): runs in it are left out", error.filename, error.strerror)
