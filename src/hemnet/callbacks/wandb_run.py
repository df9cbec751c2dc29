"""Weights & Biases: a logger that never prompts nor blocks, and whose run ends when training does."""

import logging
import netrc
import os
import socket
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlparse

from pytorch_lightning.loggers import WandbLogger

from hemnet.ranks import rank

log = logging.getLogger(__name__)
DEFAULT_SERVER = "https://api.wandb.ai"
REACH_SECONDS = 3.0
Mode = Literal["online", "offline", "disabled"]


class FinishingWandbLogger(WandbLogger):
    """Ends its run with training, also when that fails, so that the process's next job starts its own."""

    def finalize(self, status: str) -> None:
        """Finish the run; Lightning calls this with ``success`` or ``failed``."""
        super().finalize(status)
        self.experiment.finish(exit_code=0 if status == "success" else 1)


def wandb_logger(
    save_dir: str,
    project: str = "hemnet",
    name: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
    mode: Mode | None = None,
) -> FinishingWandbLogger:
    """Return a logger online if there are a key and a reachable server, else offline.

    Args:
        save_dir: where the W&B files of the run go; ``wandb sync`` uploads them later.
        project: W&B project.
        name: run name; null lets W&B choose.
        group: of runs that belong together.
        tags: of the run.
        mode: ``online``, ``offline`` or ``disabled``; null follows ``WANDB_MODE``, else decides as above.
            ``online`` without key or server is offline with a warning.
    """
    import wandb  # here, since it costs a second that a run without W&B need not pay

    def start(mode: Mode) -> wandb.Run:
        settings = wandb.Settings(mode=mode, silent=True, init_timeout=20, console="off", disable_git=True)
        return wandb.init(project=project, name=name, group=group, tags=tags, dir=save_dir, settings=settings)

    chosen: Mode = mode or _mode_of_environment()
    if rank() != 0:
        chosen = "disabled"  # the first rank logs for all
    if chosen == "online":
        obstacle = _obstacle()
        if obstacle:
            log.info(
                "W&B is offline: %s; upload later with `wandb sync %s/wandb/*-run-*`", obstacle, save_dir
            )
            chosen = "offline"
    wandb.teardown()  # a run left open by an earlier job of this process must not be joined
    try:
        run = start(chosen)
    except Exception as error:
        log.warning("W&B could not start online (%s); this run is logged offline", error)
        run = start("offline")
    return FinishingWandbLogger(experiment=run, save_dir=save_dir)


def _mode_of_environment() -> Mode:
    value = os.environ.get("WANDB_MODE", "online")
    for mode in get_args(Mode):
        if value == mode:
            return mode
    raise ValueError(f"WANDB_MODE is {value!r}: set it to one of {', '.join(get_args(Mode))}, or unset it")


def _obstacle() -> str | None:
    """Return why an online run cannot be, or None."""
    server = urlparse(os.environ.get("WANDB_BASE_URL", DEFAULT_SERVER))
    host, port = server.hostname or "", server.port or (443 if server.scheme == "https" else 80)
    if not os.environ.get("WANDB_API_KEY") and not _in_netrc(host):
        return "no API key (WANDB_API_KEY or `wandb login`)"
    try:
        socket.create_connection((host, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        return f"{host}:{port} cannot be reached ({error})"
    return None


def _in_netrc(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
