"""A job of a sweep: the training or the evaluation of a run, as a process."""

import contextlib
import math
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hemnet.config.command_line import ERROR, USER_ERROR
from hemnet.config.overrides import quoted
from hemnet.processes.children import die_with_parent, signal_group
from hemnet.runs.run import RESULT, counts, score
from hemnet.storage.files import entry, read_json

Status = Literal["waiting", "running", "finished", "failed", "preempted", "skipped"]
CONSOLE = "console.log"
# How long an interrupted job may take to finish its step and write its checkpoint, W&B and result.json.
GRACE_SECONDS = 60.0
TAIL_BYTES = 8192
TRACE_LINES = 25


@dataclass
class Job:
    """One training run of a sweep.

    Attributes:
        name: the name of its directory.
        path: its run directory.
        overrides: the arguments of ``hemnet.train``, besides the run directory.
        status: ``skipped`` means that the run was already finished.
        error: why it failed, or why it was skipped; ``console.log`` in its directory has all output.
        seconds: how long its process has run.
    """

    name: str
    path: Path
    overrides: Sequence[str]
    status: Status = "waiting"
    error: str = ""
    seconds: float = 0.0
    _process: subprocess.Popen[bytes] | None = None
    _started: float = field(default_factory=time.monotonic)

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process, in its own process group and with an empty standard input."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        with (self.path / CONSOLE).open("ab") as console:
            self._process = subprocess.Popen(
                self.command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=console,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_end_with_sweep,
            )  # fmt: skip
        self.status = "running"

    def poll(self) -> bool:
        """Return whether the process has ended; if so, set status and error."""
        assert self._process is not None
        self.seconds = time.monotonic() - self._started
        code = self._process.poll()
        if code is None:
            return False
        signal_group(self._process, signal.SIGKILL)  # ranks that are left over are of no use
        self.status = self._outcome(code)
        if self.status != "finished":
            self.error = self._reason(code)
        elif limits := entry(read_json(self.path / RESULT), "debug", []):
            self.error = f"no score, because of {', '.join(map(str, limits))}"
        return True

    def _outcome(self, code: int) -> Status:
        outcome = read_json(self.path / RESULT).get("status")
        if outcome == "preempted":
            return "preempted"
        return "finished" if code == 0 and outcome == "finished" else "failed"

    def interrupt(self) -> None:
        """Send the process the signal of Ctrl-C."""
        if self._process is not None and self._process.poll() is None:
            signal_group(self._process, signal.SIGINT)

    def stop(self) -> None:
        """Wait `GRACE_SECONDS` for the interrupted process to end, and kill what is left of its group."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        signal_group(self._process, signal.SIGKILL)
        self._process.wait()
        self.status = "preempted"

    @property
    def command(self) -> list[str]:
        """The command that its process runs."""
        places = [f"run_dir={quoted(self.path.absolute())}", "resume=auto"]
        return [sys.executable, "-m", "hemnet.train", *self.overrides, *places]

    @property
    def miou(self) -> float | None:
        """The val/miou of a finished run; None if there is none yet, it is NaN, or the run does not count."""
        result = read_json(self.path / RESULT)
        return None if not counts(result) or math.isnan(found := score(result)) else found

    @property
    def console(self) -> list[str]:
        """The last lines that the process has printed, without empty ones."""
        return last_lines(self.path / CONSOLE)

    def _reason(self, code: int) -> str:
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        lines = self.console
        if not lines:
            return f"exit status {code}, without any output"
        begins = [i for i, line in enumerate(lines) if line.startswith(ERROR)]
        if code == USER_ERROR and begins:  # the message may have several lines
            return " ".join(line.strip() for line in lines[begins[-1] :]).removeprefix(ERROR)
        return lines[-1].strip()

    @property
    def trace(self) -> list[str]:
        """The last lines of a failed job's output that its error does not have; [] if the error says all."""
        if self._process is None or self._process.returncode == USER_ERROR:
            return []
        lines = self.console[-TRACE_LINES:]
        return lines[:-1] if lines and lines[-1].strip() == self.error else lines


class Evaluation(Job):
    """An evaluation: ``path`` is the folder for console.log, ``overrides`` has all arguments."""

    @property
    def command(self) -> list[str]:
        """The command that its process runs."""
        return [sys.executable, "-m", "hemnet.evaluate", *self.overrides]

    def _outcome(self, code: int) -> Status:
        return "finished" if code == 0 else "failed"


def last_lines(path: Path) -> list[str]:
    """Return the last lines of a text file, without empty ones; [] if there is no file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()]


def _end_with_sweep() -> None:
    die_with_parent(signal.SIGTERM)
