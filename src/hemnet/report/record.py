"""What the report uses of one run.

Shapes: S logged steps; a curve is (S, 2): optimizer step and value.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hemnet.runs.identity import Identity, debugging
from hemnet.runs.run import EARLIER, EARLIER_PARTS, GIT, INSTRUCTIONS
from hemnet.wording import counted

STATUSES = ("finished", "failed", "preempted")
"""What hemnet writes as the status in result.json."""


@dataclass
class Record:
    """What the report uses of one run.

    Attributes:
        path: the run directory.
        identity: recipe, head, T, h, seed and sweep.
        config: resolved, as nested plain containers.
        settings: those on which the outcome depends, see `hemnet.runs.run_settings`.
        status: ``finished``, ``failed``, ``preempted``, ``unfinished`` (no result: running or killed), or
            ``debug`` (finished, but limited to try the code).
        error: message of a run that failed, or why it does not count.
        result: result.json, {} if there is none.
        environment: environment.json, {} if there is none.
        scores: final scores, NaN where result.json has null.
        curves: (S, 2) per other metric of `WANTED`.
        phases: ``family`` -> (3, t+1): mean over each phase of training, per iteration.
        cost: the last value of each ``cost/*``.
        evaluated: ``val/miou`` of the last checkpoint by the T that `hemnet.evaluate` used.
        logged: whether its metrics.csv was read, from which the three before come.
        superseded: whether it has a score, but a later run with the same settings and seed counts instead.
        doubts: what in its files is damaged and not used, while the rest is.
    """

    path: Path
    identity: Identity
    config: dict[str, Any]
    settings: dict[str, str]
    status: str
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    phases: dict[str, np.ndarray] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    evaluated: dict[int, float] = field(default_factory=dict)
    logged: bool = False
    superseded: bool = False
    doubts: list[str] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """Whether it did not finish, and was not limited to try the code."""
        return self.status != "finished" and not self.limits

    @property
    def counts(self) -> bool:
        """Whether its score is in the report."""
        return self.status == "finished" and self.scored and not self.superseded

    @property
    def scored(self) -> bool:
        """Whether it has a final ``val/miou``."""
        return not math.isnan(self.miou)

    @property
    def conclusive(self) -> bool:
        """Whether its score tells anything, by the key ``conclusive``; older runs have none."""
        return self.config.get("conclusive") is not False

    @property
    def seconds(self) -> float | None:
        """How long training took; None if unknown: older versions recorded of a resumed run its last part."""
        command = [str(each) for each in self.environment.get("command") or []]
        resumed = any(each.startswith("resume=") and each[7:] not in ("null", "auto") for each in command)
        return None if resumed and EARLIER not in self.environment else self.result.get("seconds")

    @property
    def limits(self) -> list[str]:
        """What limits it to try the code, see `hemnet.runs.identity.debugging`; [] if nothing does."""
        return debugging(self.config) or [*map(str, self.result.get("debug") or [])]

    @property
    def revision(self) -> str:
        """The revision of the code, ten digits, "unknown" if the run did not record it.

        Of a run that was resumed at other revisions, those too.
        """
        return " and ".join(dict.fromkeys(map(_revision, self._of_parts(GIT) or [{}])))

    @property
    def miou(self) -> float:
        """The final ``val/miou``; NaN if there is none."""
        return self.scores.get("val/miou", float("nan"))

    @property
    def machine(self) -> str:
        """What it trained on, as far as that decides its times.

        Number of processes, device and, of a processor, instruction set (where it is recorded) and threads.
        """
        return self._machine(self.instructions)

    def _machine(self, instructions: str | None) -> str:
        device, processes = str(self.result.get("device") or "unknown"), self.result.get("processes") or 1
        threads = self.environment.get("cpu_threads") if device.startswith("cpu") else None
        used = counted(threads, "thread") if isinstance(threads, int) else None
        told = ", ".join(filter(None, (device, instructions, used)))
        return f"{processes} x {told}" if processes > 1 else told

    @property
    def instructions(self) -> str | None:
        """The instruction set of the processor that it trained on; None: on a GPU, or not recorded.

        Of a run that was resumed on others, those too.
        """
        if not str(self.result.get("device")).startswith("cpu"):
            return None
        return " and ".join(dict.fromkeys(map(str, self._of_parts(INSTRUCTIONS)))) or None

    def _of_parts(self, name: str) -> list[Any]:
        """Return an entry of environment.json of each part of a resumed run, without those not recorded."""
        every = [*(self.environment.get(EARLIER_PARTS[name]) or []), self.environment.get(name)]
        return [each for each in every if each]


def on_one_machine(runs: Iterable[Record]) -> bool:
    """Whether runs trained on machines that are alike.

    The instruction set of a run that did not record it may be any.
    """
    every = [*runs]
    known = next((run.instructions for run in every if run.instructions), None)
    return len({run._machine(run.instructions or known) for run in every}) < 2


@dataclass(frozen=True)
class Unreadable:
    """A run directory that cannot be read, and why."""

    path: Path
    error: str


def _revision(git: Any) -> str:
    if not isinstance(git, dict):
        return "unknown"
    revision = str(git.get("revision") or "unknown")[:10]
    return f"{revision}, with changes" if git.get("modified") else revision
