"""Files that are written whole or not at all, tables, JSON, and locks between processes."""

import csv
import fcntl
import glob
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from hemnet.errors import HemnetError

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file, and rename it to ``path`` when the block ends without an error.

    The temporary file is in the folder of ``path``, which is created if missing, and has the same suffix. If
    the block raises, the temporary file is removed and ``path`` is unchanged. A process that is killed within
    the block leaves the temporary file behind: see `remove_abandoned`.

    Args:
        path: the file to create or replace.

    Raises:
        OSError: ``path`` cannot be written. A folder that cannot be written to fails before the block runs.
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
            os.fsync(folder)  # the folder holds the name, which must reach the disk too
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_in(folder: Path, last: str) -> Iterator[Path]:
    """Yield an empty temporary folder, and move its files into ``folder`` when the block ends without error.

    So of several files that belong together either all are new, or none. If the block raises, ``folder`` is
    unchanged. A process that is killed within the block leaves the temporary folder behind: see
    `remove_abandoned_in`.

    Args:
        folder: created if missing, as are folders in it that hold files of the block.
        last: the path in ``folder`` of the file that is moved last: if it is there, so are the others.

    Raises:
        OSError: a file cannot be written or replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(".part", ".", folder))
    try:
        yield part
        names = sorted(str(path.relative_to(part)) for path in part.rglob("*") if not path.is_dir())
        for name in sorted(names, key=lambda name: name == last):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part / name, folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_abandoned_in(folder: Path) -> None:
    """Remove temporary folders of `replacing_in`. No other process may be writing in ``folder`` now."""
    for part in folder.glob(".????????.part"):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of `replacing` for ``path``. No other process may be writing ``path`` now."""
    for part in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        part.unlink(missing_ok=True)


def read_cells(path: Path) -> list[dict[str, str | None]]:
    """Return the rows of a CSV file with a header; [] if there is no file.

    None stands for the cells that a row lacks. Those beyond the header are a list, below the key None.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as `read_cells` does, each without its empty cells."""
    return [{key: value for key, value in row.items() if value} for row in read_cells(path)]


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header, whole or not at all."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def write_records(path: Path, head: Sequence[str], records: Iterable[Mapping[str, str]]) -> None:
    """Write rows as `read_table` returns them: the columns of ``head``, empty where a row has no value."""
    write_table(path, head, ([record.get(name, "") for name in head] for record in records))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if there is no file, or its content is not a JSON object."""
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):  # the last for content that is nested too deep
        return {}
    return content if isinstance(content, dict) else {}


Entry = TypeVar("Entry", str, float, list[Any], dict[str, Any])


def entry(content: Mapping[str, Any], name: str, default: Entry) -> Entry:
    """Return an entry of a JSON object; the default if there is none of the default's type.

    A file that somebody has changed may hold anything. With a float as default, the entry is a finite number.
    """
    value = content.get(name)
    if not isinstance(default, float):
        return value if isinstance(value, type(default)) else default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) <= sys.float_info.max else default  # type: ignore[arg-type]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all. NaN and infinity become null, since JSON has neither."""
    with replacing(path) as part:
        part.write_text(json.dumps(_finite(content), indent=2) + "\n", "utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hex digest of a file; ``algorithm`` is a name of `hashlib`, such as "sha256"."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def require_unpacked(file: IO[bytes]) -> None:
    """Refuse a zip archive that would unpack to more than its own size; torch does not compress checkpoints.

    Raises:
        ValueError: the archive claims to hold more than its own size.
        zipfile.BadZipFile: the archive is damaged.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > file.seek(0, os.SEEK_END):
                raise ValueError("it claims to hold more than its own size")


@contextmanager
def hold(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold a lock within the block, so that only one process at a time is there.

    Args:
        path: what to lock: a folder, or a file, which is created if missing. NFS locks files only.
        busy: the message of the error if another process holds the lock. None waits for that process, and
            accepts a file system that has no locks: the block then runs without one.

    Raises:
        HemnetError: the lock is held already, by another process or by this one, and ``busy`` is given.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if busy is not None:
                raise HemnetError(busy) from error
            log.warning("%s: waiting for another process, which is working there", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            if busy is not None:
                raise
        yield
    finally:
        os.close(handle)
