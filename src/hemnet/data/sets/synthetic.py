"""A synthetic data set on which a local classifier fails and a classifier that pools by colour succeeds.

Shapes: S image side, G cells per side, P = S / G pixels per cell side, K classes.
"""

import colorsys
from typing import get_args

import numpy as np

from hemnet.data.random_streams import stream
from hemnet.data.readers import Sample
from hemnet.data.spec import DatasetSpec, Split

TILE = 4
"""Blocks per side of every texture: a cell is a tile of TILE x TILE blocks."""

_SPLITS = get_args(Split)
# Strong hues make cells easy to tell apart by colour. In the darkest channel of a hue, level 19, the dark
# half of a texture is clipped; in the brightest, level 191, all of it shows.
_SATURATION, _VALUE = 0.9, 0.75


def walsh_tiles(count: int) -> np.ndarray:
    """Return the first `count` two-dimensional Walsh functions on TILE x TILE blocks, by rising frequency.

    Each is +1 on half of the blocks and -1 on the other half, and any two are orthogonal. So textures do not
    differ in the mean, variance or histogram of a cell, only in its correlation with the tile.

    Args:
        count: 1..15.

    Returns:
        (count, TILE, TILE) float32, values -1 or +1.
    """
    rows = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], np.float32)
    orders = sorted(((i, j) for i in range(4) for j in range(4) if i + j), key=lambda ij: (sum(ij), ij))
    return np.stack([np.outer(rows[i], rows[j]) for i, j in orders[:count]])


class Mosaic:
    """Mosaics of small coloured cells: a cell alone shows its class unreliably.

    There are K hues and K textures. Each image assigns the hues to the classes at random, and its G x G cells
    to the classes as evenly as possible, in random order. A cell of class k has the hue of k. It shows
    texture k with probability `reliability` p, else one of the other K - 1 with equal probability. A channel
    of its pixels is `hue + contrast * texture + noise * N(0, 1)`, in grey levels.

    Across images, colour and position are independent of the class; within an image, one colour is one class.
    A classifier that sees single cells is right with probability p at most, which bounds its IoU per class by
    p / (2 - p) (all classes have the same errors); a vote over the G * G / K cells of one colour is right far
    more often. With the defaults these are 0.5, 0.33 and 0.90.

    Scaling, flipping, or cropping off the cell borders changes which class a texture shows, so train without
    them. The images depend on (seed, split, index) alone; there are no files.

    Args:
        split: "train", "val" or "test"; the splits share no image.
        length: number of images, at least 1.
        size: image side S in pixels.
        cells: cells per side G; S / G must be a multiple of TILE.
        num_classes: K, 2..15, at most G * G.
        reliability: p, above 1 / K (the texture says something) and at most 1 (it says all).
        contrast: amplitude of the texture in grey levels, > 0.
        noise: standard deviation in grey levels, >= 0.
        seed: non-negative.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        split: Split,
        length: int,
        size: int = 192,
        cells: int = 8,
        num_classes: int = 4,
        reliability: float = 0.5,
        contrast: float = 40.0,
        noise: float = 8.0,
        seed: int = 0,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"Mosaic: split must be one of {_SPLITS}, got {split!r}")
        if length < 1 or seed < 0:
            raise ValueError(f"Mosaic: needs length >= 1 and seed >= 0, got length={length} seed={seed}")
        if cells < 1 or size < 1 or size % (cells * TILE):
            raise ValueError(
                f"Mosaic: size must be a multiple of {TILE} * cells, got size={size} cells={cells}"
            )
        if not 2 <= num_classes <= min(TILE * TILE - 1, cells * cells):
            raise ValueError(
                f"Mosaic: num_classes must be 2..15, at most cells**2, got {num_classes} with cells={cells}"
            )
        if not 1 / num_classes < reliability <= 1:
            raise ValueError(
                f"Mosaic: reliability must be above 1 / num_classes = {1 / num_classes:.3f} and at most 1, "
                f"got {reliability}"
            )
        if contrast <= 0 or noise < 0:
            raise ValueError(
                f"Mosaic: needs contrast > 0 and noise >= 0, got contrast={contrast} noise={noise}"
            )
        self._split, self._length, self._seed = _SPLITS.index(split), length, seed
        self._cells, self._cell_size = cells, size // cells
        self._reliability, self._noise = reliability, noise
        tiles_KPP = _enlarge(walsh_tiles(num_classes), self._cell_size // TILE)
        self._texture_KSS = contrast * np.tile(tiles_KPP, (1, cells, cells))
        self._hues_K3 = np.array([_rgb(k / num_classes) for k in range(num_classes)], np.float32)
        self._spec = DatasetSpec(
            name="mosaic",
            classes=tuple(f"texture {k}" for k in range(num_classes)),
            palette=_ramp(num_classes),
        )

    @property
    def spec(self) -> DatasetSpec:
        """Classes "texture 0", "texture 1", ..."""
        return self._spec

    def __len__(self) -> int:
        return self._length

    def read(self, index: int) -> Sample:
        """Draw image `index`: (S, S, 3) uint8 with an (S, S) mask of classes 0..K-1, no pixel ignored."""
        if not 0 <= index < self._length:
            raise IndexError(f"Mosaic: index {index} is out of range for {self._length} images")
        rng = stream(self._seed, "mosaic", self._split, index)
        classes, cells = self._spec.num_classes, self._cells
        # If K does not divide G * G, the classes with one cell more are random too.
        deal = rng.permutation(classes)[np.arange(cells**2) % classes]
        class_GG = rng.permutation(deal).reshape(cells, cells)
        lie_GG = (class_GG + rng.integers(1, classes, (cells, cells))) % classes
        shown_GG = np.where(rng.random((cells, cells)) < self._reliability, class_GG, lie_GG)

        mask_SS, shown_SS = (_enlarge(grid, self._cell_size) for grid in (class_GG, shown_GG))
        image_SSC = rng.permutation(self._hues_K3)[mask_SS]
        image_SSC += np.take_along_axis(self._texture_KSS, shown_SS[None], axis=0)[0][..., None]
        image_SSC += self._noise * rng.standard_normal(image_SSC.shape, dtype=np.float32)
        image_SSC = np.clip(np.rint(image_SSC), 0, 255).astype(np.uint8)
        return Sample(image_SSC, mask_SS.astype(np.uint8), f"{_SPLITS[self._split]}-{index:05d}")


def _enlarge(grid: np.ndarray, factor: int) -> np.ndarray:
    """Repeat each entry of the last two axes `factor` times along both."""
    return grid.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _rgb(hue: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, _SATURATION, _VALUE))
    return red, green, blue


def _ramp(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return colours from violet over teal to yellow, all unlike the hues, which are not classes."""
    place = np.linspace(0, 2, count)
    channels = [np.interp(place, [0, 1, 2], stops) for stops in ((68, 33, 253), (1, 145, 231), (84, 140, 37))]
    return tuple((round(r), round(g), round(b)) for r, g, b in zip(*channels, strict=True))
