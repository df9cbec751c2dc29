"""A folder of photographs as a person has it: discs and squares on noise, masks beside the photographs."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photographs(root: Path, count: int = 10, size: tuple[int, int] = (48, 64)) -> Path:
    """Write ``photo 0.jpg`` and ``photo 0_mask.png``, ...: the labels are 0, 3 (bright) and 7 (dark)."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for i in range(count):
        mask = np.zeros(size, np.uint8)
        top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
        mask[top : top + 16, left : left + 16] = 7
        mask[(rows - size[0] * 0.7) ** 2 + (columns - size[1] * 0.7) ** 2 < 100] = 3
        level = np.array([110, 0, 0, 230, 0, 0, 0, 20])[mask]
        image = (level[..., None] + rng.normal(0, 10, (*size, 3))).clip(0, 255).astype(np.uint8)
        # Every third one is upright.
        turn = 1 if i % 3 == 0 else 0
        Image.fromarray(np.rot90(image, turn)).save(root / f"photo {i}.jpg")
        Image.fromarray(np.rot90(mask, turn)).save(root / f"photo {i}_mask.png")
    return root
