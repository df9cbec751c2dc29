"""Shared by chapters: which settings become lines of a chart, and charts of lines.

Shapes: S logged steps, (S, 2): step and value.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hemnet.report.definitions import Metric
from hemnet.report.groups import EM_HEADS, Group, Section, hem_name, scale_text
from hemnet.report.panels import draw_curves, draw_profile, grid
from hemnet.report.plots import DASHES, MARKERS, Line, head_colour, scale_colour
from hemnet.report.setting_labels import labels
from hemnet.report.variants import EMANET, Variant
from hemnet.runs.phases import PHASE_SHARE, PHASES

MOST_LINES = 6
MOST_SCORE_LINES = 10
"""Of a chart of scores, and of other heads in one over training."""
ALL_MARKERS = "osD^vP*X<>"
"""As many as a chart of scores has lines."""
WHEN = (
    f"Start, middle and end of training are means over {100 * PHASE_SHARE:.0f}% of the logged steps; thick "
    "lines are means over seeds, geometric on a logarithmic axis, thin ones single seeds."
)
END = len(PHASES) - 1
Points = dict[float, dict[int, float]]
"""T -> seed -> mIoU."""


def by_training(groups: Sequence[Group]) -> Points:
    """Return the mIoU of groups with one head by T of training."""
    return {group.iterations: group.by_seed() for group in groups if group.iterations is not None}


def emanet_lines(
    variant: Variant,
    rivals: Sequence[Group],
    points: Callable[[Sequence[Group]], Points],
    colour: str = "#000000",
) -> list[Line]:
    """Return a line over T for each setting of EMANet's head with scores; ``points`` returns those.

    Its label names what differs between these settings and from the variant, but not what EMANet's head is
    made of.
    """
    by_rest: dict[tuple[str, frozenset[tuple[str, str]]], list[Group]] = defaultdict(list)
    for group in rivals:
        if group.head == "emanet":
            # EMANet takes full steps; a run with damped ones is a line of its own.
            damped = "" if group.scale == 0 else f", h={scale_text(group.scale)}"
            by_rest[damped, frozenset(group.rest.items())].append(group)
    made = []
    rests = [dict(rest) for _, rest in by_rest]
    like_own = {k: v for rest in rests[:1] for k, v in rest.items() if k in EMANET}
    like_hem = {k: v for k, v in variant.settings.items() if k not in EMANET}
    _, *told = labels([like_hem | like_own, *rests])
    for further, (damped, _), mine in zip(told, by_rest, by_rest.values(), strict=True):
        label = f"EMANet{damped}, {further}" if further else f"EMANet{damped}"
        made.append(Line(label, colour, points(mine), "D", "--"))
    return [line for line in made if line.points]


def settings_at(variant: Variant, depth: int) -> list[tuple[str, Group]]:
    """Return label and group of every setting at one T: em, hem, and each other h."""
    main = _main_at(variant, depth)
    more = [group for group in variant.usual if group.iterations == depth and group not in main]
    named = [(g.head if g.head == "em" else hem_name(g.scale), g) for g in main]
    return named + [(f"h={scale_text(group.scale)}", group) for group in more]


def _main_at(variant: Variant, depth: int) -> list[Group]:
    """Return em and hem at one T, those that there are."""
    return [group for head in ("em", "hem") if (group := variant.at(head, depth))]


def lines_at(variant: Variant, depth: int) -> list[tuple[str, str, str, Group]]:
    """Return label, colour, marker and group of em, hem and some other h at one T, `MOST_LINES` in all."""
    every, main = settings_at(variant, depth), len(_main_at(variant, depth))
    found = [(label, head_colour(group.head), MARKERS[group.head], group) for label, group in every[:main]]
    more = every[main:]
    picked = np.linspace(0, len(more) - 1, min(len(more), MOST_LINES - main)).round().astype(int)
    for i, index in enumerate(picked):
        label, group = more[index]
        found.append((label, scale_colour(i / max(len(picked) - 1, 1)), "^", group))
    return found


def joined(*sentences: str) -> str:
    """Return sentences as one text, without those that are empty."""
    return " ".join(filter(None, sentences))


def not_drawn(variant: Variant, depths: Sequence[int]) -> str:
    """Return a sentence on the settings that `lines_at` leaves out; "" if there are none."""
    found = []
    for t in depths:
        drawn = [group for *_, group in lines_at(variant, t)]
        if left := [label for label, group in settings_at(variant, t) if group not in drawn]:
            found.append(f"{', '.join(left)} at T={t}")
    return no_room(found)


def no_room(left: Sequence[str]) -> str:
    """Return a sentence on what a chart leaves out, by its labels; "" if it leaves out nothing."""
    return f"Not drawn, for lack of room: {'; '.join(left)}." if left else ""


def some_of(lines: Sequence[Line]) -> tuple[list[Line], str]:
    """Return `MOST_SCORE_LINES` of the lines at most, evenly picked, and a sentence on the others, or "".

    Of lines of one colour each has a marker of its own.
    """
    count = min(len(lines), MOST_SCORE_LINES)
    kept = {*np.linspace(0, len(lines) - 1, count).round().astype(int).tolist()}
    left = [line.label for i, line in enumerate(lines) if i not in kept]
    made: list[Line] = []
    for line in (lines[i] for i in sorted(kept)):
        taken = {other.marker for other in made if other.colour == line.colour}
        free = line.marker if line.marker not in taken else next(m for m in ALL_MARKERS if m not in taken)
        made.append(replace(line, marker=free))
    return made, no_room(left)


def some_heads(groups: Sequence[Group]) -> tuple[list[tuple[Group, Any]], str]:
    """Return groups of other heads, each with the dashes of its line, and a sentence on the others, or "".

    At most `MOST_SCORE_LINES`, and of each colour as many as there are kinds of dashes.
    """
    kept: list[tuple[Group, Any]] = []
    left: list[str] = []
    used: Counter[str] = Counter()
    for group in groups:
        colour = head_colour(group.head)
        if len(kept) < MOST_SCORE_LINES and used[colour] < len(DASHES):
            kept.append((group, DASHES[used[colour]]))
            used[colour] += 1
        else:
            left.append(group.label)
    return kept, no_room(left)


def not_numbers(labels: Sequence[str]) -> list[str]:
    """Return a sentence on settings that have no place on an axis of h; [] if there are none."""
    return [f"In the table alone, since h is not one number: {'; '.join(labels)}."] if labels else []


def not_shown(section: Section, shown: Iterable[Group]) -> str:
    """Return a sentence on the settings of em and hem that a chapter on a section leaves out; "" if none."""
    kept = {*shown}
    left = [group.label for group in section.groups if group.head in EM_HEADS and group not in kept]
    more = f" and {len(left) - MOST_LINES} more" if len(left) > MOST_LINES else ""
    return f"Of em and hem, it does not have: {'; '.join(left[:MOST_LINES])}{more}." if left else ""


def profiles(group: Group, family: str, phase: int) -> dict[int, np.ndarray]:
    """Return the values per iteration in one phase of training by seed, of the seeds that logged them all."""
    count = group.depth(family) + (family != "em/step_length")  # a step leads from t to t + 1
    runs = {seed: run.phases for seed, run in sorted(group.runs.items()) if family in run.phases}
    return {seed: found[family][phase] for seed, found in runs.items() if found[family].shape[1] == count}


def depths_with(variant: Variant, family: str, least: int = 1) -> list[int]:
    """Return each T of at least ``least`` at which a metric was logged."""
    return [
        t for t in variant.depths
        if t >= least and any(profiles(group, family, END) for _, group in settings_at(variant, t))
    ]  # fmt: skip


def phase_chart(variant: Variant, depths: Sequence[int], metric: Metric) -> Figure:
    """Draw a metric per iteration: a row per T, a column per phase; em, hem and other h in each."""

    def draw(axis: Axes, row: int, column: int) -> None:
        for label, colour, marker, group in lines_at(variant, depths[row]):
            if found := profiles(group, metric.name, column):
                draw_profile(
                    axis, label, colour, marker, [shown_values(metric, each) for each in found.values()]
                )

    return grid(
        [f"T={t}" for t in depths], [f"{phase} of training" for phase in PHASES], draw,
        xlabel="iteration t", ylabel=metric.label, log=metric.log,
        share_y="none" if metric.gain else "row",  # gains at the start of training are many times later ones
    )  # fmt: skip


def shown_values(metric: Metric, values: np.ndarray) -> np.ndarray:
    """Return values per iteration as a chart has them."""
    with np.errstate(invalid="ignore"):  # of infinity
        return values - values[0] if metric.gain else values


def curves_of(group: Group, name: str) -> dict[int, np.ndarray]:
    """Return a metric over training by seed, of the seeds that logged it."""
    return {seed: run.curves[name] for seed, run in sorted(group.runs.items()) if name in run.curves}


def depths_with_curves(variant: Variant, name: str) -> list[int]:
    """Return each T at which a metric was logged over training."""
    return [t for t in variant.depths if any(curves_of(group, name) for _, group in settings_at(variant, t))]


def curve_chart(
    variant: Variant | None, depths: Sequence[int], metric: Metric, further: Sequence[tuple[Group, Any]] = ()
) -> Figure:
    """Draw a metric over training: a row per T, and one for ``further`` groups, see `some_heads`."""

    def draw(axis: Axes, row: int, _: int) -> None:
        if row == len(depths):
            for group, dashes in further:
                if curves := curves_of(group, metric.name):
                    draw_curves(axis, group.label, head_colour(group.head), [*curves.values()], dashes)
            return
        assert variant is not None
        for label, colour, _marker, group in lines_at(variant, depths[row]):
            if curves := curves_of(group, metric.name):
                draw_curves(axis, label, colour, [*curves.values()])

    rows = [*(f"T={t}" for t in depths), *(["other heads"] if further else [])]
    return grid(rows, [""], draw, xlabel="optimizer step", ylabel=metric.label, log=metric.log, height=1.5)
