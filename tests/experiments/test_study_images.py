"""experiments/study_images.py against every possible draw, pixels counted apart, and known variances."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from study_images import Counted, drawn, miou, over_images, read_counts

from hemnet.errors import HemnetError
from hemnet.runs.evaluations import COUNTS
from hemnet.storage.files import write_table


def evaluated(rng: np.random.Generator, images: int, classes: int = 3, good: float = 0.5) -> Counted:
    """Images of 20 pixels a class, a random part of them right; some classes are absent from some images."""
    either_NK = rng.integers(0, 20, (images, classes))
    names = tuple(f"{n:03d}" for n in range(images))
    return Counted(names, rng.binomial(either_NK, good), either_NK)


def slow_miou(which: list[int], counted: Counted) -> Fraction:
    """In fractions, image by image."""
    found = []
    for k in range(counted.hit_NK.shape[1]):
        either = sum(int(counted.either_NK[n, k]) for n in which)
        if either:
            found.append(Fraction(sum(int(counted.hit_NK[n, k]) for n in which), either))
    return sum(found, Fraction()) / len(found)


def test_a_split_of_drawn_images_is_scored_as_a_split() -> None:
    rng = np.random.default_rng(0)
    counted = evaluated(rng, 6)
    counted.hit_NK[:, 2] = counted.either_NK[:, 2] = [0, 0, 0, 0, 0, 9]  # absent from most draws
    weights_RN = drawn(6, 1, rng, 200)
    for weights_N, score in zip(weights_RN, miou(weights_RN, counted), strict=True):
        which = np.repeat(np.arange(6), weights_N).tolist()
        assert score == pytest.approx(float(slow_miou(which, counted)), rel=1e-12)


def test_the_intervals_are_the_quantiles_of_every_possible_draw() -> None:
    """Four images and three seeds: 256 draws of images, times 9 of two seeds, all equally likely."""
    rng = np.random.default_rng(1)
    first, second = ({seed: evaluated(rng, 4, good=good) for seed in range(3)} for good in (0.6, 0.5))
    table = [
        [float(slow_miou(list(which), first[s]) - slow_miou(list(which), second[s])) for s in range(3)]
        for which in product(range(4), repeat=4)
    ]
    images = np.mean(table, axis=1)
    both = [(row[i] + row[j]) / 2 for row in table for i, j in product(range(3), repeat=2)]
    found = over_images(first, second, draws=200_000)
    whole = [float(slow_miou([0, 1, 2, 3], first[s]) - slow_miou([0, 1, 2, 3], second[s])) for s in range(3)]
    assert (found.seeds, found.images) == (3, 4)
    assert found.difference == pytest.approx(np.mean(whole), rel=1e-12)
    # A quantile of 200 000 draws is that of a share within 0.001 of 0.025: three standard errors.
    for interval, every in ((found.over_images, images), (found.over_both, both)):
        for share, value in zip((0.025, 0.975), interval, strict=True):
            low, high = np.quantile(every, [share - 0.001, share + 0.001])
            assert low - 1e-12 <= value <= high + 1e-12


def test_neighbours_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    assert (drawn(7, 3, rng, 50).sum(axis=1) == 7).all()
    weights_RN = drawn(6, 3, rng, 4000)
    starts = [tuple((np.isin(np.arange(6), [(s + i) % 6 for i in range(3)])).astype(int)) for s in range(6)]
    possible = {tuple(np.add(one, other)) for one, other in product(starts, repeat=2)}
    assert {tuple(row) for row in weights_RN.tolist()} == possible
    # In a draw of one image the others are drawn as often as in any: (1 - 1/6)^6 of the draws miss an image.
    assert (drawn(6, 1, rng, 20_000)[:, 0] == 0).mean() == pytest.approx((5 / 6) ** 6, abs=0.01)
    assert (weights_RN[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_seeds_that_are_drawn_vary_as_their_mean_does() -> None:
    """Each image alike, so that only seeds vary: the spread is the standard error of a mean of n seeds."""
    gains = np.array([0.01, 0.03, 0.02, 0.07, 0.04])
    base = Counted(("a", "b"), np.full((2, 1), 5000), np.full((2, 1), 10_000))
    first = {s: base._replace(hit_NK=np.full((2, 1), 5000 + round(10_000 * g))) for s, g in enumerate(gains)}
    found = over_images(first, dict.fromkeys(range(5), base), draws=100_000)
    assert found.over_images == pytest.approx((0.034, 0.034))
    rng = np.random.default_rng(3)
    means = rng.choice(gains, (100_000, 4)).mean(axis=1)
    assert means.std() == pytest.approx(gains.std(ddof=1) / 5**0.5, rel=0.01)
    assert found.over_both == pytest.approx(np.quantile(means, (0.025, 0.975)), abs=1e-3)


def test_runs_are_paired_by_seed_and_by_image() -> None:
    rng = np.random.default_rng(4)
    second = {seed: evaluated(rng, 30) for seed in (0, 1, 5)}
    same = over_images({0: second[0], 1: second[1], 7: evaluated(rng, 30)}, second)
    assert same.seeds == 2
    assert same.difference == 0
    assert same.over_images == same.over_blocks == same.over_both == (0, 0)
    assert over_images({0: second[0]}, {1: second[1]}) is None
    assert over_images({0: second[0]}, {0: second[1]}).over_both is None
    other = {0: evaluated(rng, 30)}
    assert over_images(second, other) == over_images(second, other)  # the same draws each time


def test_the_counts_of_an_evaluation_are_read(tmp_path: Path) -> None:
    rows = [["b", "car", 3, 5, 4], ["a", "sky", 0, 2, 0], ["a", "car", 1, 1, 1]]
    write_table(tmp_path / "counts.csv", COUNTS, rows)
    found = read_counts(tmp_path / "counts.csv")
    assert found.images == ("a", "b")
    assert found.hit_NK.tolist() == [[1, 0], [3, 0]]
    assert found.either_NK.tolist() == [[1, 2], [5, 0]]
    assert read_counts(tmp_path / "none.csv") is None
    assert miou(np.ones((1, 2), int), found) == pytest.approx([(4 / 6 + 0) / 2])


@pytest.mark.parametrize(
    "damage",
    [
        ("a,car,1,2", "a,car,1,"), ("a,car,1,2", "a,car,x,2"), ("a,car", ",car"), ("class", "kind"),
        ("1,2,2\n", "1,2,2"), ("1,2,2\n", "1,2"), ("1,2,2", "2,1,2"), ("1,2,2", "-1,2,2"), ("1,2,2", "1,2,3"),
    ],
)  # fmt: skip
def test_counts_that_are_damaged_are_named(tmp_path: Path, damage: tuple[str, str]) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("image,class,intersection,union,pixels\na,car,1,2,2\n".replace(*damage))
    with pytest.raises(HemnetError, match=r"counts\.csv is no whole counts\.csv .*: evaluate its run again"):
        read_counts(path)
