"""The provenance of a run: versions, git revision, device, command."""

import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hemnet.runs.redaction import redact_argument
from hemnet.runs.run import GIT, INSTRUCTIONS

PACKAGES = ("hemnet", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
            "albumentations", "opencv-python-headless", "wandb")  # fmt: skip


def environment() -> dict[str, Any]:
    """Return the content of environment.json: command, time, versions, git revision, device, instruction set.

    Environment variables are left out, since they may be secret. ``cpu_instructions`` is the instruction set
    that torch uses, such as "AVX2": with another, sums are rounded otherwise, and one seed scores otherwise.
    """
    import torch  # here, and below: slow to import

    return {
        "command": [redact_argument(argument) for argument in sys.argv],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        GIT: _revision(),
        "device": device_name("auto"),
        "cpu_threads": torch.get_num_threads(),
        INSTRUCTIONS: torch.backends.cpu.get_cpu_capability(),
    }


def device_name(accelerator: str) -> str:
    """Return the model name of the device behind Lightning's ``accelerator``, such as "cpu (...)"."""
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text("utf-8")) if info.is_file() else []
    return f"cpu ({models[0] if models else platform.processor() or platform.machine()})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> dict[str, Any]:
    """Return the git revision of the sources, and whether they are modified: None and False without git."""
    # An installed package may lie in the folder of a repository of the user's, which does not hold it.
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    return {
        "revision": _git("rev-parse", "HEAD") if tracked else None,
        "modified": tracked and bool(_git("status", "--porcelain")),
    }


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in the source tree; None without git or a repository."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10, encoding="utf-8"
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
