"""Runs with a network as it was made, for tests of what is done with a trained one."""

from pathlib import Path

import torch
from _helpers.tiny import TINY
from torch import Tensor

from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.data import CAMVID
from hemnet.runs.checkpoints import CHECKPOINT_FORMAT
from hemnet.runs.run import Run
from hemnet.runs.training_run import TrainingRun


def untrained(path: Path, *overrides: str, replacing: str = "") -> tuple[Run, dict[str, Tensor]]:
    """Return a run in this folder, of CamVid's classes, and the tensors of its network.

    Args:
        path: the run directory.
        overrides: further ones.
        replacing: a part of the keys of `TINY` that are left out.
    """
    kept = [key for key in TINY if not replacing or replacing not in key]
    config = load([f"run_dir={path}", *kept, *overrides])
    run = TrainingRun.create(path, config)
    state = build_network(config, CAMVID.num_classes).state_dict()
    about = {"format": CHECKPOINT_FORMAT, "spec": CAMVID.to_dict()}
    content = {"state_dict": {f"network.{name}": value for name, value in state.items()}, "hemnet": about}
    torch.save(content, path / "checkpoints" / "last.ckpt")
    return run, state
