import colorsys
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemnet.data.sets.synthetic import TILE, Mosaic, walsh_tiles

CELLS, CLASSES, SIZE, RELIABILITY = 8, 4, 192, 0.5
CELL = SIZE // CELLS


@cache
def cells_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (images, cells, CELL, CELL, 3) and classes (images, cells) of the default mosaic."""
    reader = Mosaic("train", count)
    samples = [reader.read(i) for i in range(count)]
    images = np.stack([s.image_HWC for s in samples]).astype(np.float32)
    pixels = images.reshape(count, CELLS, CELL, CELLS, CELL, 3).swapaxes(2, 3)
    classes = np.stack([s.mask_HW[::CELL, ::CELL] for s in samples])
    return pixels.reshape(count, CELLS**2, CELL, CELL, 3), classes.reshape(count, CELLS**2)


def texture_seen(pixels: np.ndarray) -> np.ndarray:
    """Which texture each cell shows, by matched filters on its brightness: (images, cells)."""
    tiles = np.kron(walsh_tiles(CLASSES), np.ones((CELL // TILE, CELL // TILE), np.float32))
    return np.einsum("icyx,kyx->ick", pixels.mean(-1), tiles).argmax(-1)


def chance_of_a_vote(cells: int) -> float:
    """Chance that the right texture wins among n cells, ties drawn by lot, from a million simulated votes."""
    odds = [RELIABILITY] + [(1 - RELIABILITY) / (CLASSES - 1)] * (CLASSES - 1)
    votes = np.random.default_rng(0).multinomial(cells, odds, size=1_000_000)
    most = votes.max(1)
    return float(((votes[:, 0] == most) / (votes == most[:, None]).sum(1)).mean())


def test_one_cell_says_little_and_one_colour_says_much():
    pixels, classes = cells_of(150)
    seen = texture_seen(pixels)
    # 9600 cells: a standard error of 0.0051 about the reliability, which bounds any reading of one cell.
    assert abs((seen == classes).mean() - RELIABILITY) < 4 * 0.0051
    # The other textures are shown as often as each other: a lie does not tell what it hides.
    lies = np.stack([((seen - classes) % CLASSES == k).mean() for k in range(1, CLASSES)])
    assert np.abs(lies - (1 - RELIABILITY) / (CLASSES - 1)).max() < 4 * 0.0038
    right = []
    for color, shown, truth in zip(pixels.mean(axis=(2, 3)), seen, classes, strict=True):
        # Group by what can be seen, the mean colour: the first cell of each class lends its own.
        anchors = color[[np.flatnonzero(truth == k)[0] for k in range(CLASSES)]]
        group = np.linalg.norm(color[:, None] - anchors, axis=-1).argmin(-1)
        assert np.array_equal(group, truth)  # colour tells the groups apart without an error
        votes = [np.bincount(shown[group == g], minlength=CLASSES) for g in range(CLASSES)]
        right += [(v[g] == v.max()) / (v == v.max()).sum() for g, v in enumerate(votes)]
    # 600 votes: a standard error of 0.012.
    assert chance_of_a_vote(16) == pytest.approx(0.903, abs=0.002)
    assert abs(np.mean(right) - chance_of_a_vote(16)) < 4 * 0.012


def hues_of(count: int) -> np.ndarray:
    """Which of the K hues each class has in each image, (images, classes)."""
    reader = Mosaic("train", count, size=16, cells=4, noise=0.0, contrast=1e-3)
    samples = [reader.read(i) for i in range(count)]
    colors = [[s.image_HWC[s.mask_HW == k][0] / 255 for k in range(CLASSES)] for s in samples]
    hues = np.array([[colorsys.rgb_to_hsv(*color)[0] for color in image] for image in colors])
    return np.rint(hues * CLASSES).astype(int) % CLASSES


def test_hue_says_nothing_about_the_class_across_images():
    count = 600
    hues = hues_of(count)
    assert (np.sort(hues, axis=1) == np.arange(CLASSES)).all()
    table = np.stack([np.bincount(hues[:, k], minlength=CLASSES) for k in range(CLASSES)])
    # Chi-square, 9 degrees of freedom: mean 9, standard deviation 4.2.
    assert ((table - count / CLASSES) ** 2 / (count / CLASSES)).sum() < 9 + 5 * 4.2
    # Nor does the order of the hues: all 24 are as likely; 23 degrees of freedom, standard deviation 6.8.
    orders = np.unique(hues @ CLASSES ** np.arange(CLASSES), return_counts=True)[1]
    assert len(orders) == 24
    assert ((orders - count / 24) ** 2 / (count / 24)).sum() < 23 + 5 * 6.8


@given(st.integers(1, 15))
def test_tiles_are_orthogonal_and_balanced(count):
    flat = walsh_tiles(count).reshape(count, TILE**2)
    assert np.array_equal(flat @ flat.T, TILE**2 * np.eye(count))
    assert np.array_equal(flat.sum(1), np.zeros(count))
    assert set(np.unique(flat)) == {-1.0, 1.0}


def test_position_says_nothing_about_the_class_across_images():
    _, classes = cells_of(150)
    counts = np.stack([(classes == k).sum(0) for k in range(CLASSES)])
    # 64 cells with 3 degrees of freedom each: mean 192, standard deviation sqrt(384) = 20.
    assert ((counts - 37.5) ** 2 / 37.5).sum() < 192 + 5 * 20


@settings(max_examples=25)
@given(
    cells=st.integers(2, 6),
    scale=st.integers(1, 3),
    num_classes=st.integers(2, 4),
    seed=st.integers(0, 2**40),
    split=st.sampled_from(["train", "val", "test"]),
)
def test_samples_have_every_class_evenly_and_are_the_same_when_read_again(
    cells, scale, num_classes, seed, split
):
    options = {
        "size": cells * scale * TILE,
        "cells": cells,
        "num_classes": num_classes,
        "reliability": 0.6,
        "seed": seed,
    }
    sample, again = (Mosaic(split, 3, **options).read(2) for _ in range(2))
    assert sample.name == again.name == f"{split}-00002"
    assert np.array_equal(sample.image_HWC, again.image_HWC)
    assert np.array_equal(sample.mask_HW, again.mask_HW)
    assert sample.image_HWC.shape == (options["size"], options["size"], 3)
    assert sample.image_HWC.dtype == sample.mask_HW.dtype == np.uint8
    counts = np.bincount(sample.mask_HW.ravel(), minlength=num_classes) // (scale * TILE) ** 2
    assert counts.size == num_classes
    assert counts.sum() == cells**2
    assert np.ptp(counts) <= 1


def test_splits_seeds_and_indices_give_different_images():
    drawn = [
        Mosaic(split, 3, seed=seed).read(index).image_HWC.tobytes()
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for index in range(3)
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"split": "trian"}, "split"),
        ({"length": 0}, "length"),
        ({"seed": -1}, "seed"),
        ({"size": 100}, "size"),
        ({"cells": 0}, "size"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 16}, "num_classes"),
        ({"num_classes": 5, "cells": 2}, "num_classes"),
        ({"reliability": 0.25}, "reliability"),
        ({"reliability": 1.1}, "reliability"),
        ({"contrast": 0.0}, "contrast"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_an_argument_out_of_range_is_named(options, named):
    with pytest.raises(ValueError, match=f"Mosaic: .*{named}"):
        Mosaic(**{"split": "train", "length": 1, **options})


def test_an_index_out_of_range_is_named():
    with pytest.raises(IndexError, match="index 2"):
        Mosaic("train", 2).read(2)
