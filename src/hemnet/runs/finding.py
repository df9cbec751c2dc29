"""Finding run directories in a folder."""

import logging
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from hemnet.errors import HemnetError

log = logging.getLogger(__name__)
INNER = {"evaluation", "checkpoints", "figures", "wandb"}
"""The folders inside a run directory, in which `find_runs` does not look for further runs."""
OF_WANDB = re.compile("wandb/(offline-)?run-")
"""The beginning of W&B's folders of runs, which hold a config.yaml of its own, wherever its folder is."""


def find_runs(folder: Path, marks: Collection[str] = ("config.yaml",)) -> Iterator[Path]:
    """Yield the directories at or below a folder that hold something with one of the names ``marks``.

    A warning names each folder that cannot be read.

    Raises:
        HemnetError: there is no such folder.
    """
    if not folder.is_dir():
        raise HemnetError(f"{folder} is no folder: name run directories or folders that hold some")
    for path, names, files in os.walk(folder, onerror=_warn):
        inner = set[str]()
        if not {*marks}.isdisjoint([*files, *names]):  # a folder in a file's place is damage to be told
            yield Path(path).resolve()
            inner = INNER
        within = os.path.basename(path)
        names[:] = sorted(
            name for name in names
            if name not in inner and not name.startswith(".") and not OF_WANDB.match(f"{within}/{name}")
        )  # fmt: skip


def _warn(error: OSError) -> None:
    log.warning("%s cannot be read (%s): runs in it are left out", error.filename, error.strerror)
