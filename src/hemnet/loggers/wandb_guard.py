"""W&B at arm's length: keeps its failures, its silence and its processes from being those of training."""

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
# A call that takes longer is not doing work: it waits for W&B.
SLOW_SECONDS = 1.0
# What the service may take to write what it has, when W&B is given up.
PARTING_SECONDS = 10.0
SPACE_BYTES = 1 << 16


class _Call(threading.Thread):
    """One call in a thread of its own, which may be left behind."""

    def __init__(self, action: Callable[[], Any]) -> None:
        super().__init__(daemon=True, name="wandb-call")
        self.action = action
        self.result: Any = None
        self.error: BaseException | None = None
        # Rather than to join it: a join that a signal interrupts can take a running thread for a dead one.
        self.done = threading.Event()
        self.left_behind = False

    def run(self) -> None:
        try:
            self.result = self.action()
        except BaseException as error:  # W&B raises SystemExit where its service has failed
            self.error = error
        self.done.set()
        if self.left_behind:
            end_service()  # whatever it has started after all


class Guard:
    """Runs calls into W&B with deadlines and a budget; after the first that fails or is late, none.

    A signal that raises an error while a call is waited for is not W&B's: its error is passed on.

    Args:
        given_up: called once, with what went wrong.
        seconds: what the slow calls, of over a second, may take in all.
    """

    def __init__(self, given_up: Callable[[str], None], seconds: float) -> None:
        self.failed = False
        self._given_up = given_up
        self._left = seconds
        self._current: _Call | None = None

    def __call__(self, action: Callable[[], Any], seconds: float = math.inf) -> Any:
        """Return what ``action`` returns, run in a thread for at most so many seconds and the budget's rest.

        None if it fails or is late, or if none may run any more.
        """
        if self._current is not None:  # a signal has interrupted the wait for it
            self._wait(self._current, seconds)
        if self.failed:
            return None
        self._current = _Call(action)
        self._current.start()
        return self._wait(self._current, seconds)

    def here(self, action: Callable[[], Any]) -> None:
        """Run ``action`` in this thread without a deadline: this process's own work, as to draw an image."""
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
    """Return what ``action`` returns, or raise what it raises.

    Raises:
        TimeoutError: it takes longer, and goes on in a thread that nothing waits for.
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
    """Forget the runs of this process, and end W&B's service, which is killed after so many seconds.

    What the service has been told until then is in its files.
    """
    # One that is inherited is another process's.
    os.environ.pop("WANDB_SERVICE", None)
    if "wandb" not in sys.modules:
        return
    import wandb
    from wandb.sdk import wandb_setup

    # W&B has no public name for it; without it, a service that hangs ends with this process.
    connection = getattr(wandb_setup._singleton, "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    with contextlib.suppress(BaseException):
        within(seconds, wandb.teardown)
    if process is not None and process.poll() is None:
        process.kill()
        process.wait()
    wandb.run = None


def require_space(folder: Path) -> None:
    """Raise an OSError if nothing can be written in a folder, since W&B's service does not say so."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(SPACE_BYTES))


def obstacle() -> str | None:
    """Return why nothing can be sent to the W&B server now, or None; asks within seconds."""
    if not api_key() and not os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return "no API key (WANDB_API_KEY or `wandb login`)"
    server = _settings().base_url
    try:
        within(REACH_SECONDS, lambda: _ask(server))
    except Exception as error:
        return f"{server} cannot be reached ({error})"
    return None


def api_key() -> str | None:
    """Return the key for the W&B server, from where W&B looks for it: the environment, its settings, netrc.

    W&B that is handed this one has no need to ask for another.
    """
    settings = _settings()
    return settings.api_key or _in_netrc(urlparse(settings.base_url).netloc)


def _settings() -> Any:
    import wandb

    return wandb.setup().settings  # `wandb login --host` keeps the address of a server of one's own there


def _ask(server: str) -> None:
    """Return if there is a server, whatever it says: that is for W&B to understand."""
    try:
        # Unlike a bare connection it goes through proxies, and wants an answer.
        urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        pass
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # W&B has certificates of its own
            raise


def _in_netrc(machine: str) -> str | None:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = netrc.netrc(path).authenticators(machine)
    except (OSError, ValueError, netrc.NetrcParseError):
        return None
    return found[2] if found else None
