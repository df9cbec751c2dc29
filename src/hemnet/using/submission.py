"""Masks in the folders that the PASCAL VOC test server expects.

Shapes: H, W image height and width.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from hemnet.data import DatasetSpec
from hemnet.figures.predictions import record_of, write_mask
from hemnet.processes.ranks import rank
from hemnet.runs.outputs import Origin
from hemnet.storage.destinations import named_by, require_writable

log = logging.getLogger(__name__)
VOC_CLASSES = 21
OPTION = "--voc-submission"


class Submission:
    """A folder of palette PNG files, one for each image; "comp5" means training on the challenge's data only.

    Args:
        root: where the server's folders are made.
        split: of the data.
        spec: the classes.
        origin: of the masks.
        further: what else tells these masks from others, such as a hash of the images.

    Raises:
        HemnetError: the folder cannot be written to, or has PNG files that are not of the same submission.
    """

    def __init__(self, root: Path, split: str, spec: DatasetSpec, origin: Origin, **further: Any) -> None:
        self.folder = root / "results" / "VOC2012" / "Segmentation" / f"comp5_{split}_cls"
        self.about = json.dumps(origin.record() | further)
        with named_by(OPTION, self.folder):
            require_writable(self.folder, folder=True)
        for path in self.folder.glob("*.png"):
            origin.require_own(path, record_of, option=OPTION, **further)
        if rank() == 0:
            _warn(split, spec)
            log.info("a palette PNG per image goes to %s", self.folder)

    def write(self, name: str, classes_HW: np.ndarray, spec: DatasetSpec) -> None:
        """Write the mask of an image, (H, W) uint8 class indices.

        Raises:
            HemnetError: it cannot be written.
        """
        with named_by(OPTION, self.folder):
            write_mask(self.folder / f"{name}.png", classes_HW, spec, self.about)


def _warn(split: str, spec: DatasetSpec) -> None:
    if spec.num_classes != VOC_CLASSES:
        log.warning("the VOC server scores %d classes, this network has %d", VOC_CLASSES, spec.num_classes)
    if split != "test":
        log.warning("the submission is of the %s split; the server takes test images", split)
