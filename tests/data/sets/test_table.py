"""A table names the files of a set; what is wrong with it is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemnet.data import Cached, DataError, Table

CLASSES = {"sky": 0, "road": 7}
VALUES = np.uint8([[0, 7, 255], [7, 7, 0]])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(4):
        place = tmp_path / ("x" if i % 2 else "y")
        place.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 3, 3), 10 * i, np.uint8)).save(place / f"{i // 2}.png")
        Image.fromarray(np.roll(VALUES, i)).save(place / f"{i // 2}_m.png")
    return tmp_path


def write(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "t.csv").write_text(text, encoding)
    return root / "t.csv"


ROWS = "split,image,mask\ntrain,x/0.png,x/0_m.png\ntrain,y/0.png,y/0_m.png\nval,x/1.png,x/1_m.png\n"


@pytest.mark.parametrize(
    "change", [str, lambda text: text.replace(",", ";"), lambda text: text.replace(",", "\t"),
               lambda text: "\ufeff" + text.replace("\n", "\r\n"), lambda text: text + ",,\n\n"],
)  # fmt: skip
def test_a_table_is_read_as_spreadsheets_write_it(change, root: Path) -> None:
    reader = Table(root, "train", CLASSES, write(root, change(ROWS)))
    assert [reader.read(i).name for i in range(len(reader))] == ["x-0.png", "y-0.png"]
    assert reader.read(1).image_HWC.max() == 0
    assert np.array_equal(
        reader.read(0).mask_HW, np.uint8([0, 1, 255])[np.searchsorted([0, 7, 255], np.roll(VALUES, 1))]
    )
    assert Table(root, "val", CLASSES, root / "t.csv").read(0).name == "1"


def test_test_images_may_have_no_masks(root: Path) -> None:
    reader = Table(root, "test", CLASSES, write(root, ROWS + "test,y/1.png,\n"))
    assert (len(reader), reader.labelled) == (1, False)
    with pytest.raises(DataError, match="1 of 2 images of test have no mask"):
        Table(root, "test", CLASSES, write(root, ROWS + "test,y/1.png,\ntest,y/1_m.png,y/1.png\n"))


WRONG = {
    "no rows of the split": (ROWS.replace("val", "valid"), {}, "no row of the split 'val'; it has train"),
    "no column": (ROWS.replace("mask\n", "masks\n"), {}, "the first line names no column mask; it must name"),
    "in two splits": (ROWS + "val,x/0.png,x/0_m.png\n", {}, r"1 image in more than one split \(x/0.png in"),
    "twice": (ROWS + "val,x/1.png,x/1_m.png\n", {}, "rows repeat an image"),
    "no mask": (ROWS + "val,y/1.png,\n", {}, "1 of 2 images of val have no mask"),
    "gone": (ROWS + "val,x/9.png,x/1_m.png\n", {}, "1 of 2 image files of .*are not there .x/9.png.; re"),
    "no classes": (ROWS, {}, "needs 1 to 255 classes, got 0"),
    "no number": (ROWS, {"sky": "grey"}, "the label 'grey' is no number in 0..255 and no colour"),
    "too large": (ROWS, {"sky": 256}, "the label 256 is no number"),
    "both kinds": (ROWS, {"sky": 1, "road": "#000000"}, "some labels are numbers and some are colours"),
    "twice one label": (ROWS, {"sky": 1, "road": 1}, "labels repeat"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_table_or_its_classes_is_said(what: str, root: Path) -> None:
    text, classes, said = WRONG[what]
    with pytest.raises(DataError, match=said):
        Table(root, "val", CLASSES if text != ROWS else classes, write(root, text))


def test_a_missing_table_says_what_writes_one(root: Path) -> None:
    with pytest.raises(DataError, match=r"no such file.*hemnet init FOLDER writes such a table"):
        Table(root, "val", CLASSES, root / "none.csv")
    (root / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a readable table"):
        Table(root, "val", CLASSES, root / "t.csv")


def test_a_label_or_colour_that_no_class_has_is_an_error_unless_others_are_ignored(root: Path) -> None:
    table = write(root, ROWS)
    with pytest.raises(DataError, match=r"unknown labels .7., expected only 0, 255"):
        Table(root, "val", {"sky": 0}, table).read(0)
    mask = Table(root, "val", {"sky": 0}, table, "others").read(0).mask_HW
    assert np.array_equal(mask == 0, np.roll(VALUES, 3) == 0)
    assert {*np.unique(mask)} == {0, 255}
    colours = {"sky": "#000000", "road": "#070707"}
    with pytest.raises(DataError, match=r"1 colour that no class has \(#ffffff\)"):
        Table(root, "val", colours, table).read(0)
    plain = Table(root, "val", CLASSES, table).read(0).mask_HW
    for ignore in (["#FFFFFF"], "others"):
        assert np.array_equal(Table(root, "val", colours, table, ignore).read(0).mask_HW, plain)


def test_large_photographs_are_shrunk_as_they_are_read_and_small_ones_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, (h, w) in (("large", (90, 120)), ("small", (20, 30))):
        Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(rng.integers(0, 2, (h, w), np.uint8)).save(tmp_path / f"{name}_m.png")
    table = write(tmp_path, "split,image,mask\nval,large.png,large_m.png\nval,small.png,small_m.png\n")
    whole, shrunk = (Table(tmp_path, "val", {"a": 0, "b": 1}, table, longest=n) for n in (None, 40))
    assert shrunk.read(0).image_HWC.shape == (30, 40, 3)
    block_HWC = whole.read(0).image_HWC.reshape(30, 3, 40, 3, 3).mean((1, 3))
    assert np.abs(shrunk.read(0).image_HWC - block_HWC).max() <= 0.5 + 1e-6
    assert np.array_equal(shrunk.read(0).mask_HW, whole.read(0).mask_HW[1::3, 1::3])
    assert np.array_equal(shrunk.read(1).image_HWC, whole.read(1).image_HWC)
    assert whole.fingerprint().settings != shrunk.fingerprint().settings
    assert np.array_equal(Cached(shrunk, tmp_path / "cache").read(0).mask_HW, shrunk.read(0).mask_HW)
