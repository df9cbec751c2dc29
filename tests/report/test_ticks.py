"""Ticks of logarithmic axes over all ranges, and as they are drawn."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from hemnet.report.panels import grid
from hemnet.report.ticks import MOST, iteration_ticks, label, log_ticks, ticks_between


@settings(max_examples=400)
@given(st.floats(-14, 9), st.floats(1e-3, 16))
@example(0.0, math.log10(2))
@example(-0.3, 0.05)
@example(-0.0001, 1.0)
@example(math.log10(5) + 1e-9, 0.301)
def test_every_range_has_few_round_and_plain_ticks(start: float, decades: float) -> None:
    low, high = 10**start, 10 ** (start + decades)
    ticks = ticks_between(low, high)
    assert 2 <= len(ticks) <= MOST
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))
    labels = [label(tick) for tick in ticks]
    assert len(set(labels)) == len(labels)
    for tick, text in zip(ticks, labels, strict=True):
        assert float(text) == pytest.approx(tick, rel=1e-10)
        assert set(text) <= set("0123456789.e-")
        assert "e" not in text or int(text.partition("e")[2]) == math.floor(math.log10(tick) + 1e-9)
    if decades >= 1:  # round in the sense of 1, 2 and 5
        assert {f"{tick:e}"[0] for tick in ticks} <= set("125")
        assert all(len(text.strip("0.").replace(".", "")) <= 5 for text in labels)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (1, "1"),
        (0.0001, "0.0001"),
        (2000, "2000"),
        (2e-5, "2e-5"),
        (1e5, "1e5"),
        (0, "0"),
        (0.93, "0.93"),
    ],
)
def test_labels_are_plain_numbers(value: float, text: str) -> None:
    assert label(value) == text


@pytest.mark.parametrize("last", range(65))
def test_the_first_and_the_last_iteration_have_a_tick(last: int) -> None:
    ticks = list(iteration_ticks(last))
    assert (ticks[0], ticks[-1]) == (0, last)
    assert len(ticks) <= MOST
    assert len({b - a for a, b in itertools.pairwise(ticks)}) <= 1


def test_known_ranges() -> None:
    assert ticks_between(0.8, 30) == [1, 2, 5, 10, 20]
    assert ticks_between(1e-3, 1) == [1e-3, 1e-2, 1e-1, 1]
    assert ticks_between(0.41, 0.99) == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert ticks_between(1e-12, 1) == [1e-12, 1e-9, 1e-6, 1e-3, 1]
    assert ticks_between(3, 3) == [3]


def shown(figure: Figure) -> list[list[str]]:
    figure.draw_without_rendering()
    found = []
    for axis in figure.axes:
        low, high = axis.get_ylim()
        ticks = [tick for tick in axis.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
        found.append([tick.label1.get_text() for tick in ticks if tick.label1.get_visible()])
    return found


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 0.51),
        (1.0, 1.0),
        (1e-9, 1.0),
        (0.49, 0.5),
        (2.0, 2.0),
        (0.0, 1.0),
        (0.9, 11.0),
        (3e-5, 4e-5),
        (1e-3,),
    ],
)
def test_a_panel_of_a_chart_has_two_ticks_at_least(values: tuple[float, ...]) -> None:
    figure = grid([""], ["", ""], lambda axis, *_: axis.plot(values, "."), xlabel="", ylabel="", log=True)
    first, _without_labels = shown(figure)
    assert len(first) >= 2
    assert all(np.isfinite(float(text)) for text in first)


def test_an_axis_without_values_has_ticks_too() -> None:
    axis = Figure().subplots()
    axis.set_yscale("log")
    log_ticks(axis.yaxis)
    assert len(shown(axis.figure)[0]) >= 2
