"""Masks as annotation programs write them: labels, colours, palettes, names; what is no class is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemnet.data import DataError, Table
from hemnet.planning.classes import Classes, choose_classes
from hemnet.planning.labels import read_all
from hemnet.planning.pairs import Pair

LABELS = np.array([[0, 1, 2], [2, 1, 0]])


def save(path: Path, array: np.ndarray, palette: list[int] | None = None, mode: str | None = None) -> None:
    image = Image.fromarray(np.kron(array, np.ones((4, 4))).astype(np.uint8))
    if palette:
        image.putpalette(palette)
    (image.convert(mode) if mode else image).save(path)


def folder(root: Path, *masks: np.ndarray, **how: object) -> tuple[Path, list[Pair]]:
    """Write photographs of one size and these masks, values given."""
    pairs = []
    for i, values in enumerate(masks):
        Image.fromarray(np.full((8, 12, 3), 50 * i, np.uint8)).save(root / f"{i}.jpg")
        save(root / f"{i}.png", values, **how)  # type: ignore[arg-type]
        pairs.append(Pair(f"{i}.jpg", f"{i}.png", "train"))
    return root, pairs


def chosen(root: Path, pairs: list[Pair], *given: str):
    found = read_all(root, pairs)
    classes = choose_classes(root, found, given)
    table = root / "table.csv"
    table.write_text("split,image,mask\n" + "".join(f"train,{p.image},{p.mask}\n" for p in pairs))
    reader = Table(root, "train", classes.labels, table, classes.ignore or None)
    return classes, [reader.read(i).mask_HW[::4, ::4] for i in range(len(pairs))]


def read_and_choose(root: Path, pairs: list[Pair], *given: str) -> Classes:
    return choose_classes(root, read_all(root, pairs), given)


CONTENTS = {
    "contiguous": ([0, 1, 2], {"class_0": 0, "class_1": 1, "class_2": 2}, []),
    "from one": ([1, 2, 3], {"class_1": 1, "class_2": 2, "class_3": 3}, []),
    "with gaps": ([4, 7, 40], {"class_4": 4, "class_7": 7, "class_40": 40}, []),
    "255 of three": ([0, 3, 255], {"background": 0, "object": 3}, [255]),
    "254 is a label": ([0, 1, 254], {"class_0": 0, "class_1": 1, "class_254": 254}, []),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_labels_become_classes(content: str, tmp_path: Path) -> None:
    values, labels, ignore = CONTENTS[content]
    classes, masks = chosen(*folder(tmp_path, np.array(values)[LABELS], np.array(values)[LABELS[::-1]]))
    assert (classes.labels, classes.ignore) == (labels, ignore)
    expected = np.array([255 if v in ignore else [*labels.values()].index(v) for v in values])
    assert np.array_equal(masks[0], expected[LABELS])


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (0, 7)])
def test_two_labels_are_background_and_object_whatever_they_are(
    values: tuple[int, int], tmp_path: Path
) -> None:
    classes, masks = chosen(*folder(tmp_path, np.array(values)[LABELS % 2]))
    assert classes.labels == {"background": values[0], "object": values[1]}
    assert classes.ignore == []
    assert np.array_equal(masks[0], LABELS % 2)


def test_palette_masks_keep_their_indices_and_masks_with_palettes_of_their_own_are_read_by_colour(
    tmp_path: Path,
) -> None:
    colors = [0, 0, 0, 255, 0, 0, 0, 0, 255]
    for name in ("same", "other"):
        (tmp_path / name).mkdir()
    classes, masks = chosen(*folder(tmp_path / "same", LABELS, LABELS % 2, palette=colors))
    assert classes.labels == {"class_0": 0, "class_1": 1, "class_2": 2}
    assert np.array_equal(masks[1], LABELS % 2)
    root, pairs = folder(tmp_path / "other", LABELS, palette=colors)
    # The same picture, its colours numbered in another order.
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "1.jpg")
    save(root / "1.png", 2 - LABELS, [0, 0, 255, 255, 0, 0, 0, 0, 0])
    classes, masks = chosen(root, [*pairs, Pair("1.jpg", "1.png", "train")])
    assert classes.labels == {"class_000000": "#000000", "class_0000ff": "#0000ff", "class_ff0000": "#ff0000"}
    assert np.array_equal(masks[0], masks[1])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "LA"])
def test_masks_of_colours_and_of_one_bit_are_read(mode: str, tmp_path: Path) -> None:
    classes, masks = chosen(*folder(tmp_path, 255 * (LABELS % 2), mode=mode))
    assert classes.labels == {"background": "#000000", "object": "#ffffff"}
    assert np.array_equal(masks[0], LABELS % 2)


NAMES = {
    "classes.yaml": ("names: [sky, road]\nlabels: [1, 2]\nignore: 0\n", {"sky": 1, "road": 2}, [0]),
    "classes.txt": ("ground\nsky\nroad\n", {"ground": 0, "sky": 1, "road": 2}, []),
    "labels.txt": ("__ignore__\n_background_\nsky\nroad\n", {"background": 0, "sky": 1, "road": 2}, []),
    "labelmap.txt": ("# label:color_rgb:parts:actions\nsky:255,0,0::\nroad:0,0,255::\nground:0,0,0::\n",
                     {"ground": 0, "sky": 1, "road": 2}, []),
    "class_dict.csv": ("name, r, g, b\nsky,255,0,0\nroad,0,0,255\nground,0,0,0\n",
                       {"ground": 0, "sky": 1, "road": 2}, []),
    "_classes.csv": ("Pixel Value, Class\n0, ground\n1, sky\n2, road\n",
                     {"ground": 0, "sky": 1, "road": 2}, []),
}  # fmt: skip


@pytest.mark.parametrize("file", NAMES)
def test_names_are_read_from_the_files_of_annotation_programs(file: str, tmp_path: Path) -> None:
    text, labels, ignore = NAMES[file]
    (tmp_path / file).write_text(text)
    classes, _ = chosen(*folder(tmp_path, LABELS, palette=[0, 0, 0, 255, 0, 0, 0, 0, 255]))
    assert (classes.labels, classes.ignore) == (labels, ignore)
    assert f"the names of the classes are from {file}" in classes.notes


def test_the_user_names_labels_or_chooses_among_them(tmp_path: Path) -> None:
    root, pairs = folder(tmp_path, LABELS)
    assert chosen(root, pairs, "a", "b", "c")[0].labels == {"a": 0, "b": 1, "c": 2}
    classes, masks = chosen(root, pairs, "b=2", "a=0")
    assert (classes.labels, classes.ignore) == ({"b": 2, "a": 0}, "others")
    assert np.array_equal(masks[0], np.array([1, 255, 0])[LABELS])
    for given, said in (
        (["a", "b"], "2 names for 3 labels"), (["a=9"], "no mask in .* has this label; they have 0, 1, 2"),
        (["a=1", "b"], "as NAME=LABEL"), (["a=1", "b=1"], "give each class once"),
        (["a", "a", "b"], "repeat"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            chosen(root, pairs, *given)


def test_smoothed_edges_are_told_from_classes_and_can_be_left_out(tmp_path: Path) -> None:
    root, pairs = folder(tmp_path, LABELS)
    disc = np.zeros((64, 64), np.uint8)
    disc[20:45, 20:45] = 255
    smooth = np.asarray(Image.fromarray(disc).rotate(30, Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(root / "0.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(root / "0.jpg")
    assert 10 < len(np.unique(smooth)) < 64
    with pytest.raises(
        DataError,
        match=r"labels of the masks are nowhere more than a line .*--classes 'class_0=0' 'class_255=255'",
    ):
        read_and_choose(root, pairs)
    classes = read_and_choose(root, pairs, "paper=0", "ink=255")
    assert (classes.labels, classes.ignore) == ({"paper": 0, "ink": 255}, "others")
    assert "other labels" in classes.notes[0]


def test_many_labels_are_classes_if_they_are_numbered(tmp_path: Path) -> None:
    many = np.arange(100).reshape(10, 10)
    for values, said in ((many, None), (2 * many, "the masks have 100 labels .* too many for classes")):
        root, pairs = folder(tmp_path, values)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "0.jpg")
        if said is None:
            assert len(read_and_choose(root, pairs).labels) == 100
        else:
            with pytest.raises(DataError, match=said):
                read_and_choose(root, pairs)


def test_numbered_classes_may_be_lines_and_one_line_among_others_is_a_class(tmp_path: Path) -> None:
    lines = np.zeros((24, 24), np.uint8)
    for values in ((1, 2, 3), (7, 9)):
        mask = lines.copy()
        mask[10:20, 10:20] = 20 if len(values) == 2 else 4
        for i, value in enumerate(values):
            mask[2 * i + 1] = value
        root, pairs = folder(tmp_path, LABELS)
        Image.fromarray(mask).save(root / "0.png")
        Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(root / "0.jpg")
        assert {*values} < {*read_and_choose(root, pairs).labels.values()}


@pytest.mark.parametrize("levels", [(0, 127, 255), (0, 128, 255), (0, 85, 170, 255)])
def test_grey_levels_spread_evenly_are_classes_up_to_white(levels: tuple[int, ...], tmp_path: Path) -> None:
    values = np.array(levels)[np.arange(12).reshape(3, 4) % len(levels)]
    root, pairs = folder(tmp_path, values)
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(root / "0.jpg")
    classes, masks = chosen(root, pairs)
    assert ([*classes.labels.values()], classes.ignore) == ([*levels], [])
    assert 255 not in masks[0]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_class_spelled_in_two_ways_is_explained(mode: str, tmp_path: Path) -> None:
    binary = LABELS % 2
    root, pairs = folder(tmp_path, binary, 255 * binary, 255 * binary, mode=mode)
    with pytest.raises(
        DataError, match=r"1 mask with the label .* and 2 masks with .*, none with both: is one"
    ):
        read_and_choose(root, pairs)
    both = np.where(LABELS == 2, 255, LABELS)  # what does not count, beside what does
    assert len(read_and_choose(*folder(tmp_path, binary, both, 255 * binary, mode=mode)).labels) >= 2


def test_one_label_is_no_set_of_classes(tmp_path: Path) -> None:
    for value in (0, 255):
        with pytest.raises(
            DataError, match=f"every pixel of every mask has the label {value}, and a network"
        ):
            chosen(*folder(tmp_path, np.full((2, 3), value), np.full((2, 3), value)))


def test_every_file_that_cannot_be_used_is_named_with_its_cause(tmp_path: Path) -> None:
    root, pairs = folder(tmp_path, *[LABELS] * 6)
    (root / "1.jpg").write_bytes((root / "1.jpg").read_bytes()[:100])
    (root / "2.png").write_bytes(b"no image")
    save(root / "3.png", LABELS[:1])
    turned = Image.fromarray(np.zeros((8, 12, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(root / "4.jpg", exif=exif)
    Image.fromarray(np.zeros((8, 12), np.uint16)).save(root / "5.png")
    with pytest.raises(DataError) as caught:
        read_all(root, pairs)
    said = str(caught.value)
    assert said.startswith(f"{root}: 5 of 6 photographs cannot be used")
    for part in (
        "1.jpg: not a readable image", "2.png: not a readable image", "sizes must be equal",
        "4.jpg is (12, 8); the photograph is turned by what its EXIF", "5.png: a mask must have up to 8 bits",
    ):  # fmt: skip
        assert part in said


def test_values_of_a_palette_that_are_one_colour_count_together(tmp_path: Path) -> None:
    """Where palettes differ, labels are colours: here 1 and 2 of the first mask are both red."""
    _, pairs = folder(tmp_path, LABELS, LABELS)
    red, green, blue = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    save(tmp_path / "0.png", LABELS, palette=[0, 0, 0, *red, *red])
    save(tmp_path / "1.png", LABELS, palette=[0, 0, 0, *green, *blue])
    first, second = read_all(tmp_path, pairs).pixels
    assert first == {"#000000": 32, "#ff0000": 64}
    assert second == {"#000000": 32, "#00ff00": 32, "#0000ff": 32}
