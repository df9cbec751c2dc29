"""Finding run directories in a folder."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from hemnet.errors import HemnetError

INNER = {"evaluation", "checkpoints", "figures", "wandb"}
"""The folders inside a run directory, in which `find_runs` does not look for further runs."""


def find_runs(folder: Path, marks: Collection[str] = ("config.yaml",)) -> Iterator[Path]:
    """Yield the directories at or below a folder that hold a file with one of the names ``marks``.

    Raises:
        HemnetError: there is no such folder.
    """
    if not folder.is_dir():
        raise HemnetError(f"{folder} is no folder: name run directories or folders that hold some")
    for path, names, files in os.walk(folder):
        if not {*marks}.isdisjoint(files):
            yield Path(path).resolve()
        names[:] = sorted(name for name in names if name not in INNER and not name.startswith("."))
