"""Files of images and masks to pixels, with errors that name the file.

Shapes: H, W image height and width.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from hemnet.data.listing import LOSSLESS, MOST_PIXELS, READABLE, require_file
from hemnet.data.spec import DataError

# Listed, because Pillow would try every format that it knows, and runs another program for PostScript.
MASK_FORMATS, IMAGE_FORMATS = tuple(LOSSLESS), tuple(READABLE)
"""Formats of masks and of images, by Pillow's names. A file's content decides, not its name."""
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def decode(
    path: str | Path, formats: tuple[str, ...], convert: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    """Return what ``convert`` makes of an image file in one of ``formats``; every failure is a DataError."""
    require_file(path)
    try:
        with Image.open(path, formats=formats) as picture:
            # The size comes from the header; the pixels are not decoded yet.
            if math.prod(picture.size) > MOST_PIXELS:
                raise DataError(_too_large(" x ".join(map(str, picture.size))))
            return convert(picture)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {_too_large('an absurd size')}") from error
    # On damaged files decoders raise exceptions of many types (OSError, SyntaxError, zlib.error, ...).
    except Exception as error:
        raise DataError(f"{path}: not a readable image ({error}); restore or remove the file") from error


def _too_large(size: str) -> str:
    return f"claims {size}, and at most {MOST_PIXELS} pixels are read; cut the image into parts"


def _to_rgb(picture: Image.Image) -> np.ndarray:
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)  # in place, since it would copy an upright picture too
    if picture.mode.startswith("I;16"):
        grey_HW = (np.asarray(picture).astype(np.uint32) + 128) // 257
        return np.repeat(grey_HW.astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode not in _EIGHT_BIT_MODES:
        raise DataError(f"pixel format {picture.mode!r} is not supported; convert the image to 8-bit RGB")
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _to_labels(picture: Image.Image) -> np.ndarray:
    if picture.mode not in ("L", "P"):
        raise DataError(
            f"a mask must be 8-bit with one channel, not {picture.mode!r}; convert it to class indices"
        )
    # Pillow rescales or inverts such grey levels: label 1 would silently become 17, 85 or 254.
    if (
        isinstance(picture, ImageFile)
        and picture.tile
        and not _is_raw(picture.tile[0].codec_name, picture.tile[0].args)
    ):
        raise DataError(
            "a mask must be 8-bit, and this one has fewer bits or levels of grey, or inverted grey; convert "
            "it to 8-bit class indices"
        )
    ImageOps.exif_transpose(picture, in_place=True)  # as for its image
    return np.array(picture)


def _is_raw(codec: str, args: Any) -> bool:
    """Return whether Pillow's decoder leaves grey levels as they are in the file."""
    if codec.startswith("ppm"):
        return bool(args[-1] == 255)
    layout = args[0] if isinstance(args, tuple) else args
    return layout == "L" or not str(layout).startswith("L")


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as RGB.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images are converted (16-bit colour keeps
    its high bytes), alpha is dropped, and the first of several frames or pages is read.

    Returns:
        (H, W, 3) uint8 RGB, a fresh array.

    Raises:
        DataError: the file is missing, no regular file, corrupt, truncated, of more than `MOST_PIXELS`, in
            none of `IMAGE_FORMATS`, or of a pixel format without an 8-bit equivalent (32-bit integer,
            floating point, Lab).
    """
    return decode(path, IMAGE_FORMATS, _to_rgb)


def read_labels(path: str | Path) -> np.ndarray:
    """Read a mask file: the levels of an 8-bit grey image, or the indices of a palette image.

    The EXIF orientation is applied, as for images.

    Returns:
        (H, W) uint8 raw label values, a fresh array.

    Raises:
        DataError: the file is missing, no regular file, corrupt, truncated, of more than `MOST_PIXELS`, in
            none of `MASK_FORMATS`, has more than one channel, fewer than 8 bits of grey, or inverted grey.
    """
    return decode(path, MASK_FORMATS, _to_labels)
