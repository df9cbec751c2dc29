"""Cityscapes: street scenes of 50 cities, finely labelled.

Source: Cordts et al., CVPR 2016; names, numbers and colours from the authors' label table.
"""

from pathlib import Path
from typing import get_args

from hemnet.data.listing import list_files, require_folder, require_split, warn_count
from hemnet.data.matching import images_alone, match_files
from hemnet.data.readers import FileReader
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, Split

# Class -> label id in the masks, colour.
_CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}

CITYSCAPES_CLASSES = DatasetSpec(
    "cityscapes", tuple(_CLASSES), tuple(colour for _, colour in _CLASSES.values())
)
"""The 19 classes that are evaluated."""

# The ids 0..33 that are not evaluated, and the licence plate, id -1, which an 8-bit file holds as 255.
_LABELS = dict.fromkeys([*range(34), 255], IGNORE_INDEX)
_LABELS |= {label: k for k, (label, _) in enumerate(_CLASSES.values())}
_LAYOUT = "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png"


class Cityscapes(FileReader):
    """Cityscapes (2975 training and 500 validation images) with the 19 classes that are evaluated.

    Args:
        root: folder with `leftImg8bit/` and `gtFine/`, of which the labelIds images are read.
        split: "train" or "val"; or "test", 1525 images without labels: those are not public, and what is in
            `gtFine/test` ignores every pixel.

    Raises:
        DataError: unknown split, a missing folder, an image without a mask.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        require_split(split, get_args(Split), "cityscapes")
        root = require_folder(Path(root), _LAYOUT)
        images = _cities(root / "leftImg8bit" / split, "_leftImg8bit.png")
        warn_count("cityscapes", split, len(images), {"train": 2975, "val": 500, "test": 1525}[split])
        if split == "test":
            files = images_alone(images, images)
        else:
            files = match_files(images, images, _cities(root / "gtFine" / split, "_gtFine_labelIds.png"))
        super().__init__(CITYSCAPES_CLASSES, files, _LABELS)


def _cities(folder: Path, ending: str) -> dict[str, str]:
    """Return name -> path of the files in all cities; names begin with the city, so they do not clash."""
    cities = sorted(path for path in require_folder(folder, _LAYOUT).iterdir() if path.is_dir())
    if not cities:
        raise DataError(f"{folder}: no folder of a city. Expected layout: {_LAYOUT}")
    files: dict[str, str] = {}
    for city in cities:
        files |= list_files(city, (ending,), _LAYOUT)
    return files
