"""A run directory as an object: what a training run leaves behind, and what later commands take.

config.yaml  environment.json  metrics.csv  run.log  result.json  checkpoints/{last,best}.ckpt  figures/
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hemnet.errors import HemnetError
from hemnet.processes.ranks import rank
from hemnet.processes.signals import Interrupted
from hemnet.runs import checkpoints
from hemnet.runs.identity import differences
from hemnet.runs.provenance import device_name, environment
from hemnet.runs.redaction import redact, redacted
from hemnet.runs.renamed import with_present_names
from hemnet.storage.files import hold, read_table, replacing, write_records

log = logging.getLogger(__name__)
Checkpoint = Literal["last", "best"]
DEEPEST = 50
INNER = {"evaluation", "checkpoints", "figures", "wandb"}
"""Folders of a run, none of which holds a run of its own."""


@dataclass
class Run:
    """A run directory. As a context manager it records how the run ended, whichever way it ended.

    Of several ranks, only the first writes; to the others the directory is there to be read.
    """

    path: Path
    config: DictConfig
    _started: float = field(default_factory=time.monotonic)
    _outcome: dict[str, Any] = field(default_factory=dict)
    _lock: IO[str] | None = None

    @classmethod
    def create(cls, path: str | Path, config: DictConfig, resume: str | None = None) -> Self:
        """Make a run directory and write its config and environment; or go on with the run that is there.

        Args:
            path: the directory.
            config: of the run.
            resume: what to do with a run that is there already. None refuses; "auto" goes on with it:
                `resumes_from` is where, and nothing is left to do if its `status` is "finished". A run's
                directory, which is ``path`` then, is "auto" where there has to be one.

        Raises:
            HemnetError: the directory holds a run already, one with another configuration, or one that
                another process is at; or it is not the one of the run to go on with.
        """
        run = cls(Path(path), config)
        if rank() != 0:
            return run
        if resume not in (None, "auto") and Path(resume).resolve() != run.path.resolve():
            raise HemnetError(
                f"resume={resume} goes on with the run there, and run_dir={path} is elsewhere: leave out one "
                "of them, or copy the run"
            )
        exists = (run.path / "config.yaml").exists()
        if exists and resume is None:
            raise HemnetError(
                f"{path} already holds a run: choose another run_dir, delete it first, or go on with it by "
                f"resume={path}"
            )
        for folder in ("checkpoints", "figures"):
            (run.path / folder).mkdir(parents=True, exist_ok=True)
        if exists:
            run._check_same(config)
            if run.status == "finished":
                return run
        run._acquire()
        checkpoints.clean(run.path / "checkpoints")
        run._forget_unsaved_steps()
        (run.path / "result.json").unlink(missing_ok=True)  # how it ended before, which it is not now
        with replacing(run.path / "config.yaml") as part:  # without it, nobody could go on with the run
            OmegaConf.save(redacted(config), part)
        write_json(run.path / "environment.json", environment())
        return run

    def _acquire(self) -> None:
        """Hold the directory until the run ends or its process does."""
        try:
            self._lock = hold(self.path)
        except BlockingIOError as error:
            raise HemnetError(
                f"another process is training in {self.path}: wait for it or stop it"
            ) from error

    def _check_same(self, config: DictConfig) -> None:
        changed = differences(Run.open(self.path).config, redacted(config))
        if changed:
            raise HemnetError(
                f"the run in {self.path} was made with another configuration, differing in "
                f"{', '.join(changed[:5])}{', ...' if changed[5:] else ''}: choose another run_dir"
            )

    def _forget_unsaved_steps(self) -> None:
        """Take from metrics.csv what came after the last checkpoint: it will come again."""
        path = self.path / "metrics.csv"
        rows = read_table(path)
        if rows and not path.read_bytes().endswith(b"\n"):
            rows.pop()  # in the middle of which its process was killed, or the disk full
        saved = self.saved_step
        kept = [row for row in rows if int(row["step"]) < saved]
        if not kept:
            path.unlink(missing_ok=True)
            return
        write_records(path, sorted(set().union(*kept)), kept)

    @property
    def resumes_from(self) -> Path | None:
        """The checkpoint that training goes on from; None if it begins."""
        return self._saved[0]

    @property
    def saved_step(self) -> int:
        """How many optimizer steps the last checkpoint has behind it; 0 without one."""
        return self._saved[1]

    @cached_property
    def _saved(self) -> tuple[Path | None, int]:
        """The checkpoint when it was first asked for, the one before if the last is damaged; and its step."""
        found = checkpoints.latest(self.path / "checkpoints")
        return (found[0], int(found[1]["global_step"])) if found else (None, 0)

    @property
    def status(self) -> str | None:
        """The status in result.json: "finished", "failed" or "preempted"; None before a run has ended."""
        return result_at(self.path).get("status")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run directory that exists; it may have been moved since it was written.

        Raises:
            HemnetError: there is no run at ``path``, or its config.yaml is not one.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise HemnetError(f"no run at {path}: give a run directory, the one that holds config.yaml")
        config = _read_config(path / "config.yaml")
        config.run_dir = str(path)
        return cls(path, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if rank() != 0:
            return
        status, note = "finished", {}
        if error is not None:
            status = "preempted" if isinstance(error, KeyboardInterrupt | Interrupted) else "failed"
            note = {"error": redact(f"{type(error).__name__}: {error}")}
            # Errors meant for users explain themselves; any other needs its traceback in run.log.
            plain = isinstance(error, HemnetError | Interrupted)
            log.error("%s", error, exc_info=None if plain else error)
        result = {
            "status": status,
            "experiment": self.config.name,
            "seed": self.config.seed,
            "metrics": {},
            "seconds": round(time.monotonic() - self._started, 1),
            "steps": 0,
            "device": device_name(self.config.trainer.get("accelerator", "cpu")),
        }
        try:
            write_json(self.path / "result.json", result | self._outcome | note)
        except OSError as failure:  # of a full disk, say, which may be why the run ended
            if error is None:
                raise
            log.error("%s could not be written (%s)", self.path / "result.json", failure)
        if self._lock is not None:
            self._lock.close()

    def record(self, **outcome: Any) -> None:
        """Keep facts for result.json: ``metrics``, ``steps``, and others worth keeping."""
        self._outcome |= outcome

    def checkpoint(self, which: Checkpoint = "last") -> Path:
        """Return the path of a checkpoint.

        Raises:
            HemnetError: the run has none, because it failed early or is still in its first epoch.
        """
        path = self.path / "checkpoints" / f"{which}.ckpt"
        if not path.is_file():
            raise HemnetError(
                f"no checkpoint at {path}: the run wrote none (best is written at a validation); name another"
                " checkpoint or run"
            )
        return path

    def figure(self, name: str) -> Path:
        """Return the path of a figure, whose folder exists."""
        path = self.path / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def metrics(self) -> list[dict[str, float]]:
        """Return the rows of metrics.csv in order, each without its empty cells; [] if there is none."""
        rows = read_table(self.path / "metrics.csv")
        return [{key: float(value) for key, value in row.items()} for row in rows]

    def curves(self, wanted: Callable[[str], object] = bool) -> dict[str, np.ndarray]:
        """Return what metrics.csv has, metric by metric.

        Args:
            wanted: says of a metric's name whether it is returned; by default every one is.

        Returns:
            (S, 2) float64 per metric: optimizer step and value, where it was logged.

        Raises:
            ValueError: a cell is no number.
        """
        points: dict[str, list[tuple[float, float]]] = {}
        for row in self.metrics():
            step = row.pop("step", None)
            for name, value in row.items():
                if step is not None and wanted(name):
                    points.setdefault(name, []).append((step, value))
        return {name: np.array(found) for name, found in points.items()}

    @property
    def result(self) -> dict[str, Any]:
        """The contents of result.json."""
        return json.loads((self.path / "result.json").read_text())


def _read_config(path: Path) -> DictConfig:
    try:
        _require_tree(path.read_text("utf-8"))
        config = OmegaConf.create(with_present_names(OmegaConf.to_container(OmegaConf.load(path))))
        if not isinstance(config, DictConfig):
            raise ValueError("it has no keys")
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise HemnetError(
            f"{path}: not the configuration of a run ({' '.join(str(error).split())[:300]}): restore the file"
        ) from error
    return config


def _require_tree(text: str) -> None:
    """Raise a ValueError at YAML that would take for ever: OmegaConf copies what each alias stands for."""
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError(f"it has YAML aliases, or more than {DEEPEST} levels, which no run writes")


def find_runs(folder: Path, marks: Collection[str] = ("config.yaml",)) -> Iterator[Path]:
    """Yield the run directories at or below a folder: those that hold a file named by one of ``marks``.

    Raises:
        HemnetError: there is no such folder.
    """
    if not folder.is_dir():
        raise HemnetError(f"{folder} is no folder: name run directories or folders that hold some")
    for path, names, files in os.walk(folder):
        if not {*marks}.isdisjoint(files):
            yield Path(path).resolve()
        names[:] = sorted(name for name in names if name not in INNER and not name.startswith("."))


def result_at(path: Path) -> dict[str, Any]:
    """Return the contents of result.json in a run directory; {} if there is none, or none that is whole."""
    try:
        result = json.loads((path / "result.json").read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in which NaN, such as the IoU of an absent class, is null: JSON has no NaN."""
    with replacing(path) as part:
        part.write_text(json.dumps(_plain(content), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
