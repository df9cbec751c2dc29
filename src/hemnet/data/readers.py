"""Readers: from files on disk to RGB images and class masks, with errors that name the file.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import PIL
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from hemnet.data.listing import LOSSLESS, MOST_PIXELS, READABLE, few, require_file
from hemnet.data.mat import read_mat
from hemnet.data.matching import Files
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec

# Listed, because Pillow would try every format that it knows, and runs another program for PostScript.
MASK_FORMATS, IMAGE_FORMATS = tuple(LOSSLESS), tuple(READABLE)
"""Formats of masks and of images, by Pillow's names. A file's content decides, not its name."""
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


class Sample(NamedTuple):
    """One image with its labels.

    image_HWC: (H, W, 3) uint8 RGB. mask_HW: (H, W) uint8, class indices or IGNORE_INDEX; all IGNORE_INDEX
    for an image without a mask. name: unique in its split, without folder or suffix.
    """

    image_HWC: np.ndarray
    mask_HW: np.ndarray
    name: str


def require_sound(sample: Sample) -> None:
    """Raise a DataError unless a sample has the shapes and dtypes that `Sample` states."""
    image, mask = sample.image_HWC, sample.mask_HW
    if image.dtype != np.uint8 or mask.dtype != np.uint8 or image.shape != (*mask.shape, 3) or mask.ndim != 2:
        raise DataError(
            f"{sample.name}: image {image.shape} {image.dtype} and mask {mask.shape} {mask.dtype} are not "
            "(H, W, 3) and (H, W) uint8"
        )


class Fingerprint(NamedTuple):
    """Hex digests of what a reader's samples depend on.

    settings: the reader's class, options and file paths. files: sizes and modification times of the files.
    """

    settings: str
    files: str


class Reader(Protocol):
    """A finite, indexed set of samples. Reading the same index twice gives the same sample."""

    @property
    def spec(self) -> DatasetSpec:
        """Classes and colours."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Return sample `index`, 0 <= index < len(self)."""
        ...


def _decode(
    path: str | Path, formats: tuple[str, ...], convert: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
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
    return _decode(path, IMAGE_FORMATS, _to_rgb)


def read_labels(path: str | Path) -> np.ndarray:
    """Read a mask file: the levels of an 8-bit grey image, or the indices of a palette image.

    The EXIF orientation is applied, as for images.

    Returns:
        (H, W) uint8 raw label values, a fresh array.

    Raises:
        DataError: the file is missing, no regular file, corrupt, truncated, of more than `MOST_PIXELS`, in
            none of `MASK_FORMATS`, has more than one channel, fewer than 8 bits of grey, or inverted grey.
    """
    return _decode(path, MASK_FORMATS, _to_labels)


def has_labels(reader: Reader) -> bool:
    """Return whether the samples of a reader have masks; False for a split of images alone."""
    return bool(getattr(reader, "labelled", True))


class FileReader:
    """Samples read from files; the base class of every reader of data on disk.

    Args:
        spec: classes and colours.
        files: one entry per sample, in order; with masks, or of images alone.
        class_of_label: raw label of the masks -> class index or IGNORE_INDEX; any other label is an error.
        mat_keys: for masks in MATLAB files, the variable with the labels, then the struct fields inside it.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        files: Sequence[Files],
        class_of_label: Mapping[int, int],
        mat_keys: tuple[str, ...] = (),
    ) -> None:
        self._spec, self._files, self._mat_keys = spec, files, mat_keys
        self._known = frozenset(class_of_label)
        self._class_of_label = np.full(2**16, IGNORE_INDEX, np.uint8)
        self._class_of_label[list(class_of_label)] = list(class_of_label.values())

    @property
    def spec(self) -> DatasetSpec:
        """Classes and colours."""
        return self._spec

    @property
    def labelled(self) -> bool:
        """Whether the samples have masks."""
        return any(files.mask is not None for files in self._files)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Sample:
        """Return sample `index`, in the order of the split list, or of the names where there is none.

        Raises:
            DataError: a file is missing, corrupt or of an unknown encoding; image and mask differ in size; a
                label is unknown. The message names the file.
        """
        name, image, mask = self._files[index]
        image_HWC = read_image(image)
        if mask is None:
            return Sample(image_HWC, np.full(image_HWC.shape[:2], IGNORE_INDEX, np.uint8), name)
        raw_HW = read_mat(mask, *self._mat_keys) if mask.endswith(".mat") else read_labels(mask)
        if image_HWC.shape[:2] != raw_HW.shape:
            raise DataError(
                f"{mask}: the mask is {raw_HW.shape} (height, width) but its image {image} is "
                f"{image_HWC.shape[:2]}; the sizes must be equal: replace the wrong file"
            )
        return Sample(image_HWC, self._to_classes(raw_HW, mask), name)

    def fingerprint(self) -> Fingerprint:
        """Return digests of what the samples depend on: classes, encoding, and the state of the files.

        A subclass with its own `read` must add the options of that method to the settings.

        Raises:
            DataError: a file is missing.
        """
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        paths = [(name, *map(os.path.abspath, filter(None, of_name))) for name, *of_name in self._files]
        labels = [(label, int(self._class_of_label[label])) for label in sorted(self._known)]
        settings = (kind, PIL.__version__, self._spec, labels, self._mat_keys, paths)
        try:
            states = [os.stat(path) for files in self._files for path in (files.image, files.mask) if path]
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}; restore the file") from error
        files = [(state.st_size, state.st_mtime_ns) for state in states]
        return Fingerprint(*(hashlib.sha256(repr(part).encode()).hexdigest() for part in (settings, files)))

    def _to_classes(self, raw_HW: np.ndarray, path: str) -> np.ndarray:
        unknown = sorted(set(np.flatnonzero(np.bincount(raw_HW.ravel())).tolist()) - self._known)
        if unknown:
            raise DataError(
                f"{path}: unknown labels {few(unknown)}, expected only {_ranges(self._known)}; "
                "is this mask encoded for another set of classes? In a set of your own, a YAML file of "
                "classes declares the label of each, such as names: [sky, road], labels: [0, 128]"
            )
        if raw_HW.dtype == np.uint8:
            return cv2.LUT(raw_HW, self._class_of_label[:256])
        return self._class_of_label[raw_HW]


def _ranges(numbers: Iterable[int]) -> str:
    """Write 0, 1, 2, 255 as "0..2, 255"."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1][1:] = [number]
        else:
            groups.append([number])
    return ", ".join("..".join(map(str, group)) for group in groups)
