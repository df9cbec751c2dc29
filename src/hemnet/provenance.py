"""Where a run comes from: its configuration without secrets, versions, revision, device, command."""

import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

PACKAGES = ("hemnet", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
            "albumentations", "opencv-python-headless", "wandb")  # fmt: skip
SECRET_NAME = re.compile(r"(api_?key|secret|token|passw(or)?d|credential)", re.IGNORECASE)
REDACTED = "<redacted>"


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
