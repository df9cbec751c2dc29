"""Which photographs a page shows: some of a split of the run's data set, or some of what a user names.

Shapes: H and W pixels of a photograph.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from hemnet.callbacks.prediction_images import spread
from hemnet.config.build import build_reader
from hemnet.data import DataError, DatasetSpec
from hemnet.data.readers import has_labels
from hemnet.using.pictures import open_source

OF_SPLIT, OF_FILES = 4, 12
"""How many photographs are shown at most, if nothing else is asked for."""


class Photograph(NamedTuple):
    """A photograph: (H, W, 3) uint8 RGB, and its classes, (H, W) uint8, or None where they are not known."""

    name: str
    image_HWC: np.ndarray
    truth_HW: np.ndarray | None


class Selection(NamedTuple):
    """Photographs, how many there are to choose from, and what is left out of folders and why."""

    photographs: Iterator[Photograph]
    total: int
    left_out: str = ""


def of_split(config: DictConfig, spec: DatasetSpec, most: int | None) -> Selection:
    """Return photographs spread over the evaluation split, with their classes if it has them.

    Raises:
        DataError: the split cannot be found, is empty, or has other classes than the network's.
    """
    reader = build_reader(config, "val")
    spec.require_same_classes(reader.spec)
    if not len(reader):
        raise DataError(f"the evaluation split of {reader.spec.name} is empty; choose another split")
    labelled = has_labels(reader)

    def read() -> Iterator[Photograph]:
        for index in spread(most or OF_SPLIT, len(reader)):
            sample = reader.read(index)
            yield Photograph(sample.name, sample.image_HWC, sample.mask_HW if labelled else None)

    return Selection(read(), len(reader))


def of_files(paths: Sequence[Path], most: int | None) -> Selection:
    """Return photographs spread over files, folders and videos, which are read as `hemnet predict` does.

    Raises:
        DataError: there is no image at a path.
    """
    sources = [open_source(path) for path in paths]
    total = sum(source.total for source in sources)
    wanted = set(spread(most or OF_FILES, total))

    def read() -> Iterator[Photograph]:
        for index, picture in enumerate(chain.from_iterable(source.pictures for source in sources)):
            if index in wanted:
                yield Photograph(picture.shown, picture.load(), None)

    return Selection(read(), total, "; ".join(source.left_out for source in sources if source.left_out))
