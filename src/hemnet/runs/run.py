"""A run directory as an object, to read.

config.yaml  environment.json  metrics.csv  run.log  result.json  checkpoints/{last,best}.ckpt  figures/
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from omegaconf import DictConfig

from hemnet.errors import HemnetError
from hemnet.runs import checkpoints, metrics_csv
from hemnet.runs.stored_config import read_config
from hemnet.storage.files import entry, read_json

Checkpoint = Literal["last", "best"]
RESULT, ENVIRONMENT, FINETUNE = "result.json", "environment.json", "finetune.json"
EXTENDED, EARLIER = "extended", "earlier_seconds"
"""Entries of environment.json: where a run was extended, and how long its earlier parts took."""
GIT, INSTRUCTIONS = "git", "cpu_instructions"
"""Entries of environment.json: the revision of the code, and the instruction set that torch uses."""
EARLIER_PARTS = {GIT: "earlier_git", INSTRUCTIONS: "earlier_cpu_instructions"}
"""Entries of environment.json: of these, the other values with which a part of a resumed run was trained."""
RECORD = "RunRecord"
"""The callback whose state in a checkpoint says how long the run had taken."""


class _Saved(NamedTuple):
    """The checkpoint that a run resumes from, and how many steps and seconds the run had taken then."""

    path: Path | None
    step: int
    seconds: float


@dataclass
class Run:
    """A run directory, to read. What writes one is `hemnet.runs.training_run.TrainingRun`.

    Attributes:
        path: the directory.
        config: the run's configuration.

    Example:
        >>> run = Run.open("experiments/results/study_primary/hem_0.5_seed1")
        >>> run.config.model.head.iterations, round(run.result["metrics"]["val/miou"], 3)
        (3, 0.662)
        >>> steps, miou = run.curves()["val/miou"].T
        >>> float(miou[-1]) == run.result["metrics"]["val/miou"]
        True
    """

    path: Path
    config: DictConfig
    _loaded: dict[str, checkpoints.Loaded] = field(default_factory=dict, repr=False, compare=False)

    @property
    def resumes_from(self) -> Path | None:
        """The checkpoint that training resumes from; None if it starts at the beginning."""
        return self._saved.path

    @property
    def saved_step(self) -> int:
        """The number of optimizer steps before that checkpoint; 0 without one."""
        return self._saved.step

    @cached_property
    def _saved(self) -> "_Saved":
        # Cached: training replaces the checkpoint, but what it resumed from stays what it was.
        found = checkpoints.latest(self.path / "checkpoints")
        if found is None:
            return _Saved(None, 0, 0.0)
        path, content = found
        record = content.get("callbacks", {}).get(RECORD, {})  # older versions recorded no seconds
        return _Saved(path, int(content["global_step"]), float(record.get("seconds", 0)))

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json; {} before the run has ended."""
        return read_json(self.path / RESULT)

    @property
    def status(self) -> str | None:
        """The status in result.json: "finished", "failed" or "preempted"; None before the run has ended."""
        return self.result.get("status")

    @property
    def score(self) -> float:
        """The ``val/miou`` in result.json; NaN without one."""
        return score(self.result)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing run directory, which may have been moved since it was written.

        Raises:
            HemnetError: there is no run at ``path``, or its config.yaml is not the configuration of a run.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise HemnetError(f"no run at {path}: give a run directory, the one that holds config.yaml")
        config = read_config(path / "config.yaml")
        config.run_dir = str(path)
        return cls(path, config)

    def progress(self) -> dict[str, Any]:
        """Return what the files tell of how far the run came, as entries of result.json.

        ``steps`` is the number of optimizer steps, as far as they were saved or logged; ``metrics`` are the
        scores of the last validation, {} before the first.
        """
        steps, scores = 0, dict[str, float]()
        with suppress(HemnetError):  # a damaged checkpoint is for those to report who need it
            steps = self.saved_step
        with suppress(ValueError, KeyError):  # a process that was killed may leave an incomplete row
            for row in self.metrics():
                steps = max(steps, int(row["step"]) + 1)
                scores = {k: v for k, v in row.items() if k.startswith("val/")} or scores
        return {"steps": steps, "metrics": scores}

    def checkpoint(self, which: Checkpoint = "last") -> Path:
        """Return the path of a checkpoint.

        Raises:
            HemnetError: the run has no such checkpoint: it failed early, or is still in its first epoch.
        """
        path = self.path / "checkpoints" / f"{which}.ckpt"
        if not path.is_file():
            raise HemnetError(
                f"no checkpoint at {path}: the run wrote none (best is written at a validation); name another"
                " checkpoint or run"
            )
        return path

    def load(self, which: Checkpoint = "last") -> checkpoints.Loaded:
        """Return the network's part of a checkpoint, and the checkpoint's hash.

        The file is read once. So what this object gives is one network, though training may replace the file.

        Raises:
            HemnetError: there is no such checkpoint, or see `checkpoints.load`.
        """
        if which not in self._loaded:
            found = checkpoints.load(self.checkpoint(which))
            kept = {key: value for key, value in found.content.items() if key in ("state_dict", "hemnet")}
            self._loaded[which] = checkpoints.Loaded(kept, found.digest)
        return self._loaded[which]

    def figure(self, name: str) -> Path:
        """Return the path for a figure; its folder is created if missing."""
        path = self.path / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def metrics(self) -> list[dict[str, float]]:
        """Return the rows of metrics.csv, see `hemnet.runs.metrics_csv.read`."""
        return metrics_csv.read(self.path / "metrics.csv")

    def curves(self, wanted: Callable[[str], object] = bool) -> dict[str, np.ndarray]:
        """Return metrics.csv by metric, see `hemnet.runs.metrics_csv.curves`."""
        return metrics_csv.curves(self.metrics(), wanted)


def counts(result: Mapping[str, Any]) -> bool:
    """Return whether a result.json is of a finished run, and not of one that was limited to try the code."""
    return result.get("status") == "finished" and not result.get("debug")


def score(result: Mapping[str, Any]) -> float:
    """Return the ``val/miou`` in a result.json; NaN without one."""
    return entry(entry(result, "metrics", {}), "val/miou", math.nan)
