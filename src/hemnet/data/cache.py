"""Decoded samples in one memory-mapped file, so that images are decoded once and not in every epoch.

The file holds the bytes of the samples in order, image then mask, all uint8; a JSON index; and a footer with
the length and checksum of the index. It is written under a temporary name and renamed when complete.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import json
import logging
import os
import shutil
import struct
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hemnet.data.readers import Fingerprint, Reader, Sample, has_labels, require_sound
from hemnet.data.spec import DataError, DatasetSpec
from hemnet.storage.files import hold, remove_abandoned, replacing
from hemnet.wording import counted

log = logging.getLogger(__name__)
GIB = 1 << 30
CHUNK = 1 << 26
PROBES = 16
_MAGIC = b"hemnet\x00\x01"  # the last byte is the version of the format
_FOOTER = struct.Struct(f"<QI{len(_MAGIC)}s")


class Unusable(Exception):
    """A file is not a complete cache of these samples; the message says why."""


class Cached:
    """A reader that decodes the samples of another reader once, into a file, and then copies them from there.

    The samples equal those of the other reader and are fresh arrays. `prepare`, or reading the first sample,
    makes the file. A file that is cut short, damaged, or older than a change to the reader's files is made
    again; a reader with other files or options has its own file. Of several processes that need the file at
    the same time, one makes it while the others wait. The folder may be deleted while no process reads.

    Args:
        reader: a reader with a fingerprint, as every reader of files on disk has.
        folder: folder of the file; made if missing.
        max_gib: largest size of the file in GiB, > 0.

    Attributes:
        reader: the other reader.

    Raises:
        ValueError: `max_gib` is not positive.
        DataError: the reader has no fingerprint.
    """

    def __init__(self, reader: Reader, folder: str | Path, max_gib: float = 16.0) -> None:
        if not max_gib > 0:
            raise ValueError(f"the size limit of a cache must be > 0 GiB, got {max_gib}")
        if not hasattr(reader, "fingerprint"):
            raise DataError(
                f"{reader.spec.name}: a {type(reader).__name__} has no method fingerprint(), so a cache "
                "could not be recognised as out of date; set data.cache=null, or add the method"
            )
        self.reader, self._folder, self._max_gib = reader, Path(folder), max_gib
        self._fingerprint: Fingerprint | None = None
        self._store: Store | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map out: every process opens its own, without checking the file again."""
        return self.__dict__ | {"_store": None}

    @property
    def spec(self) -> DatasetSpec:
        """Classes and colours."""
        return self.reader.spec

    @property
    def labelled(self) -> bool:
        """Whether the samples have masks."""
        return has_labels(self.reader)

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int) -> Sample:
        """Return sample `index` of the reader as fresh arrays; raises what `prepare` raises."""
        return self.prepare().read(index)

    def prepare(self) -> "Store":
        """Open the file; make it first if there is no usable one.

        Raises:
            DataError: a sample cannot be read, the file would exceed the limit or the free space, it cannot
                be written, or the reader's files change while it is made.
        """
        if self._store is None:
            checked = self._fingerprint is not None  # by the process that this object was copied from
            self._fingerprint = self._fingerprint or self.reader.fingerprint()
            path = self._folder / f"{self.spec.name}-{self._fingerprint.settings[:16]}.cache"
            try:
                self._store = Store(path, self._fingerprint, check=not checked)
            except Unusable:
                self._store = self._make(path, self._fingerprint)
        return self._store

    def _make(self, path: Path, fingerprint: Fingerprint) -> "Store":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with hold(self._folder):
                try:
                    return Store(path, fingerprint)  # made by another process meanwhile
                except Unusable as reason:
                    self._write(path, fingerprint, str(reason))
                return Store(path, fingerprint)
        except (OSError, Unusable) as error:
            raise DataError(
                f"{path}: the cache cannot be kept there ({error}); set data.cache to a folder on another "
                "disk, or data.cache=null for no cache"
            ) from error

    def _write(self, path: Path, fingerprint: Fingerprint, reason: str) -> None:
        size, start = self._require_room(), time.monotonic()
        log.info("%s: %s; decoding %s into it, about %.2f GiB",
                 path, reason, counted(len(self), "sample"), size / GIB)  # fmt: skip
        remove_abandoned(path)  # safe, because only the process with the lock writes
        with replacing(path) as part:
            write_store(part, self.reader, fingerprint, int(self._max_gib * GIB))
            if self.reader.fingerprint() != fingerprint:
                raise DataError(f"{self.spec.name}: files changed while they were cached; start again")
        log.info("%s: done in %.1f s", path, time.monotonic() - start)

    def _require_room(self) -> float:
        """Return the expected size in bytes, from a few samples of the data set; raise without room."""
        probes = [self.reader.read(i) for i in range(0, len(self), 1 + len(self) // PROBES)]
        sizes = [sample.image_HWC.nbytes + sample.mask_HW.nbytes for sample in probes]
        size = len(self) * sum(sizes) / max(1, len(sizes))
        if size > self._max_gib * GIB:
            raise _too_large(self.spec.name, size, self._max_gib * GIB)
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise DataError(
                f"{self._folder}: the cache of {self.spec.name} takes about {size / GIB:.2f} GiB, and the "
                f"disk has {free / GIB:.2f} GiB left; free some, set data.cache to a folder elsewhere, or "
                "data.cache=null for no cache"
            )
        return size


class _Index(NamedTuple):
    """Names and (height, width) of the samples in a file, and the CRC-32 of all their bytes."""

    names: list[str]
    sizes: list[tuple[int, int]]
    crc: int


class Store:
    """The samples in a file, mapped into memory, read-only.

    Args:
        path: the file.
        fingerprint: of the reader whose samples are expected.
        check: whether to compare all bytes with the checksum, which also loads the file into memory.

    Raises:
        Unusable: the file is missing, incomplete, damaged, or made from other files.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, check: bool = True) -> None:
        index = _read_index(path, fingerprint)
        self._names, self._sizes = index.names, np.array(index.sizes, np.int64).reshape(-1, 2)
        # Sample i is the bytes starts[i] to starts[i + 1]: 3 bytes of colour and one label per pixel.
        self._starts = np.concatenate([[0], np.cumsum(4 * self._sizes.prod(axis=1))])
        self._bytes = np.memmap(path, np.uint8, "r")[: self._starts[-1]]
        if check and _crc(self._bytes) != index.crc:
            raise Unusable("the cache is damaged")

    def read(self, index: int) -> Sample:
        """Return sample `index` as fresh arrays, which may be written to."""
        (height, width), start = self._sizes[index], self._starts[index]
        middle = start + 3 * height * width
        image = np.array(self._bytes[start:middle]).reshape(height, width, 3)
        mask = np.array(self._bytes[middle : self._starts[index + 1]]).reshape(height, width)
        return Sample(image, mask, self._names[index])


def write_store(path: Path, reader: Reader, fingerprint: Fingerprint, limit: int) -> None:
    """Write all samples of a reader to a file.

    Args:
        path: the file; its former content is lost.
        reader: reader of (H, W, 3) and (H, W) uint8 samples.
        fingerprint: of the reader, for `Store` to compare.
        limit: largest size of all samples, in bytes.

    Raises:
        DataError: a sample cannot be read, or is not of that form; the samples exceed `limit`.
        OSError: the disk is full, or cannot be written to.
    """
    index, total = _Index([], [], 0), 0
    with path.open("wb") as file:
        for i in range(len(reader)):
            image_HWC, mask_HW, name = sample = reader.read(i)
            require_sound(sample)
            total += image_HWC.nbytes + mask_HW.nbytes
            if total > limit:
                raise _too_large(reader.spec.name, total, limit)
            for array in (image_HWC, mask_HW):
                content = np.ascontiguousarray(array).data
                index = index._replace(crc=zlib.crc32(content, index.crc))
                file.write(content)
            index.names.append(name)
            index.sizes.append((mask_HW.shape[0], mask_HW.shape[1]))
        text = json.dumps({"fingerprint": fingerprint._asdict(), **index._asdict()}).encode()
        file.write(text + _FOOTER.pack(len(text), zlib.crc32(text), _MAGIC))


def _read_index(path: Path, fingerprint: Fingerprint) -> _Index:
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END) - _FOOTER.size
            file.seek(max(0, end))
            footer = file.read(_FOOTER.size)
            length, crc, magic = _FOOTER.unpack(footer) if len(footer) == _FOOTER.size else (0, 0, b"")
            if magic != _MAGIC or length > end:
                raise Unusable("the cache is incomplete")
            file.seek(end - length)
            text = file.read(length)
    except OSError as error:
        raise Unusable("no cache yet" if isinstance(error, FileNotFoundError) else str(error)) from error
    if zlib.crc32(text) != crc:
        raise Unusable("the index of the cache is damaged")
    content = json.loads(text)
    if Fingerprint(**content.pop("fingerprint")) != fingerprint:
        raise Unusable("files changed since the cache was made")
    index = _Index(**content)
    if sum(4 * height * width for height, width in index.sizes) != end - length:
        raise Unusable("the cache is incomplete")
    return index


def _crc(content: np.ndarray) -> int:
    crc = 0
    for start in range(0, len(content), CHUNK):
        crc = zlib.crc32(content[start : start + CHUNK].data, crc)
    return crc


def _too_large(name: str, size: float, limit: float) -> DataError:
    return DataError(
        f"{name}: its cache takes {size / GIB:.2f} GiB or more, the limit is {limit / GIB:.2f} GiB; set "
        "data.cache=null for no cache, or raise the limit with +data.cache_gib=<GiB>"
    )
