"""What the page is given is what was measured, up to the stated rounding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hemnet.explore.packing import coded, decoded, packed, unpacked


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, max_side=6)))
def test_unpacking_gives_what_was_packed(array: np.ndarray) -> None:
    text = packed(array)
    assert text["shape"] == list(array.shape)
    np.testing.assert_array_equal(unpacked(text), array)


def test_successive_maps_that_differ_little_take_little_room() -> None:
    first = np.random.default_rng(0).integers(0, 256, (1, 40, 60), dtype=np.uint8)
    still = first.repeat(16, axis=0)
    assert len(packed(still)["bytes"]) < 1.1 * len(packed(first)["bytes"])


@given(st.floats(0, 1))
def test_a_responsibility_is_rounded_by_at_most_what_is_documented(z: float) -> None:
    assert abs(float(decoded(coded(np.array([z])))[0]) - z) <= 1 / 255


def test_small_responsibilities_are_rounded_by_less() -> None:
    z = np.linspace(0, 1 / 64, 1001)
    assert np.abs(decoded(coded(z)) - z).max() <= 1 / 2000
    assert np.abs(decoded(coded(z)) - z).max() > 1 / 4000
    assert decoded(coded(np.array([0.0, 1.0]))).tolist() == [0, 1]
    # What rounding can leave of a softmax.
    assert decoded(coded(np.array([-1e-9, 1 + 1e-9]))).tolist() == [0, 1]
