import colorsys
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemnet.data.synthetic import TILE, Mosaic, walsh_tiles

CELLS, CLASSES, SIZE = 12, 6, 96
CELL = SIZE // CELLS


@cache
def cells_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (images, cells, CELL, CELL, 3) and classes (images, cells) of the default mosaic."""
    reader = Mosaic("train", count)
    samples = [reader.read(i) for i in range(count)]
    images = np.stack([s.image_HWC for s in samples]).astype(np.float64)
    pixels = images.reshape(count, CELLS, CELL, CELLS, CELL, 3).swapaxes(2, 3)
    classes = np.stack([s.mask_HW[::CELL, ::CELL] for s in samples])
    return pixels.reshape(count, CELLS**2, CELL, CELL, 3), classes.reshape(count, CELLS**2)


def filter_responses(pixels: np.ndarray) -> np.ndarray:
    """Correlation of each cell's luminance with each class's texture, (images, cells, classes)."""
    luminance = pixels.mean(axis=-1)
    luminance -= luminance.mean(axis=(-1, -2), keepdims=True)
    textures = np.tile(walsh_tiles(CLASSES), (1, CELL // TILE, CELL // TILE))
    return np.einsum("icyx,kyx->ick", luminance, textures)


def chance_of_a_hit(separation: float) -> float:
    """Chance that of 6 unit normals the one that is shifted is greatest: integral of phi(x - d) Phi(x)^5."""
    x = np.linspace(-8, 16, 4001)
    density = np.exp(-((x - separation) ** 2) / 2) / np.sqrt(2 * np.pi)
    others = np.array([0.5 * (1 + math.erf(value / np.sqrt(2))) for value in x]) ** (CLASSES - 1)
    return float((density * others).sum() * (x[1] - x[0]))


def test_one_cell_says_little_and_one_colour_says_all():
    pixels, classes = cells_of(60)
    responses = filter_responses(pixels)
    alone = (responses.argmax(-1) == classes).mean()
    # Group by what can be seen, the mean colour: the first cell of each class lends its colour.
    colors = pixels.mean(axis=(2, 3))
    right = []
    for color, response, truth in zip(colors, responses, classes, strict=True):
        anchors = color[[np.flatnonzero(truth == k)[0] for k in range(CLASSES)]]
        group = np.linalg.norm(color[:, None] - anchors, axis=-1).argmin(-1)
        assert np.array_equal(group, truth)  # colour tells the groups apart without an error
        pooled = np.stack([response[group == g].sum(0) for g in range(CLASSES)]).argmax(-1)
        right.append(pooled == np.arange(CLASSES))
    separation = 2.0 * CELL * np.sqrt(3) / 28.0
    # 8640 cells: a standard error of 0.0054. Rounding adds 1/12 to a variance of 784, which is nothing.
    assert abs(alone - chance_of_a_hit(separation)) < 4 * 0.0054
    assert 0.4 < alone < 0.5
    # 360 groups of 24 cells, each wrong with probability 0.0014: 5 errors or more have a chance of 2e-4.
    assert chance_of_a_hit(separation * np.sqrt(24)) > 0.998
    assert np.sum(~np.concatenate(right)) < 5


def hues_of(count: int) -> np.ndarray:
    """Hue in 0..1 of each class in each image, (images, classes)."""
    reader = Mosaic("train", count, size=16, cells=4, noise=1e-3, contrast=1e-3)
    samples = [reader.read(i) for i in range(count)]
    colors = [[s.image_HWC[s.mask_HW == k][0] / 255 for k in range(CLASSES)] for s in samples]
    return np.array([[colorsys.rgb_to_hsv(*color)[0] for color in image] for image in colors])


def test_the_arrangement_of_the_colours_says_nothing_about_the_classes():
    count = 600
    hues = hues_of(count)
    # How many sixths of the circle class k lies after class 0: 1..5, each as likely.
    steps = np.rint((hues[:, 1:] - hues[:, :1]) * CLASSES).astype(int) % CLASSES
    for k in range(CLASSES - 1):
        counts = np.bincount(steps[:, k], minlength=CLASSES)
        assert counts[0] == 0
        # Chi-square with 4 degrees of freedom has a standard deviation of 2.8.
        assert ((counts[1:] - count / 5) ** 2 / (count / 5)).sum() < 4 + 5 * 2.8


def test_colour_says_nothing_about_the_class_across_images():
    bins = 12
    table = np.zeros((bins, CLASSES))
    for image in hues_of(600):
        for k, hue in enumerate(image):
            table[int(hue * bins) % bins, k] += 1
    # Chi-square of independence, 11 * 5 = 55 degrees of freedom, standard deviation sqrt(110) = 10.5.
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 55 + 5 * 10.5


def test_position_says_nothing_about_the_class_across_images():
    _, classes = cells_of(600)
    counts = np.stack([(classes == k).sum(0) for k in range(CLASSES)])
    # 144 cells with 5 degrees of freedom each: mean 720, standard deviation sqrt(1440) = 38.
    assert ((counts - 100) ** 2 / 100).sum() < 720 + 5 * 38


def test_mean_and_spread_of_a_cell_say_nothing_about_its_class():
    pixels, classes = cells_of(600)
    for statistic in (pixels.mean(axis=(2, 3, 4)), pixels.mean(-1).std(axis=(2, 3))):
        means = np.array([statistic[classes == k].mean() for k in range(CLASSES)])
        # 14400 cells a class, but the colour, of which there are only 600 a class, rules the spread.
        assert np.ptp(means) < 6 * statistic.std() / np.sqrt(600)


@given(st.integers(1, 15))
def test_tiles_are_orthogonal_and_balanced(count):
    flat = walsh_tiles(count).reshape(count, TILE**2)
    assert np.array_equal(flat @ flat.T, TILE**2 * np.eye(count))
    assert np.array_equal(flat.sum(1), np.zeros(count))
    assert set(np.unique(flat)) == {-1.0, 1.0}


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
    options = {"size": cells * scale * TILE, "cells": cells, "num_classes": num_classes, "seed": seed}
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
    ("options", "match"),
    [
        ({"split": "training"}, "split must be one of"),
        ({"length": 0}, "length >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"size": 100}, "multiple of 4 [*] cells"),
        ({"cells": 0}, "cells=0"),
        ({"num_classes": 1}, "2..15"),
        ({"num_classes": 16}, "2..15"),
        ({"num_classes": 5, "cells": 2}, "at most"),
        ({"noise": 0}, "noise and contrast"),
        ({"contrast": -1}, "noise and contrast"),
    ],
)
def test_bad_arguments_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Mosaic(**({"split": "train", "length": 1} | options))


@pytest.mark.parametrize("index", [-1, 2])
def test_index_out_of_range(index):
    with pytest.raises(IndexError, match="out of range for 2 images"):
        Mosaic("train", 2).read(index)
