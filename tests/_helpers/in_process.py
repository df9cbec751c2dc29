"""Sweeps without a fresh Python for the command and each job, of five seconds of imports each."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from _helpers import entries
from hydra.core.hydra_config import HydraConfig

from hemnet import train
from hemnet.sweeps.jobs import CONSOLE, Job

Start = Callable[..., None]


@contextmanager
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Yield a function that is ``hemnet train WORDS`` in this process; it raises the command's error."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["hemnet.train", *words])
        train._entry()

    yield run
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level = before
    os.environ.pop("HYDRA_FULL_ERROR", None)


def fork_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jobs of a sweep in this process be forked by `entries.call`, one after another."""

    def start(self: Job, environment: Mapping[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        done = entries.call(*self.command[2:], cwd=Path.cwd(), environment=dict(environment))
        (self.path / CONSOLE).write_text(done.stdout + done.stderr)
        self._process = SimpleNamespace(poll=lambda: done.returncode, returncode=done.returncode)
        self.status = "running"

    monkeypatch.setattr(Job, "start", start)
    monkeypatch.setattr("hemnet.sweeps.jobs.signal_group", lambda process, number: None)  # it has ended
