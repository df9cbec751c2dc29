"""Fixtures that several test folders share."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

# Set before any test imports wandb or albumentations: tests talk to no server.
os.environ["WANDB_MODE"] = "offline"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

MakeCamVid = Callable[..., Path]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make_camvid(tmp_path: Path) -> MakeCamVid:
    """Return a function that writes a miniature data set in the layout of CamVid."""

    def make(train: int = 4, val: int = 3, size: tuple[int, int] = (48, 64), name: str = "camvid") -> Path:
        rng, root = np.random.default_rng(0), tmp_path / name
        for split, count in (("train", train), ("val", val)):
            for folder in (split, f"{split}annot"):
                (root / folder).mkdir(parents=True)
            for i in range(count):
                # Labels 0..11 in blocks, each with a grey level of its own: there is something to learn.
                grid = rng.integers(0, 12, (3, 4), dtype=np.uint8)
                labels = np.kron(grid, np.ones((size[0] // 3, size[1] // 4), np.uint8))
                image = np.repeat((labels * 20)[..., None], 3, axis=2)
                image += rng.integers(0, 10, image.shape, dtype=np.uint8)
                Image.fromarray(image).save(root / split / f"{i:02d}.png")
                Image.fromarray(labels).save(root / f"{split}annot" / f"{i:02d}.png")
        return root

    return make
