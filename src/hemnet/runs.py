"""A run directory as an object: what a training run leaves behind, and what later commands take.

config.yaml  environment.json  metrics.csv  run.log  result.json  checkpoints/{last,best}.ckpt  figures/
"""

import csv
import json
import logging
import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from hemnet.errors import HemnetError
from hemnet.ranks import rank

log = logging.getLogger(__name__)
Checkpoint = Literal["last", "best"]
PACKAGES = ("hemnet", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
            "albumentations", "opencv-python-headless", "wandb")  # fmt: skip
SECRET_NAME = re.compile(r"(api_?key|secret|token|passw(or)?d|credential)", re.IGNORECASE)
REDACTED = "<redacted>"


@dataclass
class Run:
    """A run directory. As a context manager it records how the run ended, whichever way it ended.

    Of several ranks, only the first writes; to the others the directory is there to be read.
    """

    path: Path
    config: DictConfig
    _started: float = field(default_factory=time.monotonic)
    _outcome: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, path: str | Path, config: DictConfig) -> Self:
        """Make a run directory and write its config and environment.

        Raises:
            HemnetError: the directory already holds a run, which is never overwritten.
        """
        path = Path(path)
        if rank() != 0:
            return cls(path, config)
        if (path / "config.yaml").exists():
            raise HemnetError(f"{path} already holds a run: choose another run_dir, or delete it first")
        for folder in ("checkpoints", "figures"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        OmegaConf.save(redacted(config), path / "config.yaml")
        write_json(path / "environment.json", environment())
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run directory that exists; it may have been moved since it was written.

        Raises:
            HemnetError: there is no run at ``path``.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise HemnetError(f"no run at {path}: give a run directory, the one that holds config.yaml")
        config = OmegaConf.load(path / "config.yaml")
        assert isinstance(config, DictConfig)
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
            status = "preempted" if isinstance(error, KeyboardInterrupt) else "failed"
            note = {"error": f"{type(error).__name__}: {error}"}
            # Errors meant for users explain themselves; any other needs its traceback in run.log.
            log.error("%s", error, exc_info=None if isinstance(error, HemnetError) else error)
        result = {
            "status": status,
            "experiment": self.config.name,
            "seed": self.config.seed,
            "metrics": {},
            "seconds": round(time.monotonic() - self._started, 1),
            "steps": 0,
            "device": device_name(self.config.trainer.get("accelerator", "cpu")),
        }
        write_json(self.path / "result.json", result | self._outcome | note)

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
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def curves(self, wanted: Callable[[str], object] = bool) -> dict[str, np.ndarray]:
        """Return what metrics.csv has, metric by metric: the quick way to read a long run.

        Args:
            wanted: says of a metric's name whether it is read; by default every one is.

        Returns:
            (S, 2) float64 per metric: optimizer step and value, where it was logged.

        Raises:
            ValueError: a cell is no number, as in a file that is still being written.
        """
        path = self.path / "metrics.csv"
        if not path.is_file():
            return {}
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        names = rows.pop(0) if rows else []
        # A torn last row is shorter than the others.
        columns = dict(zip(names, zip_longest(*rows, fillvalue=""), strict=False))
        steps = [float(cell or "nan") for cell in columns.get("step", ())]
        found = {}
        for name, cells in columns.items():
            if name != "step" and wanted(name) and any(cells):
                logged = [i for i, cell in enumerate(cells) if cell]
                found[name] = np.array([[steps[i] for i in logged], [float(cells[i]) for i in logged]]).T
        return found

    @property
    def result(self) -> dict[str, Any]:
        """The contents of result.json."""
        return json.loads((self.path / "result.json").read_text())


def redacted(config: DictConfig) -> DictConfig:
    """Return a resolved copy of a config without its secrets.

    A value under a name such as ``api_key`` is replaced, and so is the same string elsewhere. A value taken
    from an environment variable stays an interpolation, except from this project's own ``HEMNET_*`` ones.
    """
    with _masked_environment():
        content = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create(_redact(content, set(_secrets(content))))


@contextmanager
def _masked_environment() -> Iterator[None]:
    def mask(key: str, default: Any = None) -> Any:
        return oc.env(key, default) if key.startswith("HEMNET_") else f"${{oc.env:{key}}}"

    OmegaConf.register_new_resolver("oc.env", mask, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _secrets(node: Any, secret: bool = False) -> Iterator[str]:
    """Yield the strings below every key with a secret's name."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _secrets(value, secret or bool(SECRET_NAME.search(str(key))))
    elif isinstance(node, list):
        for value in node:
            yield from _secrets(value, secret)
    elif secret and isinstance(node, str):
        yield node


def _redact(node: Any, secrets: set[str]) -> Any:
    if isinstance(node, dict):
        return {key: _redact(value, secrets) for key, value in node.items()}
    if isinstance(node, list):
        return [_redact(value, secrets) for value in node]
    return REDACTED if isinstance(node, str) and node in secrets else node


def environment() -> dict[str, Any]:
    """Return what a run ran on: versions, git revision, device, command, time. No environment variables."""
    return {
        "command": [_redact_argument(argument) for argument in sys.argv],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": {"revision": _git("rev-parse", "HEAD"), "modified": bool(_git("status", "--porcelain"))},
        "device": device_name("auto"),
        "cpu_threads": torch.get_num_threads(),
    }


def device_name(accelerator: str) -> str:
    """Return the name of the device that a trainer with this ``accelerator`` computes on."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else []
    return f"cpu ({models[0] if models else platform.processor() or platform.machine()})"


def _redact_argument(argument: str) -> str:
    name, equals, _ = argument.partition("=")
    return f"{name}={REDACTED}" if equals and SECRET_NAME.search(name) else argument


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git says of the source tree; None where there is no git or no repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in which NaN, such as the IoU of an absent class, is null: JSON has no NaN."""
    path.write_text(json.dumps(_plain(content), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
