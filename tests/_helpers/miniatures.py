"""Miniatures of the public data sets, in the very layout and encoding that each comes in.

A writer fills an empty folder and returns the raw labels of each sample, as (H, W) uint16, by split and name.
Each mask has all of the labels that its set may have; image i of a split is i pixels higher than the first.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

Truth = dict[str, dict[str, np.ndarray]]

VOC_LABELS = (*range(21), 255)
COCO_STUFF_IDS = tuple(sorted({*range(183)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}))


def labels_of(i: int, labels: Sequence[int]) -> np.ndarray:
    height, width = 24 + i, 32
    return np.array(labels, np.uint16)[(np.arange(height * width).reshape(height, width) + i) % len(labels)]


def save_jpeg(path: Path, size: tuple[int, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def save_grey(path: Path, raw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(raw.astype(np.uint8)).save(path)


def save_palette(path: Path, raw: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(raw.astype(np.uint8))
    # Colours that say nothing about the indices, and repeat.
    picture.putpalette([(37 * entry) % 128 for entry in range(768)])
    assert picture.mode == "P"
    picture.save(path)


def save_mat(path: Path, **variables: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables, do_compression=True)


def save_sbd(path: Path, raw: np.ndarray) -> None:
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros((2, 2), np.uint8)]] * 20
    content = {
        "Segmentation": raw.astype(np.uint8),
        "Boundaries": boundaries,
        "CategoriesPresent": np.uint8([1]),
    }
    save_mat(path, GTcls=content)


def save_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_voc(root: Path, labels: Sequence[int] = VOC_LABELS, save: Callable = save_palette) -> Truth:
    """VOCdevkit/VOC2012: 4 + 3 images, and one that is in no list and has no mask."""
    devkit = root / "VOCdevkit" / "VOC2012"
    truth: Truth = {"train": {}, "val": {}}
    for split, count in (("train", 4), ("val", 3)):
        for i in range(count):
            name = f"2007_{len(split)}0000{i}"
            truth[split][name] = labels_of(i, labels)
            save_jpeg(devkit / "JPEGImages" / f"{name}.jpg", truth[split][name].shape)
            save(devkit / "SegmentationClass" / f"{name}.png", truth[split][name])
        save_list(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", list(truth[split]))
    save_jpeg(devkit / "JPEGImages" / "2007_999999.jpg", (24, 32))
    truth["trainval"] = truth["train"] | truth["val"]
    save_list(devkit / "ImageSets" / "Segmentation" / "trainval.txt", sorted(truth["trainval"]))
    return truth


def write_voc_scenes(root: Path, train: int, val: int) -> None:
    """VOCdevkit and SBD with as many images as asked for: a box of a class, void around it, on a background.

    Every other training image is of SBD alone.
    """
    rng = np.random.default_rng(0)
    devkit, sbd = root / "VOCdevkit" / "VOC2012", root / "benchmark_RELEASE" / "dataset"
    colours = rng.integers(0, 256, (21, 3))
    names = {"train": [f"2008_{i:06}" for i in range(train)], "val": [f"2009_{i:06}" for i in range(val)]}
    for split, listed in names.items():
        for name in listed:
            height, width = int(rng.integers(48, 80)), int(rng.integers(64, 96))
            raw = np.zeros((height, width), np.uint8)
            top, left, label = rng.integers(4, 16), rng.integers(4, 24), rng.integers(1, 21)
            raw[top - 2 : top + 30, left - 2 : left + 34] = 255
            raw[top : top + 28, left : left + 32] = label
            image = colours[np.where(raw == 255, 0, raw)] + rng.integers(-20, 20, (height, width, 3))
            (devkit / "JPEGImages").mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(devkit / "JPEGImages" / f"{name}.jpg")
            if split == "train" and name in listed[1::2]:
                save_sbd(sbd / "cls" / f"{name}.mat", np.where(raw == 255, 0, raw))
            else:
                save_palette(devkit / "SegmentationClass" / f"{name}.png", raw)
    save_list(devkit / "ImageSets" / "Segmentation" / "train.txt", names["train"][::2])
    save_list(devkit / "ImageSets" / "Segmentation" / "val.txt", names["val"])
    save_list(sbd / "train.txt", names["train"][1::2])
    save_list(sbd / "val.txt", names["val"][:1])


def write_sbd(root: Path) -> Truth:
    """VOC and SBD: SBD has two images of its own, one of VOC train and two of VOC val, with other labels."""
    voc = write_voc(root)
    del voc["trainval"]
    train, val = list(voc["train"]), list(voc["val"])
    sbd = root / "benchmark_RELEASE" / "dataset"
    lists = {"train": ["2010_000001", train[1], val[0]], "val": ["2011_000002", val[2]]}
    for split, names in lists.items():
        for i, name in enumerate(names):
            known = (voc["train"] | voc["val"]).get(name)
            # Rolled, so that it shows which of two masks was read.
            raw = np.roll(labels_of(i, VOC_LABELS[:-1]) if known is None else known % 21, 3)
            save_sbd(sbd / "cls" / f"{name}.mat", raw)
            if known is None:
                voc["train"][name] = raw
                save_jpeg(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg", raw.shape)
        save_list(sbd / f"{split}.txt", names)
    return voc


def write_segmentation_class_aug(root: Path, listed: bool) -> Truth:
    """VOC and a ready SegmentationClassAug of all its images and one more, with its list or without."""
    voc = write_voc(root)
    del voc["trainval"]
    devkit = root / "VOCdevkit" / "VOC2012"
    voc["train"]["2010_000001"] = labels_of(2, VOC_LABELS)
    save_jpeg(devkit / "JPEGImages" / "2010_000001.jpg", voc["train"]["2010_000001"].shape)
    for name, raw in (voc["train"] | voc["val"]).items():
        other = raw if name == "2010_000001" else np.roll(raw, 3)
        save_grey(devkit / "SegmentationClassAug" / f"{name}.png", other)
    if listed:
        lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in voc["train"]]
        save_list(devkit / "ImageSets" / "Segmentation" / "train_aug.txt", lines)
    return voc


def write_pascal_context(root: Path) -> Truth:
    """VOC2010 and the original annotation: LabelMap with 459 labels, as doubles in the first file."""
    truth: Truth = {"train": {}, "val": {}}
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            name = f"2008_{len(split)}0000{i}"
            raw = truth[split][name] = labels_of(i, range(460))
            save_jpeg(root / "VOCdevkit" / "VOC2010" / "JPEGImages" / f"{name}.jpg", raw.shape)
            save_mat(root / "trainval" / f"{name}.mat", LabelMap=raw if i else raw.astype(float))
        save_list(root / "VOCdevkit" / "VOC2010" / "ImageSets" / "Main" / f"{split}.txt", list(truth[split]))
    (root / "labels.txt").write_text("1: accordion\n2: aeroplane\n397: table\n458: wood\n")
    return truth


def write_pascal_context_masks(root: Path) -> Truth:
    """VOC2010 and merged masks: 0 = background, 1..59; root is VOC2010 itself."""
    truth: Truth = {"train": {}, "val": {}}
    for split in truth:
        for i in range(3):
            name = f"2008_{len(split)}0000{i}"
            raw = truth[split][name] = labels_of(i, range(60))
            save_jpeg(root / "JPEGImages" / f"{name}.jpg", raw.shape)
            save_grey(root / "SegmentationClassContext" / f"{name}.png", raw)
        save_list(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", list(truth[split]))
    return truth


def write_coco_stuff_10k(root: Path) -> Truth:
    truth: Truth = {"train": {}, "test": {}}
    for split, count in (("train", 4), ("test", 2)):
        for i in range(count):
            name = f"COCO_train2014_{len(split)}{i:011d}"
            raw = truth[split][name] = labels_of(i, COCO_STUFF_IDS)
            save_jpeg(root / "images" / f"{name}.jpg", raw.shape)
            save_mat(root / "annotations" / f"{name}.mat", S=raw.astype(np.uint8), names=np.uint8([1, 2]))
        save_list(root / "imageLists" / f"{split}.txt", list(truth[split]))
    return truth


def write_coco_stuff_164k(root: Path) -> Truth:
    truth: Truth = {"train": {}, "val": {}}
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            name = f"{i:012d}"
            raw = truth[split][name] = (labels_of(i, COCO_STUFF_IDS).astype(int) - 1) % 256
            save_jpeg(root / "images" / f"{split}2017" / f"{name}.jpg", raw.shape)
            save_grey(root / "annotations" / f"{split}2017" / f"{name}.png", raw)
    return truth


def write_cityscapes(root: Path) -> Truth:
    truth: Truth = {"train": {}, "val": {}}
    for split, cities in (("train", ("ulm", "aachen")), ("val", ("lindau",))):
        for city in cities:
            for i in range(2):
                name = f"{city}_000000_00001{i}"
                raw = truth[split][name] = labels_of(i, (*range(34), 255))
                save_jpeg(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", raw.shape)
                for kind in ("labelIds", "instanceIds", "color"):
                    save_grey(root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", raw)
                (root / "gtFine" / split / city / f"{name}_gtFine_polygons.json").write_text("{}")
        truth[split] = dict(sorted(truth[split].items()))
    return truth


def write_ade20k(root: Path) -> Truth:
    truth: Truth = {"train": {}, "val": {}}
    for split, folder, count in (("train", "training", 4), ("val", "validation", 2)):
        for i in range(count):
            name = f"ADE_{split}_{i:08d}"
            raw = truth[split][name] = labels_of(i, range(151))
            save_jpeg(root / "ADEChallengeData2016" / "images" / folder / f"{name}.jpg", raw.shape)
            save_grey(root / "ADEChallengeData2016" / "annotations" / folder / f"{name}.png", raw)
    return truth


def write_folder(root: Path, save: Callable = save_palette) -> Truth:
    """Labels 3, 7, 40 of the classes, 0 and 255 ignored; root/classes.yaml says so."""
    truth: Truth = {"train": {}, "val": {}}
    for split in truth:
        for i in range(3):
            name = f"photo {i}.a"
            raw = truth[split][name] = labels_of(i, (3, 7, 40, 0, 255))
            save_jpeg(root / "images" / split / f"{name}.JPG", raw.shape)
            save(root / "masks" / split / f"{name}.png", raw)
    (root / "classes.yaml").write_text(
        "names: [road, car, sky]\nlabels: [7, 3, 40]\nignore: [0, 255]\n"
        "colors: [[128, 64, 128], [0, 0, 142], [70, 130, 180]]\n"
    )
    return truth


# The writer of each option of data= that reads a public layout.
WRITERS: dict[str, Callable[[Path], Truth]] = {
    "voc": write_voc,
    "voc_aug": write_sbd,
    "pascal_context": write_pascal_context,
    "coco_stuff_10k": write_coco_stuff_10k,
    "coco_stuff_164k": write_coco_stuff_164k,
    "cityscapes": write_cityscapes,
    "ade20k": write_ade20k,
    "folder": write_folder,
}
