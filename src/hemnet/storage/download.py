"""Downloads that resume, verify the file's hash, and leave either the whole file or a part to resume from."""

import http.client
import json
import logging
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemnet.errors import HemnetError
from hemnet.storage.files import file_digest, hold

log = logging.getLogger(__name__)
CHUNK = 1 << 20
# HTTP status codes after which another attempt may succeed: too many requests, time-outs, server errors.
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(HemnetError):
    """A download failed. The message names the URL, the cause and how many bytes are kept."""


@dataclass(frozen=True)
class Patience:
    """When to give a server up.

    Args:
        timeout: seconds without data after which a connection is closed, > 0.
        attempts: how many connections in a row may bring no new byte before the download fails, >= 1.
        pause: seconds to wait before the second attempt; doubled before each further one.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


PATIENT = Patience()


def download(url: str, target: Path, digest: str | None = None, patience: Patience = PATIENT) -> None:
    """Download a URL to ``target``, unless that file exists already.

    Until the file is complete its bytes are in ``target.part``. A later call resumes from there if the ETag
    or the modification date shows that the server's file is unchanged; otherwise it starts over. Only one
    process at a time downloads into a folder.

    Args:
        url: http, https or file.
        target: the file to create; its folder is created if missing.
        digest: the expected hash as "algorithm:hex", such as "md5:6cd6..."; leading digits suffice. A file
            with another hash is removed.
        patience: when to give up a server that stalls, disconnects or is overloaded.

    Raises:
        DownloadError: the download failed, or the file has another hash.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hold(target.parent):
            if not target.is_file():
                _Transfer(url, target, patience).run(digest)
    except OSError as error:  # from this machine, such as a full disk or missing permission
        raise DownloadError(f"{url} cannot be stored in {target.parent}: {error}") from error


def require_digest(path: Path, digest: str) -> None:
    """Raise a DownloadError unless the file's hash begins with that of ``digest``, "algorithm:hex"."""
    algorithm, _, expected = digest.partition(":")
    found = file_digest(path, algorithm)
    if not found.startswith(expected.lower()):
        raise DownloadError(f'{path}: invalid hash value ({algorithm}: expected "{expected}", got "{found}")')


class _Broken(Exception):
    """A connection ended before the file was complete; another attempt may succeed."""


@dataclass
class _Transfer:
    """One download: ``part`` holds the bytes so far, ``note`` the URL, validator and size they belong to."""

    url: str
    target: Path
    patience: Patience
    reached: int = 0
    part: Path = field(init=False)
    note: Path = field(init=False)

    def __post_init__(self) -> None:
        self.part = self.target.with_name(f"{self.target.name}.part")
        self.note = self.target.with_name(f"{self.target.name}.part.json")

    def run(self, digest: str | None) -> None:
        with _progress(self.target.name) as show:
            self._fetch(show)
        if digest is not None:
            try:
                require_digest(self.part, digest)
            except DownloadError as error:
                self._drop()
                raise DownloadError(f"{self.url}: {error}; the download was removed") from None
        self.part.replace(self.target)
        self.note.unlink(missing_ok=True)

    def _fetch(self, show: Callable[[int, int | None], None]) -> None:
        self.reached = self._size()
        failures = 0
        while True:
            before = self.reached
            try:
                return self._attempt(show)
            except (_Broken, http.client.HTTPException, OSError, ValueError) as error:
                gained = self.reached > before
                if not self._may_pass(error, first=not failures and not gained):
                    raise self._failure(error) from error
                failures = 1 if gained else failures + 1
                if failures >= self.patience.attempts:
                    raise self._failure(error) from error
                log.warning("%s: %s; trying again", self.url, _reason(error))
                time.sleep(self.patience.pause * 2 ** (failures - 1))

    def _attempt(self, show: Callable[[int, int | None], None]) -> None:
        have, validator, whole = self._resumable()
        if whole:
            return
        headers = {"User-Agent": "hemnet", "Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        request = urllib.request.Request(self.url, headers=headers)
        with urllib.request.urlopen(request, timeout=self.patience.timeout) as response:
            start, total = self._agree(response, have, validator)
            self._require_space(total, start)
            described = {"url": self.url, "validator": _validator(response.headers), "total": total}
            # Opening truncates the old bytes before the note describes the new file, so that a crash between
            # the two cannot attribute old bytes to the new file.
            with self.part.open("ab" if start else "wb") as file:
                self.note.write_text(json.dumps(described), "utf-8")
                size = self._copy(response, file, start, total, show)
        if total is not None and size < total:
            raise _Broken(f"the connection ended after {size} of {total} bytes")

    def _copy(
        self, response: Any, file: Any, size: int, total: int | None, show: Callable[[int, int | None], None]
    ) -> int:
        read = getattr(response, "read1", response.read)  # read1 returns what has arrived, however little
        show(size, total)
        while chunk := read(CHUNK if total is None else min(CHUNK, total - size)):
            try:
                file.write(chunk)
            except OSError as error:
                raise _Unwritable(str(error)) from error
            size += len(chunk)
            self.reached = max(self.reached, size)
            show(size, total)
        return size

    def _agree(self, response: Any, have: int, validator: str) -> tuple[int, int | None]:
        """Return the offset at which the response starts, and the file's size, None if unknown.

        Raises:
            _Broken: the response is a range of another file, or not the requested range.
        """
        length = response.headers.get("Content-Length", "")
        if response.status != http.client.PARTIAL_CONTENT:
            return 0, int(length) if length.isdigit() else None
        unit, _, place = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = place.partition("/")
        fits = unit == "bytes" and span.partition("-")[0] == str(have) and have
        if not fits or _validator(response.headers) not in ("", validator):
            self._drop()
            raise _Broken("the server sent another range than was asked for, or of another file")
        return have, int(total) if total.isdigit() else have + int(length) if length.isdigit() else None

    def _resumable(self) -> tuple[int, str, bool]:
        """Return the number of usable bytes, their ETag or date for If-Range, and if the file is complete."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            note, size = json.loads(self.note.read_text("utf-8")), self._size()
            if size and note["url"] == self.url and note["validator"]:
                return size, note["validator"], size == note["total"]
        return 0, "", False

    def _require_space(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise _Unwritable(f"{total - start} bytes are missing and the disk has {free} free")

    def _may_pass(self, error: Exception, first: bool) -> bool:
        """Return whether another attempt may succeed."""
        if isinstance(error, urllib.error.HTTPError):
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._drop()
                return True
            return error.code in TRANSIENT
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ConnectionRefusedError | socket.gaierror):
            return not first  # on the first attempt the server does not exist; later it may have restarted
        if isinstance(cause, http.client.InvalidURL):
            return False
        return isinstance(cause, _Broken | http.client.HTTPException | TimeoutError | ConnectionError)

    def _failure(self, error: Exception) -> DownloadError:
        kept = self._size()
        if not kept:
            self._drop()
        hint = f"; the first {kept} bytes are kept: run the command again to resume" if kept else ""
        return DownloadError(f"{self.url}: {_reason(error)}{hint}")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _drop(self) -> None:
        self.note.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


class _Unwritable(ValueError):
    """The disk is full."""


def _validator(headers: Any) -> str:
    """Return the value for an If-Range header: a strong ETag, else the modification date, else ""."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server sent nothing for too long"
    return str(cause) or type(cause).__name__


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar if there is a terminal; yield a function of (bytes so far, bytes in total)."""
    # Imported here, since callers that only check a hash draw nothing.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
