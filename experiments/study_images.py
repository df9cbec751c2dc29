"""Intervals over images, and over seeds and images: a bootstrap of the difference of two settings' mIoU.

A score is the mIoU of a whole split, which is no mean over images. So images are drawn with replacement, and
the score is computed anew from their pixels, as `counts.csv` of an evaluation has them. One draw serves all
runs, so the difference is paired by image as by seed. Where seeds are drawn too, one less is drawn than there
are, since the variance of the mean of n - 1 draws is the unbiased one of the mean of n seeds.

Shapes: S seeds, N images, K classes, R draws.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hemnet.errors import HemnetError
from hemnet.report.estimates import LEVEL
from hemnet.runs.evaluations import COUNTS
from hemnet.runs.metrics_csv import is_cut
from hemnet.storage.files import read_table

DRAWS = 10_000


class Counted(NamedTuple):
    """An evaluation by images, in the order of their names: pixels in truth and prediction, and in either.

    The classes are those that occur; one that is missing counts in no score.
    """

    images: tuple[str, ...]
    hit_NK: np.ndarray
    either_NK: np.ndarray


class Interval(NamedTuple):
    """A difference of mIoU, first less second, mean over the seeds, and its percentile intervals.

    Attributes:
        seeds: how many both sides have.
        images: how many the evaluations have.
        difference: over all images.
        over_images: images drawn, the seeds as they are.
        over_blocks: likewise, in blocks of neighbours.
        over_both: seeds and images drawn; None for one seed.
    """

    seeds: int
    images: int
    difference: float
    over_images: tuple[float, float]
    over_blocks: tuple[float, float]
    over_both: tuple[float, float] | None


def read_counts(path: Path) -> Counted | None:
    """Return counts.csv of an evaluation; None if there is none.

    Raises:
        HemnetError: it was cut short, or a row lacks a cell, has one that is no number, or more pixels in the
            intersection than in the union.
    """
    rows = read_table(path)
    if not rows:
        return None
    try:
        if is_cut(path):
            raise ValueError("its last row was cut short")
        images, classes = (tuple(sorted({row[name] for row in rows})) for name in ("image", "class"))
        place = {name: i for names in (images, classes) for i, name in enumerate(names)}
        found = np.zeros((2, len(images), len(classes)), np.int64)
        for row in rows:
            hit, either, pixels = (int(row[name]) for name in COUNTS[2:])
            if not 0 <= hit <= pixels <= either:
                raise ValueError(
                    f"a row has {hit} pixels in both, {pixels} in the truth and {either} in either"
                )
            found[:, place[row["image"]], place[row["class"]]] = hit, either
        return Counted(images, *found)
    except (LookupError, ValueError) as error:
        raise HemnetError(f"{path} is no whole counts.csv ({error!r}): evaluate its run again") from error


def miou(weights_RN: np.ndarray, counted: Counted) -> np.ndarray:
    """Return the mIoU, (R,), of splits in which each image occurs so often; absent classes do not count."""
    weights_RN = weights_RN.astype(float)  # whole numbers below 2^53 are exact, and products are BLAS's
    hit_RK, either_RK = weights_RN @ counted.hit_NK, weights_RN @ counted.either_NK
    iou_RK = np.divide(hit_RK, either_RK, out=np.full(hit_RK.shape, np.nan), where=either_RK > 0)
    return np.nanmean(iou_RK, axis=1)


def drawn(images: int, block: int, generator: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Return how often each image is drawn, (R, N), rows summing to N.

    Args:
        images: N.
        block: how many neighbours are drawn together; the last image and the first are neighbours.
        generator: of the draws.
        draws: R.
    """
    starts = generator.integers(images, size=(draws, -(-images // block)))
    chosen = ((starts[:, :, None] + np.arange(block)) % images).reshape(draws, -1)[:, :images]
    flat = chosen + images * np.arange(draws)[:, None]
    return np.bincount(flat.ravel(), minlength=draws * images).reshape(draws, images)


def over_images(
    first: Mapping[int, Counted], second: Mapping[int, Counted], *, block: int = 10, draws: int = DRAWS
) -> Interval | None:
    """Return the difference of two settings, each an evaluation per seed; None without a common seed.

    The evaluations are of the same images.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    sides = [*(first[seed] for seed in seeds), *(second[seed] for seed in seeds)]
    images = len(sides[0].images)
    generator = np.random.default_rng(0)

    def differences(weights_RN: np.ndarray) -> np.ndarray:
        return np.stack([miou(weights_RN, first[s]) - miou(weights_RN, second[s]) for s in seeds], axis=1)

    whole_1S = differences(np.ones((1, images), np.int64))
    single_RS, blocks_RS = (differences(drawn(images, size, generator, draws)) for size in (1, block))
    both = None
    if len(seeds) > 1:
        which_RS = generator.integers(len(seeds), size=(draws, len(seeds) - 1))
        both = _interval(np.take_along_axis(single_RS, which_RS, axis=1))
    return Interval(
        len(seeds), images, float(whole_1S.mean()), _interval(single_RS), _interval(blocks_RS), both
    )


def _interval(differences_RS: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(differences_RS.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
