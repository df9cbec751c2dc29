"""PASCAL VOC 2012 and its augmented training set, in the layout of the development kit.

Source: Everingham et al., IJCV 111 (2015); Hariharan et al., Semantic Contours (SBD), ICCV 2011.
"""

from pathlib import Path
from typing import get_args

from hemnet.data.listing import complain, few, list_images, list_masks, read_list, require_split, warn_count
from hemnet.data.matching import match_files
from hemnet.data.readers import FileReader
from hemnet.data.sets.folder import own_classes
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, Split, voc_colors

VOC_CLASSES = DatasetSpec(
    name="voc",
    classes=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
        "tvmonitor",
    ),
    palette=voc_colors(0, 21),
)  # fmt: skip
"""The 21 classes of PASCAL VOC with background; masks mark borders and difficult regions with 255."""

_LABELS = {**{k: k for k in range(21)}, 255: IGNORE_INDEX}
_LAYOUT = (
    "[VOCdevkit/]VOC2012/ with JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/*.txt"
)
_AUG_LAYOUT = (
    f"{_LAYOUT}; SBD as benchmark_RELEASE/dataset/ with train.txt, val.txt and cls/*.mat, or the masks as "
    "SegmentationClassAug/*.png"
)


def find_devkit(root: Path, year: int, layout: str) -> Path:
    """Return the folder `VOC<year>`, which is `root`, or in `root`, or in `VOCdevkit` in `root`.

    Raises:
        DataError: none of these has a folder JPEGImages.
    """
    for folder in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if (folder / "JPEGImages").is_dir():
            return folder
    what = "no VOC development kit here" if root.is_dir() else "no such folder"
    raise DataError(
        f"{root}: {what}; set data.root=<folder> or the environment variable HEMNET_DATA. "
        f"Expected layout: {layout}"
    )


def _segmentation_list(devkit: Path, split: str) -> list[str]:
    return read_list(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", _LAYOUT)


def _images(devkit: Path) -> dict[str, str]:
    return list_images(devkit / "JPEGImages", _LAYOUT)


def _masks(devkit: Path, split: str) -> dict[str, str]:
    return list_masks(devkit / "SegmentationClass", _LAYOUT, split)


class VOC(FileReader):
    """PASCAL VOC 2012 segmentation (1464 training and 1449 validation images), or a set with its layout.

    Masks are 8-bit images whose grey levels or palette indices are the labels; 255 is ignored.

    Args:
        root: `VOC2012`, `VOCdevkit`, or the folder of the latter; for another set, the folder that has
            JPEGImages, SegmentationClass and ImageSets/Segmentation.
        split: a list in ImageSets/Segmentation: "train", "val", "trainval" or "test". The 1456 images of
            VOC's test split have no labels and are read alone, as are those of any test split without masks.
        classes: for another set, names of the labels 0, 1, ..., or the path of a YAML file as for `Folder`.
            None: the 21 classes of VOC.

    Raises:
        DataError: a missing folder or list, a listed image that is missing or has no mask, wrong classes.
    """

    def __init__(self, root: str | Path, split: str, classes: list[str] | str | Path | None = None) -> None:
        devkit = find_devkit(Path(root), 2012, _LAYOUT)
        lists = sorted(path.stem for path in (devkit / "ImageSets" / "Segmentation").glob("*.txt"))
        if lists:
            require_split(split, lists, f"{devkit}/ImageSets/Segmentation")
        names = _segmentation_list(devkit, split)
        spec, labels = (VOC_CLASSES, _LABELS) if classes is None else own_classes(classes, devkit)
        expected = {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456}
        if classes is None and split in expected:
            warn_count("voc", split, len(names), expected[split])
        super().__init__(spec, match_files(names, _images(devkit), _masks(devkit, split), split), labels)


class VOCAug(FileReader):
    """VOC 2012 with the training set augmented by SBD: 10582 training images; validation is that of VOC.

    Training names come from `ImageSets/Segmentation/train_aug.txt` (or `trainaug.txt`) if it exists, else
    they are VOC train, SBD train and SBD val without VOC val. The 1464 images of VOC train keep their masks,
    which are finer than those of SBD and ignore borders. The masks of the others come from the folder
    SegmentationClassAug if it exists, else from SBD's .mat files.

    Args:
        root: folder that holds SBD's `benchmark_RELEASE` (or its `dataset`), or SegmentationClassAug, or a
            development kit with the latter; and the development kit unless `voc_root` is given.
        split: "train" or "val"; or "test", the images of VOC's test split, without labels.
        voc_root: folder of the development kit. None: `root`, else the folder `voc` beside `root`.

    Raises:
        DataError: unknown split, a missing folder or list, a listed image that is missing or has no mask.
    """

    def __init__(self, root: str | Path, split: Split, voc_root: str | Path | None = None) -> None:
        require_split(split, get_args(Split), "voc_aug")
        root = Path(root)
        devkit = self._devkit(root, voc_root)
        masks = _masks(devkit, split)
        if split == "train":
            names, masks = self._augmented(root, devkit, masks)
        else:
            names = _segmentation_list(devkit, split)
        warn_count("voc_aug", split, len(names), {"train": 10582, "val": 1449, "test": 1456}[split])
        files = match_files(names, _images(devkit), masks, split)
        super().__init__(VOC_CLASSES, files, _LABELS, mat_keys=("GTcls", "Segmentation"))

    @staticmethod
    def _devkit(root: Path, voc_root: str | Path | None) -> Path:
        beside = root.parent / "voc"
        try:
            return find_devkit(Path(voc_root or root), 2012, _AUG_LAYOUT)
        except DataError:
            if voc_root is not None or not beside.is_dir():
                raise
            return find_devkit(beside, 2012, _AUG_LAYOUT)

    @staticmethod
    def _augmented(root: Path, devkit: Path, voc: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        """Return the training names and all masks, given the masks of VOC."""
        ready = _first(devkit / "SegmentationClassAug", root / "SegmentationClassAug")
        cls = _first(*(f / "cls" for f in (root / "benchmark_RELEASE" / "dataset", root / "dataset", root)))
        if ready is not None:
            more = list_masks(ready, _AUG_LAYOUT, "train")
        elif cls is not None:
            more = list_masks(cls, _AUG_LAYOUT, "train", (".mat",))
        else:
            raise DataError(f"{root}: neither SBD nor its masks. Expected layout: {_AUG_LAYOUT}")
        train, val = (set(_segmentation_list(devkit, split)) for split in ("train", "val"))
        lists = [devkit / "ImageSets" / "Segmentation" / f"{stem}.txt" for stem in ("train_aug", "trainaug")]
        listed = next((path for path in lists if path.is_file()), None)
        if listed is not None:
            names = read_list(listed, _AUG_LAYOUT)
            if leaked := sorted(val.intersection(names)):
                complain(f"{listed}: {few(leaked)} are in VOC val, so scores would be invalid; remove them")
        else:
            # Half of VOC val is also in SBD.
            lists = [cls.parent / f"{split}.txt" for split in ("train", "val")] if cls else []
            sbd = [read_list(path, _AUG_LAYOUT) for path in lists] or [list(more)]
            names = sorted(train.union(*sbd) - val)
        # A name of VOC train without a VOC mask is an error; the coarser mask of SBD is no substitute.
        return names, {name: path for name, path in more.items() if name not in train} | {
            name: path for name, path in voc.items() if name in train
        }


def _first(*folders: Path) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)
