"""Files that are either whole or not there, whatever goes wrong while they are written; tables; locks."""

import csv
import fcntl
import glob
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file to write in place of ``path``, which it becomes when the block ends.

    It is in the folder of ``path``, which is made, has the same suffix and a hidden name of its own. Until
    the block ends, and for good if it raises, ``path`` stays as it was; then the new file is removed. Only a
    killed process leaves it behind, see `remove_abandoned`.

    Args:
        path: the file to make or to replace.

    Raises:
        OSError: ``path`` cannot be written, which is found out before the block is entered as far as it can.
    """
    if path.is_dir():
        raise IsADirectoryError("it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        part.touch(exist_ok=False)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name with no content
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # and the name itself
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of files to replace ``path``; only for who alone writes it."""
    for part in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        part.unlink(missing_ok=True)


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header, each without its empty cells; [] if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header, whole or not at all."""
    with replacing(path) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def write_records(path: Path, head: Sequence[str], records: Iterable[Mapping[str, str]]) -> None:
    """Write what `read_table` has read: the columns of ``head``, empty where a record has no value."""
    write_table(path, head, ([record.get(name, "") for name in head] for record in records))


def require_unpacked(file: IO[bytes]) -> None:
    """Raise a ValueError if a file is a zip archive of more than its own size; torch packs none of its own.

    Raises:
        zipfile.BadZipFile: it is an archive that is damaged.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > os.fstat(file.fileno()).st_size:
                raise ValueError("it claims to hold more than its own size")


def hold(folder: Path) -> IO[str]:
    """Return a lock on a folder, which lasts until it is closed or the process ends.

    Raises:
        BlockingIOError: another process, or this one, holds the folder.
    """
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise
    return lock
