"""A synthetic data set on which a local classifier fails and one that pools by colour succeeds.

Shapes: S image side, G cells per side, P = S / G pixels per cell side, K classes.
"""

import colorsys
from typing import get_args

import numpy as np

from hemnet.data.readers import Sample
from hemnet.data.spec import DatasetSpec, Split
from hemnet.data.streams import stream

TILE = 4
"""Period in pixels of every texture."""

_SPLITS = get_args(Split)
# Saturation and value keep every channel within 76..191 grey levels, so that noise seldom clips.
_SATURATION, _VALUE = 0.6, 0.75


def walsh_tiles(count: int) -> np.ndarray:
    """Return the first `count` two-dimensional Walsh functions on TILE x TILE pixels, by rising frequency.

    Each is +1 on half of the pixels and -1 on the other half, and any two are orthogonal, so that no texture
    shows in the mean, the variance or the histogram of a region: only in its correlation with the tile.

    Args:
        count: 1..15.

    Returns:
        (count, TILE, TILE) float32, values -1 or +1.
    """
    rows = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], np.float32)
    orders = sorted(((i, j) for i in range(4) for j in range(4) if i + j), key=lambda ij: (sum(ij), ij))
    return np.stack([np.outer(rows[i], rows[j]) for i, j in orders[:count]])


class Mosaic:
    """Mosaics of small coloured cells whose class is told only by a texture buried in noise.

    Each channel of a pixel of class k is `colour_k + contrast * tile_k + noise * N(0, 1)`, in grey levels.
    The colours are K hues, evenly spaced from a random start and dealt to the classes anew in every image;
    the cells are dealt to the classes as evenly as possible, in random order. Colour and position therefore
    say nothing about the class across images, but within an image one colour is one class. A filter matched
    to the tiles finds the tile of a cell d' = contrast * P * sqrt(3) / noise standard deviations above the
    others (0.99 with the defaults: right for 45 % of the cells), and sqrt(n) d' (4.8: 99.9 %) summed over the
    n cells of a colour.

    The texture has a fixed phase to the pixel grid: scaling, flipping, or cropping off the multiples of TILE
    changes its classes, so train without them. Deterministic in (seed, split, index); no files.

    Args:
        split: "train", "val" or "test"; the splits share no image.
        length: number of images, at least 1.
        size: image side S in pixels.
        cells: cells per side G; S / G must be a multiple of TILE.
        num_classes: K, 2..15, at most G * G.
        noise: standard deviation in grey levels, > 0.
        contrast: amplitude of the texture in grey levels, > 0.
        seed: non-negative.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        split: Split,
        length: int,
        size: int = 96,
        cells: int = 12,
        num_classes: int = 6,
        noise: float = 28.0,
        contrast: float = 2.0,
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
        if noise <= 0 or contrast <= 0:
            raise ValueError(f"Mosaic: noise and contrast must be > 0, got noise={noise} contrast={contrast}")
        self._split, self._length, self._seed = _SPLITS.index(split), length, seed
        self._cells, self._cell_size, self._noise = cells, size // cells, noise
        self._texture_KSS = contrast * np.tile(walsh_tiles(num_classes), (1, size // TILE, size // TILE))
        hues = [k / num_classes for k in range(num_classes)]
        self._spec = DatasetSpec(
            name="mosaic",
            classes=tuple(f"texture {k}" for k in range(num_classes)),
            palette=tuple(_rgb(hue) for hue in hues),
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
        classes = self._spec.num_classes
        # The class that gets a cell more when G * G is no multiple of K is random as well.
        deal = rng.permutation(classes).astype(np.uint8)[np.arange(self._cells**2) % classes]
        grid_GG = rng.permutation(deal).reshape(self._cells, self._cells)
        mask_SS = np.repeat(np.repeat(grid_GG, self._cell_size, axis=0), self._cell_size, axis=1)

        start, order = rng.random(), rng.permutation(classes)
        color_K3 = np.array([_rgb((start + slot / classes) % 1.0) for slot in order], np.float32)
        texture_SS = np.take_along_axis(self._texture_KSS, mask_SS[None].astype(np.intp), axis=0)[0]
        image_SSC = rng.standard_normal((*mask_SS.shape, 3), dtype=np.float32)
        image_SSC *= self._noise
        image_SSC += color_K3[mask_SS]
        image_SSC += texture_SS[..., None]
        image_SSC = np.clip(np.rint(image_SSC), 0, 255).astype(np.uint8)
        return Sample(image_SSC, mask_SS, f"{_SPLITS[self._split]}-{index:05d}")


def _rgb(hue: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, _SATURATION, _VALUE))
    return red, green, blue
