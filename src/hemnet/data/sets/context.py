"""PASCAL Context: the images of VOC 2010 with a label for every pixel.

Source: Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild,
CVPR 2014.
"""

from pathlib import Path
from typing import get_args

from hemnet.data.listing import list_images, list_masks, read_list, require_split, warn_count
from hemnet.data.matching import match_files
from hemnet.data.readers import FileReader
from hemnet.data.sets.voc import find_devkit
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, Split, voc_colors

# Class -> label among the 459 of the original annotation. Both are in alphabetical order.
LABEL_OF_CLASS = {
    "aeroplane": 2, "bag": 9, "bed": 18, "bedclothes": 19, "bench": 22, "bicycle": 23, "bird": 25, "boat": 31,
    "book": 33, "bottle": 34, "building": 44, "bus": 45, "cabinet": 46, "car": 59, "cat": 65, "ceiling": 68,
    "chair": 72, "cloth": 80, "computer": 85, "cow": 98, "cup": 104, "curtain": 105, "dog": 113, "door": 115,
    "fence": 144, "floor": 158, "flower": 159, "food": 162, "grass": 187, "ground": 189, "horse": 207,
    "keyboard": 220, "light": 232, "motorbike": 258, "mountain": 259, "mouse": 260, "person": 284,
    "plate": 295, "platform": 296, "pottedplant": 308, "road": 324, "rock": 326, "sheep": 347, "shelves": 349,
    "sidewalk": 354, "sign": 355, "sky": 360, "snow": 366, "sofa": 368, "table": 397, "track": 415,
    "train": 416, "tree": 420, "truck": 424, "tvmonitor": 427, "wall": 440, "water": 445, "window": 454,
    "wood": 458,
}  # fmt: skip

# The set has no colours of its own; this project uses the colour map of VOC.
CONTEXT_CLASSES = DatasetSpec("pascal_context", tuple(LABEL_OF_CLASS), voc_colors(1, 59))
"""The 59 most frequent classes, those of most published scores."""
CONTEXT_CLASSES_60 = DatasetSpec(
    "pascal_context", ("background", *CONTEXT_CLASSES.classes), voc_colors(0, 60)
)
"""The 59 classes after a class 0 for all other pixels."""

_LAYOUT = (
    "[VOCdevkit/]VOC2010/ with JPEGImages/*.jpg, ImageSets/Main/{train,val}.txt and, here or in the root, "
    "trainval/*.mat (459 labels) or SegmentationClassContext/*.png (0 = background, 1..59)"
)


class PascalContext(FileReader):
    """PASCAL Context (4998 training and 5105 validation images) with 59 classes, or 60 with background.

    Masks come from `SegmentationClassContext/*.png` if there is such a folder (what `context_json` makes of
    `trainval_merged.json`), else from the original `trainval/*.mat`. Split lists are
    read from `ImageSets/SegmentationContext` if that exists, else from `ImageSets/Main`.

    Args:
        root: `VOC2010`, `VOCdevkit`, or the folder of the latter; `trainval/` and `labels.txt`, if any, are
            in `root` or in `VOC2010`. A labels.txt is compared with the expected numbers.
        split: "train" or "val"; or "test", 9637 images without labels.
        background: whether pixels outside the 59 classes are class 0 of 60, or ignored.

    Raises:
        DataError: unknown split, a missing folder or list, a listed image that is missing or has no mask, a
            labels.txt of another annotation.
    """

    def __init__(self, root: str | Path, split: Split, background: bool = False) -> None:
        require_split(split, get_args(Split), "pascal_context")
        root = Path(root)
        devkit = find_devkit(root, 2010, _LAYOUT)
        outside, first = (0, 1) if background else (IGNORE_INDEX, 0)
        merged = devkit / "SegmentationClassContext"
        if merged.is_dir():
            masks = list_masks(merged, _LAYOUT, split)
            number_of = {k + 1: first + k for k in range(59)}
            labels = {0: outside, **number_of, 255: IGNORE_INDEX}
        else:
            masks = list_masks(_original(root, devkit), _LAYOUT, split, (".mat",))
            number_of = {label: first + k for k, label in enumerate(LABEL_OF_CLASS.values())}
            labels = {**dict.fromkeys(range(460), outside), **number_of}
        lists = devkit / "ImageSets" / "SegmentationContext"
        names = read_list(
            (lists if lists.is_dir() else devkit / "ImageSets" / "Main") / f"{split}.txt", _LAYOUT
        )
        expected = {"train": 4998, "val": 5105, "test": 9637}
        warn_count("pascal_context", split, len(names), expected[split])
        images = list_images(devkit / "JPEGImages", _LAYOUT)
        spec = CONTEXT_CLASSES_60 if background else CONTEXT_CLASSES
        super().__init__(spec, match_files(names, images, masks, split), labels, mat_keys=("LabelMap",))


def _original(root: Path, devkit: Path) -> Path:
    for place in (root, devkit):
        _compare_labels(place / "labels.txt")
    for place in (root, devkit):
        if (place / "trainval").is_dir():
            return place / "trainval"
        if (place / "trainval_merged.json").is_file():
            raise DataError(
                f"{place}/trainval_merged.json must be converted to masks, once: "
                f"python -m hemnet.data.sets.context_json {place}/trainval_merged.json {devkit}"
            )
    raise DataError(f"{root}: no annotation of PASCAL Context. Expected layout: {_LAYOUT}")


def _compare_labels(path: Path) -> None:
    """Compare a file of lines "397: table", if it exists, with the expected labels."""
    if not path.is_file():
        return
    for line in path.read_text("utf-8-sig", errors="replace").splitlines():
        label, _, name = (part.strip() for part in line.partition(":"))
        if name in LABEL_OF_CLASS and label != str(LABEL_OF_CLASS[name]):
            raise DataError(
                f"{path}: {name!r} is label {label}, expected {LABEL_OF_CLASS[name]}; use the annotation "
                "of the set's authors, with 459 labels"
            )
