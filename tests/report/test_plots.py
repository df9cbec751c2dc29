"""Charts as they are drawn."""

import itertools
import warnings
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from hemnet.report.heat_map import heat_map
from hemnet.report.lettering import letters_in, wrapped
from hemnet.report.lines import some_of
from hemnet.report.panels import draw_curves, draw_profile, grid
from hemnet.report.plots import (
    STYLE,
    Line,
    class_bars,
    distinct_colours,
    forest,
    head_colour,
    score_chart,
)


def ends(figure: Figure) -> np.ndarray:
    """Return the ends of all intervals of a figure, on both axes."""
    bars = [c for axis in figure.axes for c in axis.collections if isinstance(c, LineCollection)]
    return np.concatenate([np.zeros((0, 2)), *(np.concatenate(bar.get_segments()) for bar in bars)])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_no_interval_of_a_score_leaves_0_to_1(mious: list[float]) -> None:
    seeds = dict(enumerate(mious))
    line = Line("a", "#000000", {1: seeds, 2: {0: 0.0, 1: 1.0}})
    for figure, which in (
        (score_chart([line], [], "T"), 1),
        (forest([("a", "#000000", mious), ("b", "#000000", [0.0, 1.0])]), 0),
        (class_bars(["a", "b"], [("hem", "#000000", [mious, [0.0, 1.0]])]), 0),
    ):
        found = ends(figure)[:, which]
        assert len(found)
        assert found.min() >= -1e-12
        assert found.max() <= 1 + 1e-12
    for axis in heat_map([line], [], [1, 2], "h", "T").axes:
        told = [patch.get_gid() for patch in axis.patches if patch.get_gid()]
        assert told[1].endswith("95% interval 0.0000 to 1.0000, n=2")


def test_no_interval_is_drawn_beyond_what_a_score_can_be() -> None:
    values = [0.99, 0.6, 0.98]
    spread = Line("a", "#000000", {1: dict(enumerate(values)), 2: {0: 0.01, 1: 0.3}})
    for figure, axis in (
        (score_chart([spread], [], "T"), 1), (forest([("a", "#000000", values)]), 0),
        (class_bars(["x"], [("a", "#000000", [values]), ("b", "#000000", [[0.02, 0.5]])]), 0),
    ):  # fmt: skip
        found = ends(figure)[:, axis]
        assert len(found) >= 2
        assert min(found) >= 0
        assert max(found) == 1


def test_a_legend_stays_on_its_figure() -> None:
    labels = ["hem, T=16, h=0.5, assignment=dot, correct_momentum=False, variance=√C", "x" * 60, "em"]
    with mpl.rc_context(STYLE):
        figure = class_bars(list("abcdef"), [(label, "#000000", [[0.5]] * 6) for label in labels])
        figure.draw_without_rendering()
    extents = figure.legends[0].get_tightbbox().transformed(figure.transFigure.inverted())
    assert extents.x0 >= 0
    assert extents.x1 <= 1


def test_the_colours_of_a_heat_map_span_the_step_sizes_alone() -> None:
    columns = [Line(f"η={i}", "#000000", {1: {0: 0.80 + i / 100}}) for i in range(2)]
    far = Line("EMANet", "#000000", {1: {0: 0.1}})
    with_far, without = (heat_map(columns, apart, [1], "η", "T").axes[0] for apart in ([far], []))
    colours = [[patch.get_facecolor() for patch in axis.patches[:3:2]] for axis in (with_far, without)]
    assert colours[0] == colours[1]
    assert colours[0][0] != colours[0][1]


def test_iterations_are_on_the_x_axis_from_0_to_t() -> None:
    def draw(axis, *_):
        draw_profile(axis, "em", "#000000", "o", [np.linspace(0.1, 1, 9), np.linspace(0.2, 1, 9)])

    figure = grid(["T=8"], ["start", "end"], draw, xlabel="iteration t", ylabel="", log=True)
    figure.draw_without_rendering()
    for axis in figure.axes:
        assert list(axis.get_xticks()) == [0, 2, 4, 6, 8]
        assert axis.get_xlabel() == "iteration t"
        mean = axis.lines[-1]
        assert list(mean.get_xdata()) == list(range(9))
        # On a logarithmic axis the mean over seeds is geometric.
        np.testing.assert_allclose(mean.get_ydata()[0], np.sqrt(0.1 * 0.2))


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, -np.inf, np.nan])
def test_values_that_an_axis_has_no_place_for_are_left_out_without_a_warning(value: float, log: bool) -> None:
    def draw(axis, row, _):
        values = np.full(4, value)
        if row:
            values[0] = 1.0
        draw_profile(axis, "em", "#000000", "o", [values, values])
        draw_curves(axis, "hem", "#000000", [np.stack([np.arange(4), values], 1)] * 2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = grid(["all", "but one"], [""], draw, xlabel="", ylabel="", log=log)
        figure.draw_without_rendering()
    for line in figure.axes[1].lines:
        shown = np.isfinite(value) and not log
        np.testing.assert_equal(line.get_ydata(), [1.0, *[value if shown else np.nan] * 3])


@settings(max_examples=40, deadline=None)
@given(value=st.floats(1e-20, 1e20), seeds=st.integers(2, 7), log=st.booleans())
def test_seeds_of_the_same_values_are_drawn_without_a_warning(value: float, seeds: int, log: bool) -> None:
    def draw(axis, *_):
        draw_curves(axis, "a", "#000000", [np.array([[0, value], [1, value]])] * seeds)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = grid([""], ["a"], draw, xlabel="step", ylabel="norm", log=log, share_y="all")
        figure.draw_without_rendering()
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), value, rtol=1e-12)


def test_names_that_begin_alike_are_told_apart_and_leave_room_for_what_they_name() -> None:
    names = [f"construction--flat--{end}" for end in ("crosswalk-plain", "curb-cut", "pedestrian-area")]
    head = "my_package.models.segmentation_heads.pyramid_attention.PyramidAttentionHead"
    sides = [(f"{head}{end}, T=4", "#000000", [[0.5, 0.6]] * 3) for end in ("", "WithDeepSupervision", "2")]
    labels = [label for label, *_ in sides]
    for figure, shown in (
        (class_bars(names, sides), names),
        (forest([(label, "#000000", [0.5, 0.6]) for label in labels]), labels),
    ):
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.draw_without_rendering()
        (axis,) = figure.axes
        ticks = [tick.get_text() for tick in axis.get_yticklabels()]
        assert ["".join(tick.split()) for tick in ticks] == ["".join(name.split()) for name in shown]
        boxes = [tick.get_window_extent() for tick in axis.get_yticklabels()]
        assert all(a.y0 >= b.y1 - 1 for a, b in itertools.pairwise(sorted(boxes, key=lambda box: -box.y0)))
        assert axis.get_position().width > 0.25
        assert axis.get_window_extent().height / figure.dpi > 0.3 * len(shown)


def test_bars_of_one_head_have_colours_of_their_own() -> None:
    heads = ["em", "hem", "emanet", "emanet", "mine", "mine", "fcn"]
    colours = distinct_colours(heads)
    assert len({*colours}) == len(heads)
    assert [colours[i] for i in (0, 1, 2, 4, 6)] == [head_colour(heads[i]) for i in (0, 1, 2, 4, 6)]
    assert len(distinct_colours(["em"] * 20)) == 20


@pytest.mark.parametrize("hs", [[0, 0.9, 0.95, 0.99], [-0.5, 0, 0.1, 0.125, 0.1375, 0.15, 0.9], [0.5]])
def test_the_labels_of_close_ticks_do_not_overlap(hs: list[float]) -> None:
    line = Line("T=3", "#000000", {h: {0: 0.5, 1: 0.6} for h in hs})
    with mpl.rc_context(STYLE):
        figure = score_chart([line], [], "highway scale h", "true")
        figure.draw_without_rendering()
    (axis,) = figure.axes
    ticks = axis.get_xticklabels()
    assert [tick.get_text().strip() for tick in ticks] == [f"{h:g}" for h in hs]
    require_apart(ticks)


def require_apart(labels: Sequence[Text]) -> None:
    """Fail if labels of an x axis that stand in one line overlap; those before a line break are empty."""
    lines = [{i for i, part in enumerate(label.get_text().split("\n")) if part} for label in labels]
    for a, b in itertools.combinations(range(len(labels)), 2):
        left, right = (labels[i].get_window_extent() for i in (a, b))
        assert lines[a].isdisjoint(lines[b]) or left.x1 < right.x0


@pytest.mark.parametrize("etas", [[0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 1.5], [0.0001, 1]])
def test_the_columns_of_a_heat_map_have_labels_that_do_not_overlap(etas: list[float]) -> None:
    columns = [Line(f"η={eta:g}", "#000000", {1: {0: 0.5}}) for eta in etas]
    apart = [Line(f"EMANet, {key}=0.25", "#000000", {1: {0: 0.6}}) for key in ("momentum", "variance")]
    with mpl.rc_context(STYLE):
        figure = heat_map(columns, apart, [1], "η", "T")
        figure.draw_without_rendering()
    require_apart(figure.axes[0].get_xticklabels())


@given(st.text(st.sampled_from("aW字ｗ空 -_"), max_size=200), st.integers(8, 50))
def test_no_line_of_a_wrapped_name_is_wider_than_it_may_be(text: str, width: int) -> None:
    lines = wrapped(text, width).split("\n")
    assert max(map(letters_in, lines)) <= width + 1  # a wide letter may stand on the edge
    assert "".join("".join(lines).split()) == "".join(text.split())


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_points_of_many_lines_stay_beside_their_tick(count: int) -> None:
    lines = [Line(f"η={i}", "#000000", {T: {0: 0.5 + i / 100} for T in (1, 2, 3)}) for i in range(count)]
    axis = score_chart(lines, [], "T").axes[0]
    for line in axis.lines:
        if len(line.get_xdata()) == 3:
            assert np.abs(line.get_xdata() - [0, 1, 2]).max() < 0.3


def test_a_curve_is_not_drawn_before_it_begins_or_after_it_ends() -> None:
    long = np.stack([np.arange(0, 100, 10.0), np.full(10, 2.0)], 1)
    for short in (np.add(long[4:], [0, 3]), np.add(long[:5], [0, 3])):
        figure = Figure()
        axis = figure.subplots()
        draw_curves(axis, "hem", "#000000", [long, short])
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), 2.0)  # the mean is of the whole one
        ends = axis.collections[0].get_paths()[0].get_extents()
        assert (ends.ymin, ends.ymax) == (2, 5)
        steps = axis.collections[0].get_paths()[0].vertices
        assert {x for x, y in steps if y == 5} == {*short[:, 0]}


def test_a_seed_that_diverged_is_in_no_mean_and_hides_no_other() -> None:
    whole = np.linspace(0.1, 1, 9)
    broken = np.where(np.arange(9) < 4, whole, np.nan)
    axis = Figure().subplots()
    draw_profile(axis, "em", "#000000", "o", [whole, 3 * whole, broken])
    np.testing.assert_allclose(axis.lines[-1].get_ydata(), 2 * whole)
    axis = Figure().subplots()
    curves = [np.stack([np.arange(9.0), each], 1) for each in (whole, 3 * whole, broken)]
    draw_curves(axis, "em", "#000000", curves)
    np.testing.assert_allclose(axis.lines[-1].get_ydata(), 2 * whole)


@pytest.mark.parametrize("count", [0, 1, 10, 11, 40])
def test_lines_for_which_a_chart_has_no_room_are_named(count: int) -> None:
    lines = [Line(f"η={i}", "#000000", {1: {0: 0.5}}) for i in range(count)]
    drawn, said = some_of(lines)
    assert len(drawn) == min(count, 10)
    if count > 10:
        assert drawn[0].label == lines[0].label
        assert drawn[-1].label == lines[-1].label
    assert len({line.marker for line in drawn}) == len(drawn)  # they have one colour
    left = [line.label for line in lines if line.label not in [each.label for each in drawn]]
    assert said == (f"Not drawn, for lack of room: {'; '.join(left)}." if left else "")


def points(figure: Figure) -> list[list[float]]:
    """The heights of all points of each panel that are seen: in a line of two or more, or with a marker."""
    found = []
    for axis in figure.axes:
        seen: set[float] = set()
        for line in axis.lines:
            y = np.asarray(line.get_ydata(), float)
            known = np.pad(np.isfinite(y), 1)
            marked = np.zeros(len(y), bool)
            if line.get_marker() != "None":
                marked[line.get_markevery() or slice(None)] = True
            seen |= {*y[known[1:-1] & (known[:-2] | known[2:] | marked)].tolist()}
        found.append(sorted(seen))
    return found


@pytest.mark.parametrize("log", [False, True])
def test_a_value_without_neighbours_is_seen_and_an_empty_panel_says_so(log: bool) -> None:
    nan = np.nan
    courses = [[0.5], [nan], [0.5, nan, 0.7], [0.4, 0.5, nan, 0.7]]

    def draw(axis: Axes, _row: int, column: int) -> None:
        if column < len(courses):
            curve = np.stack([np.arange(len(courses[column])), courses[column]], 1)
            draw_curves(axis, "em", "#000000", [curve, curve])

    titles = [f"{i}" for i in range(len(courses) + 1)]
    figure = grid(["T=3"], titles, draw, xlabel="step", ylabel="mIoU", share_y="none", log=log)
    for found, course in zip(points(figure), [*courses, []], strict=True):
        assert found == pytest.approx(sorted(y for y in course if np.isfinite(y)))
    said = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert said == [[], ["no values"], [], [], ["no values"]]
    figure.draw_without_rendering()
    shown = [any(tick.label1.get_visible() for tick in axis.yaxis.get_major_ticks()) for axis in figure.axes]
    assert shown == [True, False, True, True, False]  # none of an empty panel, which would be made up


def test_seeds_with_one_validation_each_at_other_steps_are_seen() -> None:
    axis = Figure().subplots()
    draw_curves(axis, "em", "#000000", [np.array([[9.0, 0.5]]), np.array([[19.0, 0.6]])])
    assert points(axis.figure) == [[0.5, 0.6]]


def test_each_seed_of_a_profile_of_one_iteration_is_seen() -> None:
    axis = Figure().subplots()
    draw_profile(axis, "em", "#000000", "o", [np.array([0.2]), np.array([0.4])])
    assert points(axis.figure) == [pytest.approx([0.2, 0.3, 0.4])]


def test_an_empty_panel_keeps_the_ticks_that_it_shares() -> None:
    def draw(axis: Axes, _row: int, column: int) -> None:
        if column:
            draw_curves(axis, "em", "#000000", [np.array([[0, 0.5], [1, 0.6]])])

    first, _ = (figure := grid(["T=3"], ["a", "b"], draw, xlabel="step", ylabel="mIoU")).axes
    figure.draw_without_rendering()
    assert any(tick.label1.get_visible() for tick in first.yaxis.get_major_ticks())
