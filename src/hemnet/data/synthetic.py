"""A synthetic data set on which a local classifier fails and one that pools by colour succeeds.

Shapes: S image side, G cells per side, K classes.
"""

from typing import get_args

import numpy as np

from hemnet.data.readers import Sample
from hemnet.data.spec import DatasetSpec, Split
from hemnet.data.streams import stream

_SPLITS = get_args(Split)
# Two unit vectors that span the colours of equal brightness: a hue carries no shade.
_CHROMA_23 = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
# Grey levels. The farthest hue is 57 from the middle in a channel, so shades of up to 70 do not clip.
_MIDDLE, _CHROMA = 128.0, 70.0


class Mosaic:
    """Mosaics of coloured cells, each of which says little about its class, while all of a colour say it.

    There are K hues of equal brightness. Each image pairs them with the classes anew, at random, and deals
    its G x G cells to the classes as evenly as possible, in random order. A cell of class k has the hue that
    its class has in this image, made brighter or darker by a shade that is drawn once for the cell:
    `step * (k - (K - 1) / 2) + spread * N(0, 1)` grey levels. White noise is added to every pixel.

    Hue and position say nothing about the class across images, and a cell's shade says little: the best guess
    from one cell, however well its pixels are seen, is right with probability
    (2 F(d / 2) + (K - 2) (2 F(d / 2) - 1)) / K, where d = step / spread and F is the normal distribution
    function; 0.48 by the defaults. But all cells of one hue are of one class, and the mean shade of n cells
    is sqrt(n) times as sharp: 0.92 for the 16 cells of a class. Deterministic in (seed, split, index).

    Args:
        split: "train", "val" or "test"; the splits share no image.
        length: number of images, at least 1.
        size: image side S in pixels, a multiple of `cells`.
        cells: cells per side G.
        num_classes: K, 2 to 12, at most G * G.
        step: between the mean shades of neighbouring classes, in grey levels, > 0.
        spread: standard deviation of a cell's shade about its class's, in grey levels, > 0.
        noise: standard deviation of a pixel about its cell, in grey levels, >= 0.
        seed: non-negative.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        split: Split,
        length: int,
        size: int = 128,
        cells: int = 8,
        num_classes: int = 4,
        step: float = 16.0,
        spread: float = 20.0,
        noise: float = 10.0,
        seed: int = 0,
    ) -> None:
        fits = 1 <= cells <= size and size % cells == 0
        rules = (
            (split in _SPLITS, f"split must be one of {_SPLITS}, got {split!r}"),
            (length >= 1 and seed >= 0, f"needs length >= 1 and seed >= 0, got {length=} {seed=}"),
            (fits, f"size must be a positive multiple of cells, got {size=} {cells=}"),
            (
                2 <= num_classes <= min(12, cells**2),
                f"num_classes must be 2..12, <= cells**2, got {num_classes}",
            ),
            (step > 0 and spread > 0, f"step and spread must be > 0, got {step=} {spread=}"),
            (noise >= 0, f"noise must be >= 0, got {noise}"),
        )
        for holds, rule in rules:
            if not holds:
                raise ValueError(f"Mosaic: {rule}")
        self._split, self._length, self._seed = _SPLITS.index(split), length, seed
        self._cells, self._cell_size = cells, size // cells
        self._step, self._spread, self._noise = step, spread, noise
        angle_K = 2 * np.pi * np.arange(num_classes) / num_classes
        self._hues_K3 = _MIDDLE + _CHROMA * np.stack([np.cos(angle_K), np.sin(angle_K)], 1) @ _CHROMA_23
        # A class has no colour of its own: it is shown by its place from dark blue to yellow.
        ramp_K = np.linspace(0, 1, num_classes)[:, None]
        palette_K3 = np.rint((1 - ramp_K) * (68, 1, 84) + ramp_K * (253, 231, 37)).astype(int)
        self._spec = DatasetSpec(
            name="mosaic",
            classes=tuple(f"shade {k}" for k in range(num_classes)),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in palette_K3),
        )

    @property
    def spec(self) -> DatasetSpec:
        """Classes "shade 0" (the darkest on average), "shade 1", ..."""
        return self._spec

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Sample:
        """Draw image `index`: (S, S, 3) uint8 with an (S, S) mask of classes 0..K-1, no pixel ignored."""
        if not 0 <= index < self._length:
            raise IndexError(f"Mosaic: index {index} is out of range for {self._length} images")
        rng = stream(self._seed, "mosaic", self._split, index)
        classes, cells = self._spec.num_classes, self._cells
        # The class that gets a cell more when G * G is no multiple of K is random as well.
        deal = rng.permutation(classes)[np.arange(cells**2) % classes]
        class_GG = rng.permutation(deal).reshape(cells, cells)
        shade_GG = self._step * (class_GG - (classes - 1) / 2) + self._spread * rng.standard_normal(
            (cells, cells)
        )
        color_GG3 = rng.permutation(self._hues_K3)[class_GG] + shade_GG[..., None]
        image_SSC = self._enlarge(color_GG3).astype(np.float32)
        image_SSC += self._noise * rng.standard_normal(image_SSC.shape, dtype=np.float32)
        image_SSC = np.clip(np.rint(image_SSC), 0, 255).astype(np.uint8)
        mask_SS = self._enlarge(class_GG).astype(np.uint8)
        return Sample(image_SSC, mask_SS, f"{_SPLITS[self._split]}-{index:05d}")

    def _enlarge(self, grid: np.ndarray) -> np.ndarray:
        return grid.repeat(self._cell_size, axis=0).repeat(self._cell_size, axis=1)
