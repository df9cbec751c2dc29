"""The merged annotation of PASCAL Context, turned into masks."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from _helpers import miniatures as mini
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hemnet.data import PascalContext
from hemnet.data.sets.context_json import decode_runs, write_masks
from hemnet.data.spec import DataError


def encode(mask_HW: np.ndarray) -> str:
    """COCO's compressed run lengths, one pixel at a time."""
    runs, last = [0], False
    for pixel in mask_HW.T.ravel().tolist():
        if pixel != last:
            runs.append(0)
            last = pixel
        runs[-1] += 1
    text = ""
    for i, run in enumerate(runs):
        rest = run - (runs[i - 2] if i > 2 else 0)
        while True:
            low, rest = rest % 32, rest // 32
            done = rest == (-1 if low >= 16 else 0)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)))
def test_runs_are_decoded_as_they_were_encoded(mask_HW):
    assert np.array_equal(decode_runs(encode(mask_HW), *mask_HW.shape), mask_HW)


@pytest.mark.parametrize("density", [0.001, 0.03, 0.5, 0.999])
def test_long_and_short_runs(density):
    mask_HW = np.random.default_rng(0).random((200, 150)) < density
    assert np.array_equal(decode_runs(encode(mask_HW), 200, 150), mask_HW)


def test_a_mask_worked_out_by_hand():
    # Down the columns: 6 zeros, 2 ones, 3 zeros, 1 one.
    mask_HW = np.array([[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1]], bool)
    # The first three as they are, then 1 - 2 = -1: all five low bits, of which the highest is the sign.
    assert np.array_equal(decode_runs("623" + chr(79), 4, 3), mask_HW)


@given(text=st.text(max_size=20))
def test_nonsense_is_refused_or_fills_the_mask(text):
    with suppress(DataError):
        assert decode_runs(text, 3, 4).shape == (3, 4)


def write_annotation(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Two images a split: label 2 (aeroplane) left, 458 (wood) right, 1 (accordion, of no class) on top."""
    truth, images, segments = {"train": {}, "val": {}}, [], []
    for split in truth:
        for i in range(2):
            number = 2008000000 + 100 * len(split) + i
            left = np.zeros((24 + i, 32), bool)
            left[:, :10] = True
            right = ~left
            right[:5] = False
            images.append({"image_id": number, "height": 24 + i, "width": 32, "phase": split})
            segments += [
                {
                    "image_id": number,
                    "category_id": label,
                    "segmentation": {"size": [], "counts": encode(mask)},
                }
                for label, mask in ((2, left), (458, right), (1, ~(left | right)))
            ]
            truth[split][f"2008_{number % 1000000:06d}"] = np.where(left, 0, np.where(right, 58, 255))
    path.write_text(json.dumps({"images": images, "annos_segmentation": segments}))
    return truth


def test_the_command_writes_what_the_reader_reads(tmp_path):
    annotation, devkit = tmp_path / "trainval_merged.json", tmp_path / "VOC2010"
    truth = write_annotation(annotation)
    for raw_of in truth.values():
        for name, raw in raw_of.items():
            mini.save_jpeg(devkit / "JPEGImages" / f"{name}.jpg", raw.shape)
    with pytest.raises(DataError, match=r"once: python -m hemnet\.data\.sets\.context_json") as caught:
        PascalContext(tmp_path, "train")
    command = str(caught.value).partition("once: python ")[2].split()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote the masks of 2 training and 2 validation images\n"
    for split, expected_of in truth.items():
        reader = PascalContext(tmp_path, split)
        for sample in map(reader.read, range(2)):
            assert np.array_equal(sample.mask_HW, expected_of[sample.name])
    with pytest.raises(DataError, match="SegmentationClassContext already exists"):
        write_masks(annotation, devkit)


def about(category: int = 2, **changes: object) -> str:
    image = {"image_id": 2008000002, "height": 1, "width": 1, "phase": "train"} | changes
    segment = {"image_id": image["image_id"], "category_id": category, "segmentation": {"counts": "01"}}
    return json.dumps({"images": [image], "annos_segmentation": [segment]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"images": [], "annos_segmentation": [{}]}',
        None,
        "corrupt runs",
        "[" * 200_000,
        about(image_id="../../../escaped"),
        about(height=10**9),
        about(height=10**5, width=10**5),
        about(10**6),
        about(-1),
    ],
)
def test_a_wrong_file_leaves_nothing_behind(content, tmp_path):
    annotation, devkit = tmp_path / "a.json", tmp_path / "VOC2010"
    devkit.mkdir()
    if content == "corrupt runs":
        write_annotation(annotation)
        annotation.write_text(annotation.read_text().replace('"counts": "', '"counts": "9'))
    elif content is not None:
        annotation.write_text(content)
    with pytest.raises(DataError, match=r"a\.json: (no such file|not the annotation)"):
        write_masks(annotation, devkit)
    assert list(devkit.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"a.json", "VOC2010"}


def test_the_smallest_annotation_is_taken(tmp_path):
    (tmp_path / "a.json").write_text(about())
    (tmp_path / "VOC2010").mkdir()
    assert write_masks(tmp_path / "a.json", tmp_path / "VOC2010") == {"train": 1, "val": 0}
