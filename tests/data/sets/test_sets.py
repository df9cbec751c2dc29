"""The readers of the public data sets, on miniatures in their own layouts and encodings."""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _helpers import miniatures as mini
from _helpers.miniatures import WRITERS, Truth
from PIL import Image

from hemnet.config.build import build_data
from hemnet.config.compose import load
from hemnet.data import (
    ADE20K,
    VOC,
    Cityscapes,
    CocoStuff10k,
    CocoStuff164k,
    DataError,
    Folder,
    PascalContext,
    Reader,
    VOCAug,
)
from hemnet.data.listing import read_list

# The trainIds of the authors' label table, for ids 0..33; 255 is ignored.
TRAIN_IDS = [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
             255, 255, 16, 17, 18]  # fmt: skip
# The labels of the 59 classes among the 459, as lists of conversion tools in use give them, in no order.
CONTEXT_59 = [2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162, 420,
              454, 295, 296, 427, 44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34,
              207, 80, 355, 85, 347, 220, 349, 360, 98, 187, 104, 105, 366, 189, 368, 113, 115]  # fmt: skip


def lookup(table: dict[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    return np.vectorize(table.__getitem__, otypes=[int])


def context(background: bool) -> dict[int, int]:
    table = dict.fromkeys(range(460), 0 if background else 255)
    return table | {label: k + background for k, label in enumerate(sorted(CONTEXT_59))}


VOC_TABLE = {**{k: k for k in range(21)}, 255: 255}
COCO_TABLE = {0: 255, **{number: k for k, number in enumerate(mini.COCO_STUFF_IDS[1:])}}
CASES: dict[str, tuple[Callable[[Path], Truth], Callable[..., Reader], dict[int, int]]] = {
    "voc": (mini.write_voc, VOC, VOC_TABLE),
    "voc, grey": (lambda root: mini.write_voc(root, save=mini.save_grey), VOC, VOC_TABLE),
    "voc, own classes": (
        lambda root: mini.write_voc(root, (0, 1, 2, 255)),
        lambda root, split: VOC(root, split, ["background", "cat", "mat"]),
        {0: 0, 1: 1, 2: 2, 255: 255},
    ),
    "voc_aug, SBD": (mini.write_sbd, VOCAug, VOC_TABLE),
    "voc_aug, ready": (lambda r: mini.write_segmentation_class_aug(r, listed=False), VOCAug, VOC_TABLE),
    "voc_aug, listed": (lambda r: mini.write_segmentation_class_aug(r, listed=True), VOCAug, VOC_TABLE),
    "context": (mini.write_pascal_context, PascalContext, context(False)),
    "context, 60": (mini.write_pascal_context, lambda r, s: PascalContext(r, s, True), context(True)),
    "context, merged": (
        mini.write_pascal_context_masks, PascalContext, {0: 255, **{k + 1: k for k in range(59)}}
    ),
    "context, merged, 60": (
        mini.write_pascal_context_masks, lambda r, s: PascalContext(r, s, True), {k: k for k in range(60)}
    ),
    "10k": (mini.write_coco_stuff_10k, CocoStuff10k, COCO_TABLE),
    "164k": (mini.write_coco_stuff_164k, CocoStuff164k, {(k - 1) % 256: v for k, v in COCO_TABLE.items()}),
    "cityscapes": (mini.write_cityscapes, Cityscapes, {**dict(enumerate(TRAIN_IDS)), 255: 255}),
    "ade20k": (mini.write_ade20k, ADE20K, {0: 255, **{k + 1: k for k in range(150)}}),
    "folder": (
        mini.write_folder,
        lambda root, split: Folder(root, split, f"{root}/classes.yaml"),
        {7: 0, 3: 1, 40: 2, 0: 255, 255: 255},
    ),
    "folder, grey": (
        lambda root: mini.write_folder(root, mini.save_grey),
        lambda root, split: Folder(str(root), split, str(root / "classes.yaml")),
        {7: 0, 3: 1, 40: 2, 0: 255, 255: 255},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_layout_and_encoding_is_read_as_it_was_written(case, tmp_path):
    write, make, table = CASES[case]
    for split, raw_of in write(tmp_path).items():
        reader = make(tmp_path, split)
        samples = [reader.read(i) for i in range(len(reader))]
        assert {sample.name for sample in samples} == set(raw_of)
        assert len(samples) == len(raw_of)
        other_split = "val" if split == "train" else "train"
        for sample, (_, image, _) in zip(samples, reader._files, strict=True):
            assert Path(image).stem.removesuffix("_leftImg8bit") == sample.name
            assert f"/{other_split}" not in image.removeprefix(str(tmp_path))
            assert sample.mask_HW.dtype == sample.image_HWC.dtype == np.uint8
            assert np.array_equal(sample.mask_HW, lookup(table)(raw_of[sample.name]))
            assert np.array_equal(sample.image_HWC, np.asarray(Image.open(image).convert("RGB")))
        # Every class of the set is in the miniature, and nothing else.
        assert set(np.unique(samples[0].mask_HW)) - {255} == set(range(reader.spec.num_classes))


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_may_be_named_at_any_depth(below, tmp_path):
    truth = mini.write_voc(tmp_path)
    assert [VOC(tmp_path / below, "val").read(i).name for i in range(3)] == list(truth["val"])


def test_voc_aug_finds_voc_beside_it_or_where_told(tmp_path):
    truth = mini.write_sbd(tmp_path / "voc_aug")
    shutil.move(tmp_path / "voc_aug" / "VOCdevkit", tmp_path / "elsewhere" / "VOCdevkit")
    with pytest.raises(DataError, match=r"voc_aug: no VOC development kit here.*SBD as benchmark_RELEASE"):
        VOCAug(tmp_path / "voc_aug", "train")
    assert len(VOCAug(tmp_path / "voc_aug", "train", tmp_path / "elsewhere")) == len(truth["train"])
    (tmp_path / "elsewhere").rename(tmp_path / "voc")
    assert len(VOCAug(tmp_path / "voc_aug", "train")) == len(truth["train"])


def test_voc_aug_without_sbd_says_what_is_missing(tmp_path):
    mini.write_voc(tmp_path)
    VOCAug(tmp_path, "val")
    with pytest.raises(DataError, match=r"neither SBD nor its masks.*SegmentationClassAug"):
        VOCAug(tmp_path, "train")


def test_voc_aug_refuses_a_list_that_trains_on_validation_images(tmp_path):
    truth = mini.write_segmentation_class_aug(tmp_path, listed=True)
    leaked = next(iter(truth["val"]))
    mini.save_list(
        tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt", [*truth["train"], leaked]
    )
    with pytest.raises(DataError, match=rf"train_aug\.txt: \[{leaked}\] are in VOC val"):
        VOCAug(tmp_path, "train")


# -- classes -----------------------------------------------------------------------------------------------


def test_classes_have_the_names_and_colours_of_their_sets():
    from hemnet.data.sets.ade20k import ADE20K_CLASSES
    from hemnet.data.sets.cityscapes import CITYSCAPES_CLASSES
    from hemnet.data.sets.coco_stuff import COCO_STUFF_CLASSES, IDS
    from hemnet.data.sets.context import CONTEXT_CLASSES, CONTEXT_CLASSES_60, LABEL_OF_CLASS
    from hemnet.data.sets.voc import VOC_CLASSES

    def at(spec, *indices):
        return [spec.classes[k] for k in indices]

    assert at(VOC_CLASSES, 0, 1, 11, 20) == ["background", "aeroplane", "diningtable", "tvmonitor"]
    # As in the palettes of the masks that VOC is distributed with.
    assert VOC_CLASSES.palette[:5] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert VOC_CLASSES.palette[15] == (192, 128, 128)  # person
    assert VOC_CLASSES.palette[20] == (0, 64, 128)
    assert at(CITYSCAPES_CLASSES, 0, 10, 13, 18) == ["road", "sky", "car", "bicycle"]
    assert CITYSCAPES_CLASSES.palette[13] == (0, 0, 142)
    assert at(ADE20K_CLASSES, 0, 12, 74, 149) == ["wall", "person", "computer", "flag"]
    assert ADE20K_CLASSES.num_classes == 150
    assert COCO_STUFF_CLASSES.num_classes == 171
    # Lines of the release's labels.txt.
    for number, name in ((1, "person"), (13, "stop sign"), (67, "dining table"), (90, "toothbrush"),
                         (92, "banner"), (133, "mirror-stuff"), (169, "tree"), (182, "wood")):  # fmt: skip
        assert COCO_STUFF_CLASSES.classes[IDS.index(number)] == name
    assert sorted(CONTEXT_59) == list(LABEL_OF_CLASS.values())
    assert list(LABEL_OF_CLASS) == sorted(LABEL_OF_CLASS)
    assert CONTEXT_CLASSES_60.classes == ("background", *CONTEXT_CLASSES.classes)


def test_own_classes_get_colours_and_the_name_of_their_folder(tmp_path):
    mini.write_folder(tmp_path / "garden")
    (tmp_path / "c.yaml").write_text("- background\n- tree\n")
    spec = Folder(tmp_path / "garden", "train", str(tmp_path / "c.yaml")).spec
    assert (spec.name, spec.classes) == ("garden", ("background", "tree"))
    assert spec.palette == ((0, 0, 0), (128, 0, 0))
    assert Folder(tmp_path / "garden", "train", ["a", "b"]).spec.palette == ((128, 0, 0), (0, 128, 0))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("names: [a, b]\nlabel: [1, 2]", r"label: .*names, labels, ignore, colors"),
        ("names: [a, b]\nlabels: [1]", "2 names but 1 label;"),
        ("names: [a, b]\nlabels: [1, 1]", "labels repeat"),
        ("names: [a, b]\nlabels: [1, 0]\nignore: 0", "label of a class is ignored"),
        ("names: [a, b]\nlabels: [1, 300]", r"labels\.1: .*255"),
        ("names: [a, a]", "names repeat"),
        ("names: [a, b]\ncolors: [[1, 2, 3]]", "1 colour;"),
        ("names: [a]\ncolors: [[1, 2]]", "three integers"),
        ("- 1\n- 2", "names.0: .*string"),
        ("just text", "give a list of names"),
        ("[unclosed", "not a readable YAML file"),
        ("", "give a list of names"),
        ("[]", "1 to 255 classes"),
    ],
)
def test_a_wrong_file_of_classes_is_named(text, match, tmp_path):
    mini.write_folder(tmp_path)
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        Folder(tmp_path, "train", str(tmp_path / "classes.yaml"))
    assert "classes.yaml" in str(caught.value)


def test_a_missing_file_of_classes_says_what_to_write(tmp_path):
    mini.write_folder(tmp_path)
    with pytest.raises(DataError, match=r"none\.yaml: no such file of classes.*data\.train\.classes="):
        Folder(tmp_path, "train", str(tmp_path / "none.yaml"))


def test_label_255_may_be_a_class(tmp_path):
    mini.save_jpeg(tmp_path / "i" / "0.jpg", (24, 32))
    mini.save_grey(tmp_path / "m" / "0.png", mini.labels_of(0, (0, 255)))
    (tmp_path / "c.yaml").write_text("names: [paper, ink]\nlabels: [255, 0]\n")
    reader = Folder(tmp_path, "any", str(tmp_path / "c.yaml"), images="i", masks=str(tmp_path / "m"))
    assert reader.read(0).mask_HW[0, :2].tolist() == [1, 0]


# -- counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "split", "message"),
    [
        ("voc", "train", "voc train: 4 images, the official split has 1464"),
        ("voc", "val", "voc val: 3 images, the official split has 1449"),
        ("voc", "trainval", "voc trainval: 7 images, the official split has 2913"),
        ("voc_aug, SBD", "train", "voc_aug train: 6 images, the official split has 10582"),
        ("voc_aug, SBD", "val", "voc_aug val: 3 images, the official split has 1449"),
        ("context", "train", "pascal_context train: 4 images, the official split has 4998"),
        ("context", "val", "pascal_context val: 2 images, the official split has 5105"),
        ("10k", "train", "coco_stuff_10k train: 4 images, the official split has 9000"),
        ("10k", "test", "coco_stuff_10k test: 2 images, the official split has 1000"),
        ("164k", "train", "coco_stuff_164k train: 4 images, the official split has 118287"),
        ("164k", "val", "coco_stuff_164k val: 2 images, the official split has 5000"),
        ("cityscapes", "train", "cityscapes train: 4 images, the official split has 2975"),
        ("cityscapes", "val", "cityscapes val: 2 images, the official split has 500"),
        ("ade20k", "train", "ade20k train: 4 images, the official split has 20210"),
        ("ade20k", "val", "ade20k val: 2 images, the official split has 2000"),
    ],
)
def test_an_unexpected_count_is_warned_of_with_both_numbers(case, split, message, tmp_path, caplog):
    write, make, _ = CASES[case]
    write(tmp_path)
    with caplog.at_level(logging.WARNING):
        make(tmp_path, split)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [message]


@pytest.mark.parametrize("case", ["voc, own classes", "folder"])
def test_sets_of_one_s_own_have_no_expected_count(case, tmp_path, caplog):
    write, make, _ = CASES[case]
    write(tmp_path)
    make(tmp_path, "train")
    assert not caplog.records


def test_the_full_voc_list_is_not_warned_of(tmp_path, caplog, monkeypatch):
    devkit = tmp_path / "VOC2012"
    names = [f"2007_{i:06d}" for i in range(1464)]
    mini.save_list(devkit / "ImageSets" / "Segmentation" / "train.txt", names)
    for folder in ("JPEGImages", "SegmentationClass"):
        (devkit / folder).mkdir()
    endings = {"JPEGImages": ".jpg", "SegmentationClass": ".png"}
    monkeypatch.setattr(os, "listdir", lambda folder: [name + endings[Path(folder).name] for name in names])
    assert len(VOC(tmp_path, "train")) == 1464
    assert not caplog.records


def test_118287_images_are_listed_within_seconds_and_without_looking_at_one(tmp_path, monkeypatch):
    for kind in ("images", "annotations"):
        (tmp_path / kind / "train2017").mkdir(parents=True)

    def listdir(folder: Path) -> list[str]:
        ending = ".jpg" if Path(folder).parent.name == "images" else ".png"
        return [f"{i:012d}{ending}" for i in reversed(range(118287))]

    monkeypatch.setattr(os, "listdir", listdir)
    start = time.process_time()
    assert len(CocoStuff164k(tmp_path, "train")) == 118287
    assert time.process_time() - start < 20  # with the square of their number it would be minutes


# -- what is wrong on disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_root_is_named_with_the_layout(case, tmp_path):
    make = CASES[case][1]
    with pytest.raises(DataError, match=r"HEMNET_DATA.*Expected layout: ") as caught:
        make(tmp_path / "nowhere", "train")
    assert str(tmp_path / "nowhere") in str(caught.value)
    (tmp_path / "classes.yaml").write_text("[a, b]")
    with pytest.raises(DataError, match=r"Expected layout: ") as caught:
        make(tmp_path, "train")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("case", [case for case in CASES if "folder" not in case])
def test_an_unknown_split_is_answered_with_the_known_ones(case, tmp_path):
    write, make, _ = CASES[case]
    write(tmp_path)
    with pytest.raises(DataError, match=r"has the splits .*train.* and \w+, got 'dev'"):
        make(tmp_path, "dev")


@pytest.mark.parametrize("case", CASES)
def test_a_half_extracted_set_fails_at_construction_and_names_what_is_missing(case, tmp_path):
    write, make, _ = CASES[case]
    write(tmp_path)
    name, _, mask = make(tmp_path, "train")._files[0]
    Path(mask).unlink()
    expected = rf"no mask for 1 of \d samples \({re.escape(name)}\).*half-extracted"
    with pytest.raises(DataError, match=expected) as caught:
        make(tmp_path, "train")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("case", [case for case in CASES if case[:3] in ("voc", "con", "10k")])
def test_a_listed_image_that_is_missing_is_named_at_construction(case, tmp_path):
    write, make, _ = CASES[case]
    names = list(write(tmp_path)["train"])
    for path in [p for name in names for p in tmp_path.rglob(f"{name}.jpg")]:
        path.unlink()
    mini.save_jpeg(next(p for p in tmp_path.rglob("*mages") if p.name != "ImageSets") / "other.jpg", (8, 8))
    # The first three of the list, whatever its order is.
    expected = rf"mages: no image for {len(names)} of {len(names)} samples \((\S+, ){{3}}\.\.\.\)"
    with pytest.raises(DataError, match=expected if len(names) > 3 else "no image for 3 of 3 samples"):
        make(tmp_path, "train")


@pytest.mark.parametrize("case", [case for case in CASES if case[:3] in ("voc", "con", "10k")])
def test_a_missing_split_list_is_named(case, tmp_path):
    write, make, _ = CASES[case]
    write(tmp_path)
    for path in tmp_path.rglob("train*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"train\.txt: no such split list|has the splits"):
        make(tmp_path, "train")


def overwrite(path: Path, raw: np.ndarray) -> None:
    if path.suffix == ".mat":
        mini.save_mat(path, S=raw, LabelMap=raw)
    else:
        mini.save_grey(path, raw)


@pytest.mark.parametrize("case", CASES)
def test_a_mask_of_another_size_or_with_unknown_labels_names_its_file(case, tmp_path):
    write, make, _ = CASES[case]
    write(tmp_path)
    reader = make(tmp_path, "train")
    path = Path(reader._files[0].mask)
    valid = 7 if "folder" in case else 1
    overwrite(path, np.full((24, 31), valid, np.uint16))
    with pytest.raises(DataError, match=r"\(24, 31\).*\(24, 32\)") as caught:
        reader.read(0)
    assert str(path) in str(caught.value)
    unknown = 12345 if path.suffix == ".mat" else 254
    overwrite(path, np.full((24, 32), unknown, np.uint16))
    with pytest.raises(DataError, match=rf"unknown labels \[{unknown}\], expected only ") as caught:
        reader.read(0)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_a_truncated_image_is_named(case, tmp_path):
    write, make, _ = CASES[case]
    write(tmp_path)
    reader = make(tmp_path, "train")
    path = Path(reader._files[0].image)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"not a readable image .*restore") as caught:
        reader.read(0)
    assert str(path) in str(caught.value)


def test_a_city_without_images_and_no_cities_are_named(tmp_path):
    mini.write_cityscapes(tmp_path)
    (tmp_path / "leftImg8bit" / "train" / "bonn").mkdir()
    with pytest.raises(DataError, match=r"bonn: no _leftImg8bit.png files"):
        Cityscapes(tmp_path, "train")
    shutil.rmtree(tmp_path / "leftImg8bit" / "train")
    (tmp_path / "leftImg8bit" / "train").mkdir()
    with pytest.raises(DataError, match="no folder of a city"):
        Cityscapes(tmp_path, "train")


def test_labels_of_another_context_annotation_are_refused(tmp_path):
    mini.write_pascal_context(tmp_path)
    (tmp_path / "labels.txt").write_text("1: accordion\n3: aeroplane\n")
    with pytest.raises(DataError, match=r"labels\.txt: 'aeroplane' is label 3, expected 2"):
        PascalContext(tmp_path, "train")


def test_context_without_any_annotation(tmp_path):
    mini.write_pascal_context(tmp_path)
    shutil.rmtree(tmp_path / "trainval")
    with pytest.raises(DataError, match="no annotation of PASCAL Context"):
        PascalContext(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a\nb\n\n  c  \n", ["a", "b", "c"]),
        ("a  1\r\nb -1\r\n", ["a", "b"]),
        ("/JPEGImages/a.b.jpg /SegmentationClassAug/a.b.png\n", ["a.b"]),
        ("v1.5\nv1.6", ["v1.5", "v1.6"]),
    ],
)
def test_split_lists_in_their_various_forms(text, names, tmp_path):
    (tmp_path / "train.txt").write_bytes(text.encode())
    assert read_list(tmp_path / "train.txt", "layout") == names


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "names no image"), (b"a\nb\na\n", r"repeats \[a\]"), (b"\xff\xfe\x00", "not a readable list")],
)
def test_a_bad_split_list_is_named(content, match, tmp_path):
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read_list(tmp_path / "train.txt", "layout")
    assert "train.txt" in str(caught.value)


# -- through the configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_every_option_builds_on_its_miniature_and_yields_batches(name, tmp_path):
    write = WRITERS[name]
    root = tmp_path / name
    root.mkdir()
    truth = write(root)
    tiny = ["data.batch_size=2", "data.num_workers=0", "data.train_transform.crop_size=32"]
    config = load([f"data={name}", f"data.root={root}", f"run_dir={tmp_path}", *tiny])
    data = build_data(config)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32)
    assert batch["mask"].shape == (2, 32, 32)
    assert set(batch["mask"].unique().tolist()) <= {*range(data.spec.num_classes), 255}
    evaluated = [name for batch in data.val_dataloader() for name in batch["name"]]
    assert set(evaluated) == set(truth["test" if name == "coco_stuff_10k" else "val"])


def test_the_protocol_s_defaults(tmp_path):
    for name in WRITERS:
        config = load([f"data={name}", f"run_dir={tmp_path}"]).data
        crop = {"cityscapes": 769, "folder": 512}.get(name, 513)
        assert (config.train_transform.crop_size, config.batch_size, config.eval_batch_size) == (crop, 16, 1)
        assert config.train_transform.scale == [0.5, 2.0]
        assert config.root == os.path.abspath(f"{os.environ.get('HEMNET_DATA', 'data')}/{name}")


# --- real files ---------------------------------------------------------------------------------------------

VOC3 = Path(__file__).parents[4] / "shared" / "data" / "voc3"
DEVKIT = VOC3 / "VOCdevkit" / "VOC2012"


@pytest.mark.skipif(not VOC3.is_dir(), reason="the three photographs of PASCAL VOC are not here")
@pytest.mark.parametrize(
    ("split", "names", "shown"),
    [
        ("train", ["2011_000003", "2011_000025"], {"person", "bottle", "bus", "car"}),
        ("val", ["2011_000006"], {"person", "chair", "sofa"}),
    ],
)
@pytest.mark.parametrize("reader", [VOC, VOCAug])
def test_real_files_of_pascal_voc(reader: type, split: str, names: list[str], shown: set[str]) -> None:
    """Photographs and palette masks as they were published, against what an image viewer says of them."""
    found = reader(VOC3, split)
    samples = [found.read(i) for i in range(len(found))]
    assert [sample.name for sample in samples] == names
    for sample in samples:
        with Image.open(DEVKIT / "JPEGImages" / f"{sample.name}.jpg") as photo:
            # Two decoders of JPEG may round a value differently.
            np.testing.assert_allclose(sample.image_HWC.astype(int), np.asarray(photo, int), atol=2)
        with Image.open(DEVKIT / "SegmentationClass" / f"{sample.name}.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(sample.mask_HW, np.asarray(mask))
        assert 255 in sample.mask_HW
    seen = {int(k) for sample in samples for k in np.unique(sample.mask_HW)}
    assert {found.spec.classes[k] for k in seen - {0, 255}} == shown


@pytest.mark.skipif(not VOC3.is_dir(), reason="the three photographs of PASCAL VOC are not here")
@pytest.mark.parametrize("name", ["voc", "voc_aug"])
def test_batches_of_real_files_of_pascal_voc(name: str, tmp_path: Path) -> None:
    config = load([f"data={name}", f"data.root={VOC3}", "data.batch_size=2", "data.num_workers=0",
                   f"run_dir={tmp_path}", "logger=csv"])  # fmt: skip
    module = build_data(config)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (2, 3, 513, 513)
    assert {int(k) for k in batch["mask"].unique()} <= {*range(21), 255}
    whole = next(iter(module.val_dataloader()))
    assert whole["mask"].shape[1:] == (375, 500)
