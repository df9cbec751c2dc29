"""Weights & Biases: a logger that never prompts nor blocks, and whose run ends when training does."""

import logging
import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlparse

from pytorch_lightning.loggers import WandbLogger

log = logging.getLogger(__name__)
DEFAULT_SERVER = "https://api.wandb.ai"
REACH_SECONDS = 3.0


class FinishingWandbLogger(WandbLogger):
    """Ends its run with training, also when that fails, so that the next job of the process starts its own."""

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
    mode: str | None = None,
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

    mode = mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "online":
        obstacle = _obstacle()
        if obstacle:
            log.info("W&B is offline: %s; upload later with `wandb sync %s`", obstacle, save_dir)
            mode = "offline"
    wandb.finish(quiet=True)  # a run left open by an earlier job of this process must not be joined
    settings = wandb.Settings(mode=mode, silent=True, init_timeout=20, console="off", disable_git=True)
    options = {"project": project, "name": name, "group": group, "tags": tags, "dir": save_dir}
    try:
        run = wandb.init(**options, settings=settings)
    except Exception as error:
        log.warning("W&B could not start online (%s); this run is logged offline", error)
        settings = wandb.Settings(mode="offline", silent=True, console="off", disable_git=True)
        run = wandb.init(**options, settings=settings)
    return FinishingWandbLogger(experiment=run, save_dir=save_dir)


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
