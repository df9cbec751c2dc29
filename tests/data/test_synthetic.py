import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemnet.data.synthetic import Mosaic

CELLS, CLASSES, SIZE, STEP, SPREAD = 8, 4, 128, 16.0, 20.0
CELL = SIZE // CELLS


@cache
def cells_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours (images, cells, 3) and classes (images, cells) of the default mosaic."""
    reader = Mosaic("train", count)
    samples = [reader.read(i) for i in range(count)]
    images = np.stack([s.image_HWC for s in samples]).astype(np.float64)
    colors = images.reshape(count, CELLS, CELL, CELLS, CELL, 3).mean(axis=(2, 4))
    classes = np.stack([s.mask_HW[::CELL, ::CELL] for s in samples])
    return colors.reshape(count, CELLS**2, 3), classes.reshape(count, CELLS**2)


def chance_of_a_hit(separation: float) -> float:
    """Chance to name one of K equally spaced, equally likely unit normals by the nearest mean."""
    inner = math.erf(separation / 2 / math.sqrt(2))  # both neighbours may take over
    outer = (1 + inner) / 2
    return (2 * outer + (CLASSES - 2) * inner) / CLASSES


def nearest_class(shade: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((shade - 128) / STEP + (CLASSES - 1) / 2), 0, CLASSES - 1).astype(int)


def test_one_cell_says_little_and_one_colour_says_most():
    colors, classes = cells_of(200)
    shades = colors.mean(-1)
    alone = (nearest_class(shades) == classes).mean()
    # 12800 cells: a standard error of 0.0044. The pixels' noise adds 10²/(3·16²) to a variance of 400, which
    # is nothing, and no other feature of a cell is told by its class: see the tests below.
    assert chance_of_a_hit(STEP / SPREAD) == pytest.approx(0.483, abs=1e-3)
    assert abs(alone - chance_of_a_hit(STEP / SPREAD)) < 4 * 0.0044
    right = []
    for color, shade, truth in zip(colors, shades, classes, strict=True):
        # Group by what can be seen, the hue: the first cell of each class lends its own.
        hue = color - shade[:, None]
        anchors = hue[[np.flatnonzero(truth == k)[0] for k in range(CLASSES)]]
        group = np.linalg.norm(hue[:, None] - anchors, axis=-1).argmin(-1)
        assert np.array_equal(group, truth)  # hue tells the groups apart without an error
        pooled = np.array([shade[group == g].mean() for g in range(CLASSES)])
        right.append(nearest_class(pooled) == np.arange(CLASSES))
    # 800 groups of 16 cells: a standard error of 0.0097.
    assert abs(np.mean(right) - chance_of_a_hit(STEP / SPREAD * 4)) < 4 * 0.0097
    assert np.mean(right) > 0.88


def hues_of(count: int) -> np.ndarray:
    """Which of the K hues each class has in each image, (images, classes)."""
    reader = Mosaic("train", count, size=4, cells=4, noise=0.0, spread=1e-3, step=1e-3)
    angles = []
    for i in range(count):
        image, mask, _ = reader.read(i)
        red, green, blue = np.stack([image[mask == k][0] for k in range(CLASSES)]).astype(float).T
        angles.append(np.arctan2((red + green - 2 * blue) / math.sqrt(6), (red - green) / math.sqrt(2)))
    return np.rint(np.array(angles) / (2 * np.pi) * CLASSES).astype(int) % CLASSES


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


def test_hues_are_equally_bright():
    image, mask, _ = Mosaic("train", 1, size=4, cells=4, noise=0.0, spread=1e-3, step=1e-3).read(0)
    brightness = [image[mask == k][0].mean() for k in range(CLASSES)]
    assert np.ptp(brightness) <= 1  # three roundings of up to a half each, averaged, on either side


def test_position_says_nothing_about_the_class_across_images():
    _, classes = cells_of(200)
    counts = np.stack([(classes == k).sum(0) for k in range(CLASSES)])
    # 64 cells with 3 degrees of freedom each: mean 192, standard deviation sqrt(384) = 20.
    assert ((counts - 50) ** 2 / 50).sum() < 192 + 5 * 20


def test_hardly_a_pixel_is_clipped():
    reader = Mosaic("train", 20)
    images = np.stack([reader.read(i).image_HWC for i in range(20)])
    # The darkest shade, -24, must fall a further 128 - 57 - 24 = 47 grey levels: 2.1 standard deviations of
    # 22.4, for one hue in four and one class in four, in one channel of three.
    assert ((images == 0) | (images == 255)).mean() < 0.01


@settings(max_examples=25)
@given(
    cells=st.integers(2, 6),
    scale=st.integers(1, 5),
    num_classes=st.integers(2, 4),
    seed=st.integers(0, 2**40),
    split=st.sampled_from(["train", "val", "test"]),
)
def test_samples_have_every_class_evenly_and_are_the_same_when_read_again(
    cells, scale, num_classes, seed, split
):
    options = {"size": cells * scale, "cells": cells, "num_classes": num_classes, "seed": seed}
    sample, again = (Mosaic(split, 3, **options).read(2) for _ in range(2))
    assert sample.name == again.name == f"{split}-00002"
    assert np.array_equal(sample.image_HWC, again.image_HWC)
    assert np.array_equal(sample.mask_HW, again.mask_HW)
    assert sample.image_HWC.shape == (options["size"], options["size"], 3)
    assert sample.image_HWC.dtype == sample.mask_HW.dtype == np.uint8
    counts = np.bincount(sample.mask_HW.ravel(), minlength=num_classes) // scale**2
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
        ({"num_classes": 13}, "num_classes"),
        ({"num_classes": 5, "cells": 2}, "num_classes"),
        ({"step": 0.0}, "step"),
        ({"spread": -1.0}, "spread"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_an_argument_out_of_range_is_named(options, named):
    with pytest.raises(ValueError, match=f"Mosaic: .*{named}"):
        Mosaic(**{"split": "train", "length": 1, **options})


def test_an_index_out_of_range_is_named():
    with pytest.raises(IndexError, match="index 2"):
        Mosaic("train", 2).read(2)
