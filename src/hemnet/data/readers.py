"""Readers: samples by their index, each an RGB image with its class mask; the base class of those on disk.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import PIL

from hemnet.data.decoding import read_image, read_labels
from hemnet.data.listing import few
from hemnet.data.mat import read_mat
from hemnet.data.matching import Files
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec


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


def has_labels(reader: Reader) -> bool:
    """Return whether the samples of a reader have masks; False for a split of images alone."""
    return bool(getattr(reader, "labelled", True))


def content_of(reader: Reader) -> str:
    """Return a hash of the names, images and masks of all samples, the same wherever their files are.

    Every sample is read.

    Raises:
        DataError: a sample cannot be read.
    """
    digest = hashlib.sha256()
    for index in range(len(reader)):
        add_sample(digest, *reader.read(index))
    return digest.hexdigest()


def add_sample(digest: "hashlib._Hash", image_HWC: np.ndarray, mask_HW: np.ndarray | None, name: str) -> None:
    """Add what a `Sample` has to a hash; None is a mask that is not known."""
    digest.update(repr((name, image_HWC.shape, mask_HW is None)).encode("utf-8", "surrogateescape"))
    for array in (image_HWC, mask_HW):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)


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
        raw_HW = self.read_raw(mask)
        if image_HWC.shape[:2] != raw_HW.shape:
            raise DataError(
                f"{mask}: the mask is {raw_HW.shape} (height, width) but its image {image} is "
                f"{image_HWC.shape[:2]}; the sizes must be equal: replace the wrong file"
            )
        return Sample(image_HWC, self._to_classes(raw_HW, mask), name)

    def read_raw(self, mask: str) -> np.ndarray:
        """Return the labels of a mask file as they are in it, (H, W) uint8 or uint16."""
        return read_mat(mask, *self._mat_keys) if mask.endswith(".mat") else read_labels(mask)

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
