"""Unpacking archives from untrusted sources: nothing is written outside the folder, or without bound.

The filter of the standard library (`tarfile.data_filter`) is not used: it makes links, strips the slash of an
absolute path where this module refuses the archive, is missing before Python 3.11.4, and is for tar files.
"""

import errno
import gzip
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from hemnet.data.spec import DataError

CHUNK = 1 << 20
BLOCK = 512
CORRUPT = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
# Images and label files hardly shrink when packed; content that shrinks a hundredfold is no image set.
GROWTH, ALLOWANCE, MOST_FILES, DEEPEST, LONGEST_LINK = 30, 1 << 30, 1_000_000, 32, 4096
KIND_OF_MODE = {0: "file", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


class ArchiveError(DataError):
    """An archive is corrupt, or has an entry that no data set needs and an attacker could use."""


@dataclass
class Unpacked:
    """What came out of an archive: ``files`` and their ``size`` in bytes; ``links`` that were left out."""

    files: int = 0
    size: int = 0
    links: list[str] = field(default_factory=list)


class _Entry(NamedTuple):
    """An entry of an archive; the target of a link is relative to the top of the archive."""

    name: str
    kind: Literal["file", "folder", "link", "device"]
    target: str
    open: Callable[[], Any]


def unpack(archive: Path, folder: Path, limit: int | None = None) -> Unpacked:
    """Unpack a zip, tar or tar.gz file, recognised by content, into an empty folder.

    Only plain files and folders are made, with the permissions of new files. A link to a place within the
    folder is left out and listed.

    Args:
        archive: the file.
        folder: an existing empty folder.
        limit: bytes that may be written; default: 1 GiB and 30 times the archive's size.

    Raises:
        ArchiveError: the archive is corrupt or cut short, has an entry with an absolute path, an entry or a
            link that leaves the folder, two entries of one path, a device, or more than the limit. What was
            written until then is left in ``folder``, for the caller to remove.
        OSError: the disk is full, or cannot be written to.
    """
    limit = limit or ALLOWANCE + GROWTH * archive.stat().st_size
    done = Unpacked()
    try:
        with archive.open("rb") as file:
            for number, entry in enumerate(_entries(file, limit)):
                try:
                    _unpack_entry(entry, number, folder, limit, done)
                except _Refused as reason:
                    what = f"{archive}: the entry {entry.name[:99]!r} {reason}"
                    raise ArchiveError(f"{what}; nothing of this archive was kept") from None
    except ArchiveError:
        raise
    except CORRUPT as error:
        raise ArchiveError(f"{archive}: corrupt or cut short ({error})") from error
    except OSError as error:
        # These numbers come from the archive's content, not from the disk; errors of bz2 have no number.
        if error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
            raise
        raise ArchiveError(f"{archive}: corrupt, or with names that cannot be ({error})") from error
    except (RuntimeError, ValueError) as error:
        raise ArchiveError(f"{archive}: not of a kind that is unpacked here ({error})") from error
    return done


class _Refused(Exception):
    """An entry is refused; the message continues "the entry NAME"."""


def _unpack_entry(entry: _Entry, number: int, folder: Path, limit: int, done: Unpacked) -> None:
    if number >= MOST_FILES:
        raise _Refused(f"is more than the {MOST_FILES} that an archive may have")
    path = folder / _plain_path(entry.name)
    try:
        if entry.kind == "folder":
            path.mkdir(parents=True, exist_ok=True)
        elif entry.kind == "file":
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file, entry.open() as source:
                while chunk := source.read(CHUNK):
                    done.size += len(chunk)
                    if done.size > limit:
                        raise _Refused(f"takes the content over the {limit} bytes allowed")
                    file.write(chunk)
            done.files += 1
        elif entry.kind == "link":
            if posixpath.normpath(entry.target).startswith(("/", "..")):
                raise _Refused(f"is a link out, to {entry.target[:99]!r}")
            done.links.append(entry.name)
        else:
            raise _Refused("is a device or the like")
    except (FileExistsError, NotADirectoryError):
        raise _Refused("comes twice") from None


def _plain_path(name: str) -> str:
    if name.count("/") > DEEPEST:
        raise _Refused(f"is more than {DEEPEST} folders deep")
    if not name or name.startswith("/") or "\\" in name or "\0" in name or name[1:2] == ":":
        raise _Refused("has no plain relative path")
    if ".." in name.split("/"):  # refused even where the whole path stays inside, as "a/../b" does
        raise _Refused("leads out of the folder")
    return posixpath.normpath(name)


def _entries(file: IO[bytes], limit: int) -> Iterator[_Entry]:
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"PK":
        yield from _zip_entries(file)
    elif magic[:2] == b"\x1f\x8b":
        with gzip.open(file) as stream:
            yield from _tar_entries(stream, limit)
    else:
        yield from _tar_entries(file, limit)


def _zip_entries(file: IO[bytes]) -> Iterator[_Entry]:
    with zipfile.ZipFile(file) as archive:
        # A damaged directory hides entries from zipfile. The end record states their number modulo 2^16, or
        # 0xFFFF where another record has it.
        file.seek(-22 - len(archive.comment), 2)
        stated, found = int.from_bytes(file.read(12)[10:], "little"), len(archive.infolist())
        if stated not in (0xFFFF, found & 0xFFFF):
            raise zipfile.BadZipFile(f"{found} entries instead of {stated}")
        for info in archive.infolist():
            name, target = info.filename, ""
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind: Any = "folder" if info.is_dir() else KIND_OF_MODE.get(mode, "device")
            if kind == "link":
                with archive.open(info) as content:
                    # No link is made, so a target that is cut off here does no harm.
                    target = _beside(name, content.read(LONGEST_LINK).decode())
            yield _Entry(name, kind, target, partial(archive.open, info))


def _beside(name: str, target: str) -> str:
    return posixpath.join(posixpath.dirname(name), target)


class _Watched:
    """A stream that counts the bytes read and the place after the last byte that is not zero."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.size = self.content = 0

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        if filled := len(data.rstrip(b"\0")):
            self.content = self.size + filled
        self.size += len(data)
        if self.size > self._limit:
            raise tarfile.ReadError(
                f"its headers, or what follows the last entry, exceed {self._limit} bytes"
            )
        return data


def _tar_entries(stream: Any, limit: int) -> Iterator[_Entry]:
    # Twice the limit of the content: around small files, headers and padding are as large as the content.
    watched = _Watched(stream, 2 * limit)
    with tarfile.open(fileobj=watched, mode="r|") as archive:  # type: ignore[call-overload]
        for info in archive:
            archive.members = []  # tarfile would keep every entry in memory
            kind: Any = "folder" if info.isdir() else "file" if info.isreg() else "device"
            target = _beside(info.name, info.linkname) if info.issym() else info.linkname
            kind = "link" if info.issym() or info.islnk() else kind
            yield _Entry(info.name, kind, target, partial(archive.extractfile, info))
        # Reading to the very end makes gzip compare its checksum.
        while watched.read(CHUNK):
            pass
        # A damaged header, or a missing end mark (a block of zeros), is the end of the archive to tarfile.
        if watched.content > archive.offset or watched.size < archive.offset + BLOCK:
            raise tarfile.ReadError("it breaks off, or is damaged, between two entries")
