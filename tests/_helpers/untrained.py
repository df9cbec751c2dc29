"""Runs with a network as it was made, and images, for tests of what is done with a trained one."""

from pathlib import Path

import numpy as np
import torch
from _helpers.tiny import TINY
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.data import CAMVID, DatasetSpec
from hemnet.runs.checkpoints import CHECKPOINT_FORMAT
from hemnet.runs.run import Run


def untrained(
    path: Path, *overrides: str, replacing: str = "", spec: DatasetSpec = CAMVID
) -> tuple[Run, dict[str, Tensor]]:
    """Return a run in this folder, of these classes, and the tensors of its network.

    Args:
        path: the run directory.
        overrides: further ones.
        replacing: a part of the keys of `TINY` that are left out.
        spec: the classes.
    """
    kept = [key for key in TINY if not replacing or replacing not in key]
    config = load([f"run_dir={path}", *kept, *overrides])
    (path / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, path / "config.yaml")
    torch.manual_seed(0)  # here, since a fixture of a module runs before any seed of a test
    state = build_network(config, spec.num_classes).state_dict()
    about = {"format": CHECKPOINT_FORMAT, "spec": spec.to_dict()}
    content = {"state_dict": {f"network.{name}": value for name, value in state.items()}, "hemnet": about}
    torch.save(content, path / "checkpoints" / "last.ckpt")
    return Run.open(path), state


def as_stored(run: Run) -> Run:
    """The run with its configuration as training stores it, resolved."""
    stored = OmegaConf.create(OmegaConf.to_container(run.config, resolve=True))
    OmegaConf.save(stored, run.path / "config.yaml")
    return Run.open(run.path)


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = (24, 36)) -> Path:
    """Write noise of a size (height, width) as an image, the same for the same seed; return its path."""
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path
