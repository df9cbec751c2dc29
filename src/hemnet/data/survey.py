"""The check of a data set: which samples cannot be used, and how frequent each class is.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from hemnet.data.degenerate import LabelCounts
from hemnet.data.readers import Reader, Sample, require_sound
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec
from hemnet.wording import counted

CHUNK = 16


@dataclass
class Survey:
    """What was found in a split, or in part of it.

    Attributes:
        problems: a message per sample that cannot be used, and per name that several samples share.
        readable, unusable: number of samples that can, and cannot, be used.
        pixels, images: (256,) int64: pixels of each mask value, and images that contain it.
        unlabelled: number of usable samples in which every pixel is ignored.
        names: names of the usable samples.
    """

    problems: list[str] = field(default_factory=list)
    readable: int = 0
    unusable: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    unlabelled: int = 0
    names: set[str] = field(default_factory=set)

    def add(self, other: "Survey") -> None:
        """Add what was found in another part of the split."""
        repeated = sorted(self.names & other.names)
        self.problems += other.problems + [f"{name}: several samples have this name" for name in repeated]
        self.readable += other.readable
        self.unusable += other.unusable
        self.pixels += other.pixels
        self.images += other.images
        self.unlabelled += other.unlabelled
        self.names |= other.names

    @property
    def samples(self) -> int:
        """Number of all samples."""
        return self.readable + self.unusable

    @property
    def ignored_share(self) -> float:
        """Share of ignored pixels, 0..1; 0 if no sample can be used."""
        return float(self.pixels[IGNORE_INDEX] / max(1, self.pixels.sum()))

    def frequencies(self, spec: DatasetSpec) -> np.ndarray:
        """Return (num_classes,) float64, each class's share of the labelled pixels; 0 if there are none."""
        pixels = self.pixels[: spec.num_classes]
        return pixels / max(1, pixels.sum())

    @property
    def counts(self) -> LabelCounts:
        """The labels of the usable samples."""
        return LabelCounts(self.readable, self.pixels, whole=not self.unusable)

    def to_dict(self, spec: DatasetSpec) -> dict[str, Any]:
        """Return counts, problems and classes as plain containers."""
        classes = {
            name: {"pixels": int(self.pixels[k]), "images": int(self.images[k])}
            for k, name in enumerate(spec.classes)
        }
        return {
            "samples": self.samples,
            "readable": self.readable,
            "unlabelled": self.unlabelled,
            "ignored_pixels": int(self.pixels[IGNORE_INDEX]),
            "classes": classes,
            "never_seen": self.counts.absent(spec),
            "problems": self.problems,
        }


def by_cause(problems: Iterable[str]) -> list[list[str]]:
    """Return the messages in groups that differ only in file names and numbers, in order."""
    groups: dict[str, list[str]] = {}
    for message in problems:
        where, colon, what = message.partition(": ")
        cause = re.sub(r"[/\\][^:;]*?\.\w+|\[[^\]]*\]|\d+", "*", what if colon else where)
        groups.setdefault(cause, []).append(message)
    return [*groups.values()]


def walk(reader: Reader, workers: int = 0) -> Iterator[Survey]:
    """Read every sample once, in order, and yield what was found, `CHUNK` samples at a time.

    Args:
        reader: the split. Any exception that it raises for a sample becomes a problem.
        workers: processes that share the work; 0 uses this process.

    Raises:
        DataError: a worker process died, for example because it ran out of memory.
    """
    chunks = [range(start, min(start + CHUNK, len(reader))) for start in range(0, len(reader), CHUNK)]
    if not workers:
        yield from (_survey(reader, chunk) for chunk in chunks)
        return
    with ProcessPoolExecutor(workers, initializer=_init_worker, initargs=(reader,)) as pool:
        try:
            yield from pool.map(_survey_own, chunks)
        except BrokenProcessPool as error:
            raise DataError(
                f"{reader.spec.name}: a worker process died while reading, perhaps out of memory; use fewer "
                "workers, or none to see at which file"
            ) from error


# A reader holds a list of all files, so a worker process receives it once, not with every chunk.
_own: list[Reader] = []


def _init_worker(reader: Reader) -> None:
    cv2.setNumThreads(0)  # a worker process is meant to use one core
    _own[:] = [reader]


def _survey_own(indices: range) -> Survey:
    return _survey(_own[0], indices)


def _survey(reader: Reader, indices: range) -> Survey:
    found = Survey()
    for index in indices:
        try:
            sample = reader.read(index)
            require_sound(sample)
            _require_known_labels(sample, reader.spec)
        except DataError as error:
            found.add(Survey(problems=[str(error)], unusable=1))
        except Exception as error:  # a bad file must not stop the survey, whatever its decoder raises
            found.add(Survey(problems=[f"sample {index}: {type(error).__name__}: {error}"], unusable=1))
        else:
            counts = np.bincount(sample.mask_HW.ravel(), minlength=256)
            unlabelled = int(counts[IGNORE_INDEX] == counts.sum())
            found.add(Survey([], 1, 0, counts, (counts > 0).astype(np.int64), unlabelled, {sample.name}))
    return found


def _require_known_labels(sample: Sample, spec: DatasetSpec) -> None:
    unknown = sorted(set(np.unique(sample.mask_HW).tolist()) - {*range(spec.num_classes), IGNORE_INDEX})
    if unknown:
        raise DataError(
            f"{sample.name}: unknown labels {unknown}, {spec.name} has "
            f"{counted(spec.num_classes, 'class', 'classes')}"
        )
