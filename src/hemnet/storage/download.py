"""Downloads that resume, check what they got, and leave either a whole file or a part to go on from."""

import hashlib
import http.client
import json
import logging
import os
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

log = logging.getLogger(__name__)
CHUNK = 1 << 20
# What a later attempt may put right: too many requests, time-outs and trouble on the server's side.
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(HemnetError):
    """A file could not be had. The message names the URL, the cause and what is kept."""


@dataclass(frozen=True)
class Patience:
    """How long to hold on to a server.

    Args:
        timeout: seconds of silence after which a connection counts as dead, > 0.
        attempts: connections in a row, >= 1, that may end without a byte more than was had before.
        pause: seconds before the second of these; it doubles from one to the next.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


PATIENT = Patience()


def download(url: str, target: Path, digest: str | None = None, patience: Patience = PATIENT) -> None:
    """Have the file of a URL at ``target``; nothing is done if there is one.

    What has come is kept in ``target.part`` until the file is whole. A later call goes on from it if the
    server proves by ETag or date that the file is still the same, and starts anew otherwise. Processes that
    want files in one folder take turns.

    Args:
        url: http, https or file.
        target: where the file is to be; its folder is made.
        digest: "algorithm:hex", such as "md5:6cd6..."; a file of another is removed. A leading piece will do.
        patience: with a server that stalls, breaks off or is overloaded.

    Raises:
        DownloadError: the file cannot be had, or is not that of ``digest``.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.parent):
            if not target.is_file():
                _Transfer(url, target, patience).run(digest)
    except OSError as error:  # of this machine: a full disk, no right to write
        raise DownloadError(f"{url} cannot be stored in {target.parent}: {error}") from error


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def require_digest(path: Path, digest: str) -> None:
    """Raise a DownloadError if a file is not that of "algorithm:hex", or of a leading piece of the hex."""
    algorithm, _, expected = digest.partition(":")
    found = file_digest(path, algorithm)
    if not found.startswith(expected.lower()):
        raise DownloadError(f'{path}: invalid hash value ({algorithm}: expected "{expected}", got "{found}")')


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for this folder waiting, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: waiting for another process that is at work there", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # some network file systems have none
        yield
    finally:
        os.close(handle)


class _Broken(Exception):
    """A connection gave no whole file; the next one may."""


@dataclass
class _Transfer:
    """One file on its way: ``part`` holds its first bytes, ``note`` says of which file they are."""

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
                raise DownloadError(f"{self.url}: {error}; what came was removed") from None
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
            # The old bytes go before the new file is described: a crash between leaves nothing to mix up.
            with self.part.open("ab" if start else "wb") as file:
                self.note.write_text(json.dumps(described))
                size = self._copy(response, file, start, total, show)
        if total is not None and size < total:
            raise _Broken(f"the connection ended after {size} of {total} bytes")

    def _copy(
        self, response: Any, file: Any, size: int, total: int | None, show: Callable[[int, int | None], None]
    ) -> int:
        read = getattr(response, "read1", response.read)  # what there is, without waiting for a whole chunk
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
        """Return where the answer starts and how long the file is; raise if it is a wrong piece."""
        length = response.headers.get("Content-Length", "")
        if response.status != http.client.PARTIAL_CONTENT:
            return 0, int(length) if length.isdigit() else None
        unit, _, place = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = place.partition("/")
        fits = unit == "bytes" and span.partition("-")[0] == str(have) and have
        if not fits or _validator(response.headers) not in ("", validator):
            self._drop()
            raise _Broken("the server sent a piece of another file or place")
        return have, int(total) if total.isdigit() else have + int(length) if length.isdigit() else None

    def _resumable(self) -> tuple[int, str, bool]:
        """Return how many bytes can be gone on from, what tells the file is the same, and if that is all."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            note, size = json.loads(self.note.read_text()), self._size()
            if size and note["url"] == self.url and note["validator"]:
                return size, note["validator"], size == note["total"]
        return 0, "", False

    def _require_space(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise _Unwritable(f"{total - start} bytes are to come and the disk has {free}")

    def _may_pass(self, error: Exception, first: bool) -> bool:
        """Return whether another attempt may succeed."""
        if isinstance(error, urllib.error.HTTPError):
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._drop()
                return True
            return error.code in TRANSIENT
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ConnectionRefusedError | socket.gaierror):
            return not first  # no such server, unless it was there a moment ago
        if isinstance(cause, http.client.InvalidURL):
            return False
        return isinstance(cause, _Broken | http.client.HTTPException | TimeoutError | ConnectionError)

    def _failure(self, error: Exception) -> DownloadError:
        kept = self._size()
        if not kept:
            self._drop()
        hint = f"; the first {kept} bytes are kept: run the command again to go on" if kept else ""
        return DownloadError(f"{self.url}: {_reason(error)}{hint}")

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _drop(self) -> None:
        self.note.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


class _Unwritable(ValueError):
    """The disk takes no more."""


def _validator(headers: Any) -> str:
    """Return what If-Range may name: a strong ETag, else the date of the last change, else nothing."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server went silent"
    return str(cause) or type(cause).__name__


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on the terminal, if there is one; yields what to call with (bytes so far, bytes in all)."""
    # Imported here: who only asks for a digest needs no terminal.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), SpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
