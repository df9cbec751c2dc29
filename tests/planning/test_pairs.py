"""Folders as people have them: which files are photographs, whose masks are whose, which splits there are."""

from pathlib import Path

import numpy as np
import pytest
from _helpers import miniatures as mini

from hemnet.data import DataError
from hemnet.planning.pairs import find_pairs

MASK = np.kron([[0, 1], [1, 2]], np.ones((6, 8))).astype(np.uint8)


def write(root: Path, *pairs: tuple[str, str]) -> Path:
    for image, of_image in pairs:
        if image:
            mini.save_jpeg(root / image, (12, 16))
        if of_image:
            mini.save_grey(root / of_image, MASK)
    return root


# Each layout as (image, mask, split) of its files; PNG photographs are told from masks by what is in them.
LAYOUTS = {
    "two folders": [(f"images/{i}.jpg", f"masks/{i}.png", "") for i in range(3)],
    "other names of folders": [(f"JPEGImages/{i}.jpg", f"SegmentationClass/{i}.png", "") for i in range(3)],
    "folders that say nothing": [(f"a/{i}.jpg", f"b/{i}.png", "") for i in range(3)],
    "PNG in folders that say nothing": [(f"a/{i}.png", f"b/{i}.png", "") for i in range(3)],
    "one folder": [(f"p {i}.jpg", f"p {i}.png", "") for i in range(3)],
    "one folder, additions": [(f"p{i}.png", f"p{i}_mask.png", "") for i in range(3)],
    "a word for all": [(f"segmentation/p{i}.jpg", f"segmentation/p{i}_gt.png", "") for i in range(3)],
    "days": [(f"images/day{d}/{i}.jpg", f"masks/day{d}/{i}.png", "") for d in (1, 2) for i in range(2)],
    "days outside": [(f"day{d}/photos/{i}.jpg", f"day{d}/labels/{i}.png", "") for d in (1, 2) for i in "ab"],
    "masks in one folder": [(f"images/day{i}/p{i}.jpg", f"masks/p{i}.png", "") for i in range(3)],
    "left and right": [(f"{s}_images/0.jpg", f"{s}_masks/0.png", "") for s in ("left", "right")],
    "split inside": [(f"images/{s}/0.jpg", f"masks/{s}/0.png", s) for s in ("test", "train", "val")],
    "split outside": [(f"{s}/images/0.jpg", f"{s}/masks/0.png", s) for s in ("train", "val")],
    "SegNet": [(f"{s}/0.png", f"{s}annot/0.png", s) for s in ("train", "val")],
    "other words of splits": [("x/validation/img/0.jpg", "x/validation/gt/0.png", "val"),
                              ("x/training/img/0.jpg", "x/training/gt/0.png", "train")],
    "additions on both sides": [(f"img_{i:03}.png", f"mask_{i:03}.png", "") for i in range(4)],
    "a word in one folder alone": [(f"stills/p{i}.png", f"LabeledApproved/p{i}_L.png", "") for i in range(3)],
    "a split of each": [("test_images/9.jpg", "", "test"),
                        *((f"train_images/{i}.jpg", f"train_masks/{i}.png", "") for i in range(3))],
    "a suffix in the name": [(f"ds/img/p{i}.jpg", f"ds/masks_machine/p{i}.jpg.png", "") for i in range(3)],
    "half a split": [(f"train/c{i}.jpg", f"train_masks/c{i}_mask.gif", "") for i in range(3)],
    "nothing in common but the split": [(f"{s}/a/0.jpg", f"{s}/b/0.png", s) for s in ("train", "val")],
    "hashes": [(f"{folder}/p_jpg.rf.{s}a.jpg", f"{folder}/p_jpg.rf.{s}a_mask.png", s)
               for folder, s in (("test", "test"), ("train", "train"), ("valid", "val"))],
    "years": [(f"images/{s}2017/0.jpg", f"annotations/{s}2017/0.png", s) for s in ("train", "val")],
    "split of images alone": [(f"images/{s}/{s}.jpg", f"masks/{s}.png", s) for s in ("train", "val")],
    "no val": [(f"images/train/{i}.jpg", f"masks/train/{i}.png", "") for i in range(3)],
    "no val, but test": [("images/test/0.jpg", "masks/test/0.png", "test"),
                         *((f"images/train/{i}.jpg", f"masks/train/{i}.png", "") for i in range(2))],
    "test without masks": [("images/test/0.jpg", "", "test"), ("images/test/1.jpg", "", "test"),
                           *((f"images/{s}/0.jpg", f"masks/{s}/0.png", s) for s in ("train", "val"))],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_off_the_names(layout: str, tmp_path: Path) -> None:
    files = LAYOUTS[layout]
    found = find_pairs(write(tmp_path, *((image, of_image) for image, of_image, _ in files)))
    assert [tuple(pair) for pair in found.pairs] == sorted(files)
    assert found.notes == []


def test_drawings_of_masks_instances_and_other_files_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, *((f"JPEGImages/{i}.jpg", f"SegmentationClass/{i}.png") for i in range(3)))
    for i in range(3):
        mini.save_grey(tmp_path / "SegmentationObject" / f"{i}.png", MASK)
        mini.save_jpeg(tmp_path / "SegmentationClassVisualization" / f"{i}.jpg", (12, 16))
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / ".hidden.jpg").write_text("no image")
    found = find_pairs(tmp_path)
    assert [pair.mask for pair in found.pairs] == [f"SegmentationClass/{i}.png" for i in range(3)]
    assert "6 files beside the masks left out" in found.notes[0]
    assert found.notes[1] == "1 other file left out: 1 .json"


def test_lists_are_a_split_and_what_is_in_none_is_said(tmp_path: Path) -> None:
    write(tmp_path, *((f"JPEGImages/p{i}.jpg", f"SegmentationClass/p{i}.png") for i in range(5)))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np1\n")
    (lists / "val.txt").write_text("JPEGImages/p3.jpg SegmentationClass/p3.png\n")
    found = find_pairs(tmp_path)
    assert [(pair.image[-6:-4], pair.split) for pair in found.pairs] == [
        ("p0", "train"),
        ("p1", "train"),
        ("p3", "val"),
    ]
    assert "2 photographs in no list left out (JPEGImages/p2.jpg, JPEGImages/p4.jpg)" in found.notes[-1]


def test_photographs_without_masks_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, ("images/a.jpg", "masks/a.png"), ("images/b.jpg", "masks/b.png"), ("images/c.jpg", ""))
    found = find_pairs(tmp_path)
    assert len(found.pairs) == 2
    assert found.notes == ["1 photograph without a mask left out (images/c.jpg)"]


def test_runs_and_loops_of_links_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, ("images/a.jpg", "masks/a.png"), ("images/b.jpg", "masks/b.png"))
    run = tmp_path / "runs" / "x"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("")
    mini.save_jpeg(run / "figures" / "predictions.png", (12, 16))
    (tmp_path / "images" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_pairs(tmp_path).pairs) == 2


MISTAKES = {
    "no image": ([], r"no image in it \(no other file\)"),
    "no mask": ([("a.jpg", ""), ("b.jpg", "")], r"2 photographs \(a.jpg, b.jpg\) and no mask .*--masks PATT"),
    "no photograph": ([("", "0.png"), ("", "1.png")], r"2 masks \(0.png, 1.png\) and no photograph; --image"),
    "JPEG masks": ([("images/0.jpg", "masks/0.jpg")], "the masks are JPEG or WebP files .* as PNG"),
    "two spellings": (
        [*((f"images/a{i}.jpg", f"masks/a{i}_mask.png") for i in range(3)),
         *((f"images/b{i}.jpg", f"masks/b{i}-label.png") for i in range(2))],
        r"2 photographs without a mask \(images/b0.jpg, .*and 2 masks without a photograph \(masks/b0-label",
    ),
    "nothing matches": ([("images/a.jpg", "masks/x.png")], "1 photograph without a mask .*1 mask without"),
    "two photographs of one name": (
        [("images/a.jpg", "masks/a.png"), ("images/a.png", "")],
        "two photographs of one name, images/a.jpg and images/a.png",
    ),
    "one name in two folders": (
        [("x/a.jpg", "x/m/a.png"), ("y/a.jpg", "y/n/a.png")], "two photographs of one name|without a mask",
    ),
    "several masks": (
        [("p1.jpg", "p1_left_mask.png"), ("p2.jpg", "p2_left_mask.png"), ("x/p3.jpg", "p1_right_mask.png"),
         ("x/p4.jpg", "p2_right_mask.png")],
        "several masks each",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_paired_is_explained(mistake: str, tmp_path: Path) -> None:
    files, said = MISTAKES[mistake]
    with pytest.raises(DataError, match=said):
        find_pairs(write(tmp_path, *files))


def test_the_user_can_say_which_files_are_masks(tmp_path: Path) -> None:
    files = [(f"p{i}.jpg", f"p{i}_{kind}_mask.png") for i in range(2) for kind in ("left", "right")]
    found = find_pairs(write(tmp_path, *files), masks="*_left_mask.png")
    assert [pair.mask for pair in found.pairs] == ["p0_left_mask.png", "p1_left_mask.png"]
    write(tmp_path / "flat", *((f"x/{i}.png", f"y/{i}.png") for i in range(2)))
    found = find_pairs(tmp_path / "flat", images="y/*")
    assert [tuple(pair) for pair in found.pairs] == [(f"y/{i}.png", f"x/{i}.png", "") for i in range(2)]
