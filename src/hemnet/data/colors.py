"""Masks whose labels are colours.

Shapes: H, W image height and width, C = 3 colour channels.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hemnet.data.decoding import MASK_FORMATS, decode
from hemnet.data.spec import DataError

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"}


def packed(color: str) -> int:
    """Return a colour "#rrggbb" as one number, 65536 red + 256 green + blue."""
    return int(color.removeprefix("#"), 16)


def read_colors(path: str | Path) -> np.ndarray:
    """Read a mask file as colours: of RGB, palette and grey images of any depth up to 8 bits.

    The EXIF orientation is applied, as for images; alpha is dropped.

    Returns:
        (H, W) int32, 65536 red + 256 green + blue.

    Raises:
        DataError: the file is missing, no regular file, corrupt, truncated, too large, in none of
            `MASK_FORMATS`, or of a pixel format with more than 8 bits.
    """
    return decode(path, MASK_FORMATS, _to_colors)


def _to_colors(picture: Image.Image) -> np.ndarray:
    if picture.mode not in _MODES:
        raise DataError(
            f"a mask must have up to 8 bits a channel, not the pixel format {picture.mode!r}; convert it to "
            "8-bit class indices"
        )
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    rgb_HWC = np.asarray(picture.convert("RGB")).astype(np.int32)
    return rgb_HWC[..., 0] << 16 | rgb_HWC[..., 1] << 8 | rgb_HWC[..., 2]
