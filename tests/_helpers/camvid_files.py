"""Miniature data sets in their on-disk layouts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

MakeCamVid = Callable[..., Path]


def write_camvid(root: Path, counts: dict[str, int], size: tuple[int, int] = (24, 32)) -> Path:
    """Write random pictures in CamVid's layout; every mask has all of the labels 0..11."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for i in range(count):
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            mask = (np.arange(size[0] * size[1]).reshape(size) + i).astype(np.uint16) % 12
            Image.fromarray(image).save(root / split / f"{split}_{i}.png")
            Image.fromarray(mask.astype(np.uint8)).save(root / f"{split}annot" / f"{split}_{i}.png")
    return root
