"""Protects training from W&B: from its errors, its delays, and its service process."""

import contextlib
import logging
import math
import netrc
import os
import ssl
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

log = logging.getLogger(__name__)
REACH_SECONDS = 3.0
# A call that takes longer is waiting for W&B rather than working.
SLOW_SECONDS = 1.0
# How long the service may take to write its files when W&B is given up.
PARTING_SECONDS = 10.0
SPACE_BYTES = 1 << 16


class _Call(threading.Thread):
    """A function call in its own thread, which the caller can stop waiting for."""

    def __init__(self, action: Callable[[], Any]) -> None:
        super().__init__(daemon=True, name="wandb-call")
        self.action = action
        self.result: Any = None
        self.error: BaseException | None = None
        # Not join(): after a signal has interrupted a join, a running thread can look finished.
        self.done = threading.Event()
        self.left_behind = False

    def run(self) -> None:
        try:
            self.result = self.action()
        except BaseException as error:  # W&B raises SystemExit if its service has failed
            self.error = error
        self.done.set()
        if self.left_behind:
            end_service()  # the late call may have started the service again


class Guard:
    """Runs calls into W&B with deadlines, until the first one fails or is late; further calls do nothing.

    An error that a signal handler raises while a call is waited for is not caught.

    Args:
        given_up: called once, with the reason, when W&B is given up.
        seconds: how long all calls of more than one second may take together.
    """

    def __init__(self, given_up: Callable[[str], None], seconds: float) -> None:
        self.failed = False
        self._given_up = given_up
        self._left = seconds
        self._current: _Call | None = None

    def __call__(self, action: Callable[[], Any], seconds: float = math.inf) -> Any:
        """Run ``action`` in a thread and return its result; None if it fails or is late, or W&B is given up.

        Args:
            action: the call into W&B.
            seconds: the deadline of this call, which what is left of the total time may shorten.
        """
        if self._current is not None:  # a signal has interrupted the wait for this call
            self._wait(self._current, seconds)
        if self.failed:
            return None
        self._current = _Call(action)
        self._current.start()
        return self._wait(self._current, seconds)

    def here(self, action: Callable[[], Any]) -> None:
        """Run ``action`` in this thread without a deadline, for work that does not wait for W&B."""
        if self.failed:
            return
        try:
            action()
        except Exception as error:
            self._fail(error)

    def _wait(self, call: _Call, seconds: float) -> Any:
        seconds = min(seconds, self._left)
        began = time.monotonic()
        call.done.wait(seconds)
        self._current = None
        took = time.monotonic() - began
        if took > SLOW_SECONDS:
            self._left -= took
        if not call.done.is_set():
            call.left_behind = True
            self._fail(TimeoutError(f"no answer within {seconds:.1f} s"))
        elif call.error is not None:
            self._fail(call.error)
        return call.result

    def _fail(self, error: BaseException) -> None:
        self.failed = True
        log.debug("W&B failed", exc_info=error)
        self._given_up(f"{type(error).__name__}: {error}".removesuffix(": "))
        end_service(max(SLOW_SECONDS, min(PARTING_SECONDS, self._left)))


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """Run ``action`` in a thread; return its result, or raise its error.

    Raises:
        TimeoutError: ``action`` takes longer than ``seconds``; its thread goes on in the background.
    """
    call = _Call(action)
    call.start()
    call.done.wait(seconds)
    if not call.done.is_set():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if call.error is not None:
        raise call.error
    return call.result


def end_service(seconds: float = PARTING_SECONDS) -> None:
    """End W&B's service and the runs of this process; the service is killed after ``seconds``.

    The service writes to its files what it has received until then.
    """
    # A service named here belongs to the process from which this variable was inherited.
    os.environ.pop("WANDB_SERVICE", None)
    if "wandb" not in sys.modules:
        return
    import wandb
    from wandb.sdk import wandb_setup

    # Private names, as W&B has no public ones. Where they are missing, a hanging service ends with this
    # process.
    connection = getattr(wandb_setup._singleton, "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    with contextlib.suppress(BaseException):
        within(seconds, wandb.teardown)
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()
    wandb.run = None


def require_space(folder: Path) -> None:
    """Raise an OSError if nothing can be written in a folder; W&B's service does not report this."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(SPACE_BYTES))


def obstacle() -> str | None:
    """Return why the W&B server cannot be used now, or None if it can; takes at most a few seconds."""
    if not api_key() and not os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "no API key (WANDB_API_KEY or `wandb login`)"
    server = _settings().base_url
    try:
        within(REACH_SECONDS, lambda: _ask(server))
    except Exception as error:
        return f"{server} cannot be reached ({error})"
    return None


def api_key() -> str | None:
    """Return the key for the W&B server, from the places where W&B looks: environment, its settings, netrc.

    W&B asks for a key on the terminal unless it is given one.
    """
    settings = _settings()
    return settings.api_key or _in_netrc(urlparse(settings.base_url).netloc)


def _settings() -> Any:
    import wandb

    return wandb.setup().settings  # with the address of a private server, from `wandb login --host`


def _ask(server: str) -> None:
    """Return if the server responds at all, even with an HTTP error; raise a URLError if it does not."""
    try:
        # An HTTP request goes through proxies, and waits for a response, unlike a bare connection.
        urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # W&B has its own certificates
            raise


def _in_netrc(machine: str) -> str | None:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = netrc.netrc(path).authenticators(machine)
    except (OSError, ValueError, netrc.NetrcParseError):
        return None
    return found[2] if found else None
