"""Readers: from files on disk to RGB images and class masks, with errors that name the file.

Shapes: H, W image height and width, C = 3 colour channels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, get_args

import cv2
import numpy as np
from PIL import Image, ImageOps

from hemnet.data.spec import CAMVID, IGNORE_INDEX, DataError, DatasetSpec, Split

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_REMEDY = "set data.root=<folder> or the environment variable HEMNET_DATA"


class Sample(NamedTuple):
    """One image with its labels.

    image_HWC: (H, W, 3) uint8 RGB. mask_HW: (H, W) uint8, class indices or IGNORE_INDEX. name: unique in
    its split, without folder or suffix.
    """

    image_HWC: np.ndarray
    mask_HW: np.ndarray
    name: str


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


def _decode(path: str | Path, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            picture.load()
            return convert(picture)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    # The decoders raise whatever comes to hand (OSError, SyntaxError, ValueError, zlib.error, ...).
    except Exception as error:
        raise DataError(f"{path}: not a readable image ({error}); restore or remove the file") from error


def _to_rgb(picture: Image.Image) -> np.ndarray:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        grey_HW = (np.asarray(picture).astype(np.uint32) + 128) // 257
        return np.repeat(grey_HW.astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode not in _EIGHT_BIT_MODES:
        raise DataError(f"pixel format {picture.mode!r} is not supported; convert the image to 8-bit RGB")
    return np.array(picture.convert("RGB"))


def _to_labels(picture: Image.Image) -> np.ndarray:
    if picture.mode not in ("L", "P"):
        raise DataError(
            f"a mask must be 8-bit with one channel, this is {picture.mode!r}; convert it to indices"
        )
    return np.array(picture)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as RGB.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images are converted; alpha is dropped.

    Returns:
        (H, W, 3) uint8 RGB, a fresh array.

    Raises:
        DataError: the file is missing, corrupt, truncated or of a pixel format that has no sound 8-bit
            reading (32-bit integer, floating point, Lab).
    """
    return _decode(path, _to_rgb)


def read_labels(path: str | Path) -> np.ndarray:
    """Read a mask file: an 8-bit grey image, or a palette image of which the indices count, not the colours.

    Returns:
        (H, W) uint8 raw label values, a fresh array.

    Raises:
        DataError: the file is missing, corrupt, truncated or has more than one channel.
    """
    return _decode(path, _to_labels)


def read_sample(image_path: Path, mask_path: Path, class_of_label: dict[int, int]) -> Sample:
    """Read an image and its mask, and map raw labels to class indices.

    Args:
        image_path: the image; its stem is the name of the sample.
        mask_path: the mask.
        class_of_label: raw label -> class index or IGNORE_INDEX; any other label is an error.

    Raises:
        DataError: as `read_image` and `read_labels`; sizes that differ; a label that is not in the map.
    """
    image_HWC, raw_HW = read_image(image_path), read_labels(mask_path)
    if image_HWC.shape[:2] != raw_HW.shape:
        raise DataError(
            f"{mask_path}: the mask is {raw_HW.shape} (height, width) but its image {image_path.name} is "
            f"{image_HWC.shape[:2]}; the two must be equal, so replace the one that is wrong"
        )
    present = np.flatnonzero(np.bincount(raw_HW.ravel(), minlength=256)).tolist()
    unknown = sorted(set(present) - set(class_of_label))
    if unknown:
        raise DataError(
            f"{mask_path}: unknown labels {unknown}, expected only {sorted(class_of_label)}; "
            "is this mask encoded for another set of classes?"
        )
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[list(class_of_label)] = list(class_of_label.values())
    return Sample(image_HWC, cv2.LUT(raw_HW, table), image_path.stem)


def list_files(folder: Path, suffixes: tuple[str, ...], layout: str) -> dict[str, Path]:
    """Return stem -> path of the files in `folder`, sorted by stem; hidden files are skipped.

    Args:
        folder: where to look, not recursively.
        suffixes: lower-case suffixes to accept, in any case.
        layout: the expected folder tree, to be quoted in errors.

    Raises:
        DataError: the folder is missing, holds no such file, or holds two with one stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_REMEDY}. Expected layout: {layout}")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in files:
            raise DataError(f"{path}: {files[path.stem].name} has the same stem; remove one of the two")
        files[path.stem] = path
    if not files:
        raise DataError(f"{folder}: no {'/'.join(suffixes)} files; {_REMEDY}. Expected layout: {layout}")
    return dict(sorted(files.items()))


def pair_files(images: dict[str, Path], masks: dict[str, Path], mask_folder: Path) -> list[tuple[Path, Path]]:
    """Return (image, mask) pairs with equal stems, in the order of `images`.

    Raises:
        DataError: an image has no mask in `mask_folder`.
    """
    missing = [path.name for stem, path in images.items() if stem not in masks]
    if missing:
        raise DataError(
            f"{mask_folder}: no mask for {len(missing)} of {len(images)} images ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); add the masks or remove these images"
        )
    return [(path, masks[stem]) for stem, path in images.items()]


class CamVid:
    """CamVid in the layout of the SegNet release: 11 classes, void ignored.

    Source: Brostow et al., Pattern Recognition Letters 30 (2009); labels as regrouped by Badrinarayanan et
    al. (SegNet, 2015).

    Args:
        root: folder with `train/`, `val/`, `test/` (images, .png or .jpg) and `trainannot/`, `valannot/`,
            `testannot/` (masks, .png, same stems, labels 0..10 and 11 = void).
        split: "train", "val" or "test".

    Raises:
        DataError: unknown split, missing folder, empty folder, an image without a mask. `read` raises it
            for a corrupt file, unequal sizes, a mask that is not single-channel and unknown labels.
    """

    LAYOUT = "{train,val,test}/*.png|jpg with {train,val,test}annot/*.png of the same names"
    _CLASS_OF_LABEL = {**{label: label for label in range(11)}, 11: IGNORE_INDEX}  # noqa: RUF012

    def __init__(self, root: str | Path, split: Split) -> None:
        if split not in get_args(Split):
            raise DataError(f"CamVid has the splits train, val and test, got {split!r}")
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; {_REMEDY}. Expected layout: {self.LAYOUT}")
        images = list_files(root / split, IMAGE_SUFFIXES, self.LAYOUT)
        mask_folder = root / f"{split}annot"
        self._pairs = pair_files(images, list_files(mask_folder, (".png",), self.LAYOUT), mask_folder)

    @property
    def spec(self) -> DatasetSpec:
        """The 11 classes of CamVid."""
        return CAMVID

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, index: int) -> Sample:
        """Return sample `index`; the order is that of the sorted file names."""
        return read_sample(*self._pairs[index], self._CLASS_OF_LABEL)
