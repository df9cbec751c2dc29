"""Splits deal every class to both parts, by shares, in whole groups, and the same again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemnet.data import DataError
from hemnet.planning.splitting import choose_val, groups_of


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    groups, classes = draw(st.integers(2, 40)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images_G = rng.integers(1, 5, groups)
    return rng.binomial(images_G[:, None], rng.random(classes) ** 3, (groups, classes)), images_G


@given(problems(), st.integers(0, 9))
def test_both_parts_have_groups_and_the_seed_decides(problem, seed) -> None:
    has_class_GK, images_G = problem
    val_G = choose_val(has_class_GK, images_G, 0.2, seed)
    assert 0 < val_G.sum() < len(images_G)
    assert np.array_equal(val_G, choose_val(has_class_GK, images_G, 0.2, seed))


@given(st.lists(st.integers(2, 30), min_size=1, max_size=12), st.integers(0, 9))
def test_a_class_of_two_images_is_in_both_parts(counts, seed) -> None:
    """Of images with one class each."""
    has_class_GK = np.eye(len(counts), dtype=int).repeat(counts, 0)
    val_G = choose_val(has_class_GK, np.ones(len(has_class_GK), int), 0.2, seed)
    in_val_K, in_train_K = has_class_GK[val_G].sum(0), has_class_GK[~val_G].sum(0)
    assert (in_val_K > 0).all()
    assert (in_train_K > 0).all()
    assert (np.abs(in_val_K - np.maximum(0.2 * np.array(counts), 1)) <= 1).all()


def test_a_class_of_one_image_is_for_training() -> None:
    has_class_GK = np.ones((10, 2), int)
    has_class_GK[:9, 1] = 0
    for seed in range(20):
        assert not choose_val(has_class_GK, np.ones(10, int), 0.3, seed)[9]


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_shares_are_near_those_asked_for_where_random_ones_are_not(seed) -> None:
    rng = np.random.default_rng(seed)
    has_class_GK = (rng.random((50, 6)) < [0.95, 0.6, 0.4, 0.2, 0.1, 0.08]).astype(int)
    has_class_GK[rng.permutation(50)[:2]] |= 1  # no class in fewer than two images
    val_G = choose_val(has_class_GK, np.ones(50, int), 0.2, seed)
    assert 8 <= val_G.sum() <= 12
    wanted_K = 0.2 * has_class_GK.sum(0)
    assert (np.abs(has_class_GK[val_G].sum(0) - wanted_K) <= 3).all()
    assert (has_class_GK[val_G].sum(0) > 0).all()
    assert (has_class_GK[~val_G].sum(0) > 0).all()


def test_groups_are_what_a_pattern_finds() -> None:
    names = ["a_1.jpg", "a_2.jpg", "b_1.jpg"]
    assert groups_of(names, None) == names
    assert groups_of(names, r"(.*)_\d") == ["a", "a", "b"]
    assert groups_of(names, r"^.") == ["a", "a", "b"]
    for pattern, said in (
        ("(", "no regular expression"), ("x", "matches nothing in 3 names"), ("jpg", "one group"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            groups_of(names, pattern)
