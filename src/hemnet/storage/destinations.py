"""What a command may write where a user says: the one rule for all commands.

An existing file is replaced only if a record in it says that it is the same output. Where nothing can be
written is said before the work, and what fails after it is an error that names the option to change.
"""

import errno
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hemnet.errors import HemnetError
from hemnet.storage.files import read_json, replacing, write_json

Record = Mapping[str, Any]
PART_LETTERS = 15
"""How much longer the temporary name of `replacing` is than that of the file."""


def require_own(
    place: Path,
    read: Callable[[Path], Record | None],
    wanted: Record,
    *,
    maker: str,
    option: str = "--output",
    needed: Collection[str] | None = None,
) -> None:
    """Refuse to replace a file that does not say that it is the same output; nothing there is accepted.

    Args:
        place: the file.
        read: takes the file, which is a regular one, and returns the record in it, None if it has none.
        wanted: the record of what is to be written, of plain containers as JSON has them.
        maker: whose outputs are replaced, for the message.
        option: names another place.
        needed: entries that the record must have, by default all. Of others, those that it has are compared.

    Raises:
        HemnetError: there is something else, or the output of something else.
    """
    if not os.path.lexists(place):
        return
    remedy = f"choose another {option}, or delete it first"
    found = read(place) if place.is_file() else None
    if found is None or not found.keys() >= {*(wanted if needed is None else needed)}:
        raise HemnetError(f"{place} exists, and does not say that {maker} made it: {remedy}")
    for key, value in wanted.items():
        if key in found and found[key] != value:
            named = f"{key.replace('_', ' ')} {_short(found[key])}, not {_short(value)}"
            raise HemnetError(f"{place} was made with {named}: {remedy}")


def _short(value: Any) -> str:
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))  # of a hash, as much as tells it


@contextmanager
def named_by(option: str, path: Path) -> Iterator[None]:
    """Name the option that a user can change if the block, which writes ``path``, cannot.

    Raises:
        HemnetError: the block raised an OSError.
    """
    with writing(path, f"choose another {option}"):
        yield


@contextmanager
def writing(path: Path, remedy: str = "make room there, or allow to write there") -> Iterator[None]:
    """Say that ``path`` cannot be written, and what helps, if the block raises an OSError.

    Raises:
        HemnetError: see above.
    """
    try:
        yield
    except OSError as error:
        raise HemnetError(f"cannot write {path} ({error}): {remedy}") from error


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """As `replacing`, of a file that ``--output`` names.

    Raises:
        HemnetError: ``path`` cannot be written.
    """
    with named_by("--output", path), replacing(path) as part:
        yield part


def require_writable(place: Path, *, folder: bool = False) -> None:
    """Raise an OSError if a file can certainly not be written; make nothing.

    Args:
        place: the file; it may be missing, as may the folders above it.
        folder: whether ``place`` is a folder for files instead.
    """
    if not folder and place.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(place))
    inside = place if folder else place.parent
    there = next(path for path in (inside, *inside.parents) if _exists(path))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it may not be written to", str(there))
    spare = 0 if folder else PART_LETTERS
    if max(len(os.fsencode(part)) for part in place.parts) + spare > os.statvfs(there).f_namemax:
        raise OSError(errno.ENAMETOOLONG, "the name is too long", str(place))


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except OSError:  # the name is too long
        return False


class JsonOutput:
    """Results that a command writes to a JSON file, if the user names one.

    Args:
        path: the file; None writes nothing.
        option: names it.
        about: what the results are of, in plain containers, with the command as ``made_by``. A file that
            lacks one of these entries, or has another value, is not replaced.

    Raises:
        HemnetError: the file cannot be written, or is something else.
    """

    def __init__(self, path: Path | None, option: str, about: Record) -> None:
        self.path, self.option, self.about = path, option, dict(about)
        if path is not None:
            with named_by(option, path):
                require_writable(path)
            require_own(path, read_json, self.about, maker=self.about["made_by"], option=option)

    def write(self, results: Record) -> None:
        """Write the results, after what they are of.

        Raises:
            HemnetError: the file cannot be written.
        """
        if self.path is not None:
            with named_by(self.option, self.path):
                write_json(self.path, self.about | dict(results))
