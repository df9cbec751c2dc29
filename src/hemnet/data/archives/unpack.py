"""Unpacking archives that nobody vouches for: nothing is written outside the folder, or without bound."""

import errno
import gzip
import lzma
import posixpath
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from hemnet.data.spec import DataError

CHUNK = 1 << 20
BLOCK = 512
CORRUPT = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
# Images and label files hardly shrink when packed: what grows a hundredfold is no image set.
GROWTH, ALLOWANCE, MOST_FILES, DEEPEST = 30, 1 << 30, 1_000_000, 32


class ArchiveError(DataError):
    """An archive is corrupt, or holds what no data set needs and an attacker may want."""


@dataclass
class Unpacked:
    """What came out of an archive: ``files`` and their ``size`` in bytes; ``links`` that were left out."""

    files: int = 0
    size: int = 0
    links: list[str] = field(default_factory=list)


def unpack(archive: Path, folder: Path, limit: int | None = None) -> Unpacked:
    """Unpack a zip, tar or tar.gz file, told apart by content, into an empty folder.

    Only plain files and folders are made, with the permissions that new files have. A link to a place
    within the folder is left out and listed.

    Args:
        archive: the file.
        folder: an existing empty folder.
        limit: bytes that may be written; default: 1 GiB and 30 times the archive's size.

    Raises:
        ArchiveError: the archive is corrupt or cut short, or has an entry with an absolute path, one that
            leaves the folder, one that another has taken, a link that leaves, a device, or more than the
            limit. What was written until then is left in ``folder``, for the caller to remove.
        OSError: the disk is full, or cannot be written to.
    """
    writer = _Writer(archive, folder, limit or ALLOWANCE + GROWTH * archive.stat().st_size)
    with archive.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        try:
            if magic[:2] == b"PK":
                _unzip(file, writer)
            elif magic[:2] == b"\x1f\x8b":
                with gzip.open(file) as stream:
                    _untar(stream, writer)
            else:
                _untar(file, writer)
        except ArchiveError:
            raise
        except CORRUPT as error:
            raise ArchiveError(f"{archive}: corrupt or cut short ({error})") from error
        except OSError as error:
            # Not of the disk: bz2 gives its complaints no number, and offsets and names are the archive's.
            if error.errno not in (None, errno.EINVAL, errno.ENAMETOOLONG):
                raise
            raise ArchiveError(f"{archive}: corrupt, or with names that cannot be ({error})") from error
        except (RuntimeError, ValueError) as error:
            raise ArchiveError(f"{archive}: not of a kind that is unpacked here ({error})") from error
    return writer.done


class _Writer:
    """Makes files under a folder and counts them."""

    def __init__(self, archive: Path, folder: Path, limit: int) -> None:
        self._archive, self._folder, self.limit = archive, folder, limit
        self.done = Unpacked()
        self._entries = 0

    def refuse(self, name: str, reason: str) -> ArchiveError:
        return ArchiveError(f"{self._archive}: the entry {name!r} {reason}; nothing of this archive was kept")

    def make_folder(self, name: str) -> None:
        try:
            self._place(name).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise self.refuse(name, "comes twice") from error

    def make_file(self, name: str, source: IO[bytes]) -> None:
        path = self._place(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                while chunk := source.read(CHUNK):
                    self.done.size += len(chunk)
                    if self.done.size > self.limit:
                        raise self.refuse(name, f"takes the content over the {self.limit} bytes allowed")
                    file.write(chunk)
        except (FileExistsError, NotADirectoryError) as error:
            raise self.refuse(name, "comes twice") from error
        self.done.files += 1

    def note_link(self, name: str, place: str) -> None:
        """Leave out a link to a place within the folder, relative to it; refuse one that leaves."""
        self._place(name)
        if posixpath.normpath(place).startswith(("/", "..")):
            raise self.refuse(name, f"is a link out, to {place!r}")
        self.done.links.append(name)

    def _place(self, name: str) -> Path:
        self._entries += 1
        if self._entries > MOST_FILES:
            raise self.refuse(name, f"is more than the {MOST_FILES} that an archive may have")
        if name.count("/") > DEEPEST:
            raise self.refuse(name[:99], f"is more than {DEEPEST} folders deep")
        drive = len(name) > 1 and name[1] == ":"
        if not name or name.startswith("/") or "\\" in name or "\0" in name or drive:
            raise self.refuse(name, "has no plain relative path")
        # Not only the path as a whole: "a/../b" has no business in an archive either.
        if ".." in name.split("/"):
            raise self.refuse(name, "leads out of the folder")
        return self._folder / posixpath.normpath(name)


def _unzip(file: IO[bytes], writer: _Writer) -> None:
    with zipfile.ZipFile(file) as archive:
        # zipfile passes over entries that a damaged directory hides; the end record says how many there are,
        # modulo 2^16, or the largest number if it says so elsewhere.
        file.seek(-22 - len(archive.comment), 2)
        stated = int.from_bytes(file.read(12)[10:], "little")
        if stated not in (0xFFFF, len(archive.infolist()) & 0xFFFF):
            raise zipfile.BadZipFile(f"{len(archive.infolist())} entries instead of {stated}")
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.is_dir():
                writer.make_folder(entry.filename)
            elif kind == stat.S_IFLNK:
                if entry.file_size > 4096:
                    raise writer.refuse(entry.filename, "is a link longer than any path")
                with archive.open(entry) as content:
                    target = content.read(4097).decode()
                writer.note_link(entry.filename, _beside(entry.filename, target))
            elif kind in (0, stat.S_IFREG):
                with archive.open(entry) as content:
                    writer.make_file(entry.filename, content)
            else:
                raise writer.refuse(entry.filename, "is a device or the like")


def _beside(name: str, target: str) -> str:
    return posixpath.join(posixpath.dirname(name), target)


class _Watched:
    """A stream that knows how much was read from it, and where the last byte was that is not zero."""

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


def _untar(stream: Any, writer: _Writer) -> None:
    # Twice the content: small files have headers and padding of their own size.
    watched = _Watched(stream, 2 * writer.limit)
    with tarfile.open(fileobj=watched, mode="r|") as archive:  # type: ignore[call-overload]
        for entry in archive:
            archive.members = []  # of a hundred thousand entries, one at a time is enough
            _untar_entry(archive, entry, writer)
        # To the very end, for the checksum of a gzip file.
        while watched.read(CHUNK):
            pass
        # tarfile takes a damaged header for the end, as it does a missing end mark, a block of zeros.
        if watched.content > archive.offset or watched.size < archive.offset + BLOCK:
            raise tarfile.ReadError("it breaks off, or is damaged, between two entries")


def _untar_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo, writer: _Writer) -> None:
    if entry.isdir():
        writer.make_folder(entry.name)
    elif entry.issym():
        writer.note_link(entry.name, _beside(entry.name, entry.linkname))
    elif entry.islnk():
        writer.note_link(entry.name, entry.linkname)
    elif entry.isreg():
        content = archive.extractfile(entry)
        assert content is not None
        writer.make_file(entry.name, content)
    else:
        raise writer.refuse(entry.name, "is a device or the like")
