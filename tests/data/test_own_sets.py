"""What a folder holds is listed or named, masks are matched by a rule, images without masks are read."""

import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from _helpers import miniatures as mini
from _helpers.tiny import TINY
from _helpers.untrained import untrained
from PIL import Image

from hemnet.config.build import build_data
from hemnet.config.compose import load
from hemnet.data import (
    ADE20K,
    IGNORE_INDEX,
    VOC,
    CamVid,
    Cityscapes,
    CocoStuff164k,
    DataError,
    Folder,
    PascalContext,
    VOCAug,
)
from hemnet.data.listing import read_list, scan
from hemnet.data.sets.voc import VOC_CLASSES
from hemnet.train import train
from hemnet.using.evaluation import evaluate
from hemnet.using.prediction import predict

CLASSES = ["background", "object"]
GREY = np.tile(np.uint8([0, 1]), (8, 4))


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_set(root: Path, images: list[str], masks: list[str]) -> Path:
    """Write images/train and masks/train; image and mask i of the lists share the colour 10 i."""
    for i, name in enumerate(images):
        save(root / "images" / "train" / name, np.full((8, 8, 3), 10 * i, np.uint8))
    for i, name in enumerate(masks):
        save(root / "masks" / "train" / name, np.full((8, 8), i % 2, np.uint8))
    return root


# -- listings ----------------------------------------------------------------------------------------------

KINDS = ["a.png", "b.JPG", "c.webp", "d.tif", "e.TIFF", "f.bmp", "g.gif", "h.ppm", "i.jfif"]
OTHERS = ["notes.txt", "._a.png", ".DS_Store", "photo.heic", "folder"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of all kinds, and what is none."""
    root = write_set(tmp_path / "set", KINDS, [f"{Path(name).stem}.png" for name in KINDS])
    folder = root / "images" / "train"
    for name in OTHERS[:-1]:
        (folder / name).write_bytes(b"\0\5\26\7")
    (folder / OTHERS[-1]).mkdir()
    return folder


def test_training_lists_what_can_be_read_and_names_what_it_leaves_out(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        reader = Folder(photos.parents[1], "train", CLASSES)
    assert [reader.read(i).name for i in range(len(reader))] == list("abcdefghi")
    (record,) = caplog.records
    said = record.getMessage()
    assert f"{photos}: 9 files listed, left out: 3 of another ending than .png" in said
    assert "2 hidden (.DS_Store, ._a.png)" in said
    assert all(name in said for name in OTHERS)


def test_prediction_lists_alike(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = untrained(tmp_path / "run")[0].path
    predict(run, photos, "last", tmp_path / "out")
    printed = capsys.readouterr().out
    assert "9 images segmented, 0 not" in printed
    assert f"left out of {photos}: 2 of another ending" in printed  # the folder is searched too
    assert all(name in printed for name in OTHERS[:-1])
    assert {path.name for path in (tmp_path / "out").glob("*_mask.png")} == {
        f"{s}_mask.png" for s in "abcdefghi"
    }
    for path in photos.glob("[b-i].*"):
        path.unlink()
    predict(run, photos, "last", tmp_path / "out")
    assert "1 image segmented, 0 not" in capsys.readouterr().out
    (photos / "a.png").unlink()
    with pytest.raises(DataError, match=r"no images in .*ending in .*\.webp.* it holds .*notes\.txt"):
        predict(run, photos, "last", tmp_path / "out")


def test_two_files_of_one_name_are_an_error_in_both(photos: Path, tmp_path: Path) -> None:
    save(photos / "a.webp", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.webp: a\.png has the same stem"):
        Folder(photos.parents[1], "train", CLASSES)
    with pytest.raises(DataError, match=r"a\.webp: a\.png has the same stem"):
        predict(untrained(tmp_path / "run")[0].path, photos, "last", tmp_path / "out")


# -- which mask is whose -----------------------------------------------------------------------------------

NAMED = {
    "as the images": "{}.png",
    "x_mask": "{}_mask.png",
    "x-seg, TIFF": "{}-seg.tif",
    "xlabelIds": "{}labelIds.png",
    "label_x": "label_{}.png",
    "gt.x.v2": "gt.{}.v2.png",
}


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("names", [["1", "12", "2", "21"], ["road 1", "road 2", "säule"], ["a"]])
def test_masks_have_the_name_of_their_image_with_one_addition(
    case: str, names: list[str], tmp_path: Path
) -> None:
    masks = [NAMED[case].format(name) for name in names]
    root = write_set(tmp_path, [f"{name}.jpg" for name in names], masks)
    reader = Folder(root, "train", CLASSES)
    assert [(f.name, Path(f.mask).name) for f in reader._files] == sorted(zip(names, masks, strict=True))


OTHERWISE = {
    "case": (["IMG_1.JPG", "IMG_2.JPG"], ["img_1.png", "img_2.png"]),
    "case and an addition": (["Road.jpg", "SEA.jpg"], ["road_Mask.png", "sea_mask.png"]),
    "additions to both": (
        ["1_sat.jpg", "2_sat.jpg", "12_sat.jpg"],
        ["1_mask.png", "2_mask.png", "12_mask.png"],
    ),
    "beginnings of both": (["img10.jpg", "img11.jpg"], ["mask_10.png", "mask_11.png"]),
    "words": (["x-apple.jpg", "x-avocado.jpg"], ["apple.gt.png", "avocado.gt.png"]),
    "beginning and end, and case": (["A_1_rgb.png", "A_3_rgb.png"], ["seg-1.png", "seg-3.png"]),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_names_that_differ_in_case_or_in_additions_to_both_are_matched(case: str, tmp_path: Path) -> None:
    images, masks = OTHERWISE[case]
    reader = Folder(write_set(tmp_path, images, masks), "train", CLASSES)
    found = {Path(f.image).name: Path(str(f.mask)).name for f in reader._files}
    assert found == dict(zip(images, masks, strict=True))


UNMATCHED = {
    "two masks that differ in case": (["IMG_1.jpg"], ["img_1.png", "Img_1.png"]),
    "one mask too many": (["1_sat.jpg", "2_sat.jpg"], ["1_mask.png", "2_mask.png", "3_mask.png"]),
    "one mask too few": (["1_sat.jpg", "2_sat.jpg"], ["1_mask.png"]),
    "one pair alone, of which anything could be common": (["a_sat.jpg"], ["a_mask.png"]),
    "another year": (["2007_000032.jpg", "2007_000039.jpg"], ["2008_000032.png", "2008_000039.png"]),
    "another number": (["img1.jpg", "img2.jpg"], ["mask1.png", "mask12.png"]),
}


@pytest.mark.parametrize("case", UNMATCHED)
def test_what_could_be_matched_in_two_ways_or_in_part_is_an_error(case: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no mask for"):
        Folder(write_set(tmp_path, *UNMATCHED[case]), "train", CLASSES)


def test_names_of_other_unicode_forms_are_equal(tmp_path: Path) -> None:
    composed = ["grün", "über"]
    split = [unicodedata.normalize("NFD", name) for name in composed]
    assert composed != split
    root = write_set(tmp_path / "a", [f"{n}.png" for n in split], [f"{n}_mask.png" for n in composed])
    reader = Folder(root, "train", CLASSES)
    assert [reader.read(i).name for i in range(2)] == composed
    (tmp_path / "list.txt").write_bytes("\ufeffgrün.png\r\nüber\r\n".encode())
    assert read_list(tmp_path / "list.txt", "") == composed
    (tmp_path / "list.txt").write_text("\n".join(split), "utf-8")
    assert read_list(tmp_path / "list.txt", "") == composed
    for name in (composed[0], split[0]):
        save(tmp_path / "both" / f"{name}.png", GREY)
    with pytest.raises(DataError, match="same stem"):
        scan(tmp_path / "both", (".png",))


def test_a_file_of_classes_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["a.png"], ["a.png"])
    (root / "c.yaml").write_bytes(b"\xef\xbb\xbfnames: [paper, ink]\n")
    assert Folder(root, "train", str(root / "c.yaml")).spec.classes == ("paper", "ink")


def test_what_does_not_match_is_explained_with_examples_of_both_sides(tmp_path: Path) -> None:
    root = write_set(tmp_path, [f"p{i}.jpg" for i in range(5)], [f"q{i}.png" for i in range(4)])
    with pytest.raises(DataError) as caught:
        Folder(root, "train", CLASSES)
    said = str(caught.value)
    assert (
        "no mask for 5 of 5 samples (p0, p1, p2, ...), and 4 masks of 4 without an image (q0, q1, q2, ...)"
        in said
    )
    assert "data.train.masks='masks/{split}/{name}_mask.png'" in said
    (root / "masks" / "train" / "p0_mask.png").write_bytes((root / "masks/train/q0.png").read_bytes())
    with pytest.raises(DataError, match=r"no mask for 4 of 5 samples .*, and 4 masks of 5"):
        Folder(root, "train", CLASSES)


def test_several_masks_an_image_are_told_apart_by_a_pattern(tmp_path: Path) -> None:
    names = ["1_sat.jpg", "2_sat.jpg"]
    root = write_set(tmp_path, names, [])
    for i in (1, 2):
        for kind in ("edge", "mask"):
            save(root / "images" / "train" / f"{i}_{kind}.png", np.full((8, 8), i - 1, np.uint8))
            save(root / "masks" / "train" / f"{i}_sat_{kind}.png", GREY)
    with pytest.raises(
        DataError, match=r"2 images with several masks each, named NAME_edge, NAME_mask; say which"
    ):
        Folder(root, "train", CLASSES, images="images/{split}/{name}.jpg")
    # All in one folder, and neither name within the other.
    reader = Folder(root, "train", CLASSES, "images/{split}/{name}_sat", "images/{split}/{name}_mask.png")
    assert [(reader.read(i).name, reader.read(i).mask_HW.max()) for i in range(2)] == [("1", 0), ("2", 1)]


def test_equal_classes_of_two_folders_are_one_set(tmp_path: Path) -> None:
    roots = [write_set(tmp_path / name, ["a.png"], ["a.png"]) for name in ("here", "there")]
    own = ["data=folder", "data.train.classes=[sky,road]", "data.batch_size=1", "data.val.split=train",
           f"+data.train.root={roots[0]}", f"+data.val.root={roots[1]}"]  # fmt: skip
    assert build_data(load(own)).spec.classes == ("sky", "road")
    with pytest.raises(DataError, match=r"2 classes of here .sky, road., .* 2 of there .road, sky."):
        build_data(load([*own, "data.val.classes=[road,sky]"]))


def test_black_and_white_colours_and_palettes(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["a.png", "b.png"], [])
    (root / "c.yaml").write_text("names: [paper, ink]\ncolors: [[255, 255, 255], [0, 0, 0]]")
    for name, palette in (("a", [0, 0, 0, 255, 255, 255]), ("b", [255, 255, 255, 0, 0, 0])):
        mask = Image.fromarray(GREY)
        mask.putpalette(palette)
        (root / "masks" / "train").mkdir(parents=True, exist_ok=True)
        mask.save(root / "masks" / "train" / f"{name}.png", bits=1)
    reader = Folder(root, "train", str(root / "c.yaml"))
    for i in range(2):
        assert np.array_equal(reader.read(i).mask_HW, GREY)
    ignored = np.uint8([[0, 1, IGNORE_INDEX]])
    assert len({tuple(color) for color in reader.spec.colorize(ignored)[0].tolist()}) == 3


# -- images alone ------------------------------------------------------------------------------------------


def write_test_split(kind: str, root: Path) -> None:
    """Add three images without masks to a miniature, where its benchmark has them."""
    devkits = {"voc": "VOC2012", "voc_aug": "VOC2012", "pascal_context": "VOC2010"}
    if kind in devkits:
        devkit = root / "VOCdevkit" / devkits[kind]
        lists = devkit / "ImageSets" / ("Main" if kind == "pascal_context" else "Segmentation")
        mini.save_list(lists / "test.txt", [f"2008_7{i}" for i in range(3)])
        places = [devkit / "JPEGImages" / f"2008_7{i}.jpg" for i in range(3)]
    else:
        places = {
            "cityscapes": [root / f"leftImg8bit/test/berlin/berlin_{i}_leftImg8bit.png" for i in range(3)],
            "ade20k": [root / f"release_test/testing/ADE_test_{i}.jpg" for i in range(3)],
            "coco_stuff_164k": [root / f"images/test2017/{i}.jpg" for i in range(3)],
            "camvid": [root / f"test/{i}.png" for i in range(3)],
            "folder": [root / f"images/test/{i}.png" for i in range(3)],
        }[kind]
    for i, path in enumerate(places):
        mini.save_jpeg(path, (20 + i, 30))


ALONE = {
    "voc": (mini.write_voc, VOC),
    "voc_aug": (mini.write_sbd, VOCAug),
    "pascal_context": (mini.write_pascal_context, PascalContext),
    "cityscapes": (mini.write_cityscapes, Cityscapes),
    "ade20k": (mini.write_ade20k, ADE20K),
    "coco_stuff_164k": (mini.write_coco_stuff_164k, CocoStuff164k),
    "camvid": (lambda root: None, CamVid),
    "folder": (lambda root: None, lambda root, split: Folder(root, split, CLASSES)),
}


@pytest.mark.parametrize("kind", ALONE)
def test_a_test_split_without_labels_is_read_as_images_alone(kind: str, tmp_path: Path) -> None:
    write, make = ALONE[kind]
    write(tmp_path)
    write_test_split(kind, tmp_path)
    reader = make(tmp_path, "test")
    assert (len(reader), reader.labelled) == (3, False)
    for i in range(3):
        sample = reader.read(i)
        assert sample.image_HWC.shape == (20 + i, 30, 3)
        assert sample.mask_HW.shape == (20 + i, 30)
        assert (sample.mask_HW == IGNORE_INDEX).all()
    reader.fingerprint()
    if kind not in ("camvid", "folder"):
        assert make(tmp_path, "train").labelled


def test_a_test_split_with_one_mask_is_incomplete_and_other_splits_need_theirs(tmp_path: Path) -> None:
    write_test_split("folder", tmp_path)
    save(tmp_path / "masks" / "test" / "1.png", GREY)
    with pytest.raises(DataError, match="no mask for 2 of 3 samples"):
        Folder(tmp_path, "test", CLASSES)
    assert not Folder(tmp_path, "test", CLASSES, masks=None).labelled
    (tmp_path / "images" / "test").rename(tmp_path / "images" / "val")
    with pytest.raises(DataError, match="no such folder"):
        Folder(tmp_path, "val", CLASSES)
    assert not Folder(tmp_path, "val", CLASSES, masks=None).labelled


def test_a_submission_of_the_test_split_needs_no_labels(tmp_path: Path) -> None:
    mini.write_voc_scenes(tmp_path / "set", 4, 2)
    write_test_split("voc", tmp_path / "set")
    changes = ["data=voc", f"data.root={tmp_path / 'set'}", "data.num_workers=0"]
    run = untrained(tmp_path / "run", *changes, spec=VOC_CLASSES)[0].path
    on_test = ["data.val.split=test"]
    with pytest.raises(DataError, match=r"images alone, so nothing can be scored; .* --voc-submission"):
        evaluate(run, "last", on_test)
    evaluate(run, "last", on_test, submission=tmp_path / "out")
    folder = tmp_path / "out" / "results" / "VOC2012" / "Segmentation" / "comp5_test_cls"
    sizes = {}
    for path in folder.iterdir():
        with Image.open(path) as mask:
            sizes[path.stem] = (mask.height, mask.width)
            assert mask.mode == "P"
            assert np.asarray(mask).max() < 21
    assert sizes == {f"2008_7{i}": (20 + i, 30) for i in range(3)}
    (result,) = (run / "evaluation").glob("*/result.json")
    assert json.loads(result.read_text())["metrics"]["val/miou"] is None
    with pytest.raises(DataError, match="evaluation split of voc has images alone"):
        train(
            load(
                [
                    "data=voc",
                    *TINY[1:],
                    f"data.root={tmp_path / 'set'}",
                    *on_test,
                    f"run_dir={tmp_path / 'r'}",
                ]
            )
        )
