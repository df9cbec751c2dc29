"""The start, the middle and the end of training, of curves that may stop early, begin late or have gaps.

Shapes: S logged steps; a curve is (S, 2): optimizer step and value.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemnet.runs.phases import PHASES, by_phase, cut_off, phases

STEPS = 1500
LAST = float(STEPS - 1)


def curve(*steps: float) -> np.ndarray:
    """A curve whose value at a step is the step."""
    return np.array([[step, step] for step in steps], float).reshape(-1, 2)


def every(pause: int, begin: int = 0, end: int = STEPS) -> np.ndarray:
    return curve(*range(begin, end, pause))


@given(st.integers(1, 400), st.integers(0, 30))
def test_of_a_whole_curve_they_are_the_first_middle_and_last_tenth(size: int, offset: int) -> None:
    pause = 7
    last = (size - 1) * pause + offset % pause
    whole = curve(*(i * pause for i in range(size)))
    width = max(1, round(0.1 * size))
    begins = (0, (size - width) // 2, size - width)
    for phase, begin in zip(PHASES, begins, strict=True):
        found = by_phase(whole, last)[phase]
        if size > 4:
            np.testing.assert_array_equal(found, whole[begin : begin + width, 1])
    assert not cut_off(whole, last)


@pytest.mark.parametrize(
    ("one", "without"),
    [
        (every(25, end=701), ["middle", "end"]),  # it was no longer finite, which is not logged
        (every(25, begin=1000), ["start", "middle"]),
        (every(25, begin=1450), ["start", "middle", "end"]),
        (np.concatenate([every(25, end=300), every(25, begin=1200)]), ["middle"]),
        (np.concatenate([every(25, end=1350), every(149, begin=1351)]), ["end"]),  # less than half of it
        (every(25, end=1451), []),  # more than half of it
        (every(25), []),
    ],
)
def test_a_phase_that_a_curve_does_not_reach_is_unknown(one: np.ndarray, without: list[str]) -> None:
    assert cut_off(one, LAST) == without
    for i, phase in enumerate(PHASES):
        values = by_phase(one, LAST)[phase]
        if phase not in without:
            assert abs(values.mean() - i / 2 * LAST) < 0.08 * LAST
    whole = {"val/miou": curve(LAST), "gradient/share/00": one, "gradient/means/00": one}
    known = [phase not in without for phase in PHASES]
    assert np.isfinite(phases(whole)["gradient/share"][:, 0]).tolist() == known
    assert np.isfinite(phases(whole)["gradient/means"][1:, 0]).tolist() == known[1:]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ((0, 1499), ([0], [], [1499])),  # the beginning is not the middle
        ((0, 750, 1499), ([0], [750], [1499])),
        ((374, 749, 1124, 1499), ([374], [749], [1499])),
        ((749, 1499), ([], [749], [1499])),
        ((1499,), ([], [], [1499])),
        ((0,), ([0], [], [])),
        ((), ([], [], [])),
        ((5, 5, 5), ([5], [], [])),  # no pace
    ],
)
def test_of_a_few_values_each_stands_for_a_phase_that_it_is_near(steps: tuple, found: tuple) -> None:
    one = curve(*steps)
    assert tuple(by_phase(one, LAST)[phase].tolist() for phase in PHASES) == found
    assert not cut_off(one, LAST)  # such a curve is as it was meant


def test_steps_of_any_size_take_no_memory() -> None:
    assert by_phase(curve(0, 1, 1e12), 1e12)["end"].tolist() == [1e12]
