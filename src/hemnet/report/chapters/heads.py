"""Chapters on accuracy at one T: of heads, gradient modes, classes, and every setting."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from hemnet.report.chapters.miou_curves import NOT_TESTED, TESTS, summary, test_cells
from hemnet.report.comparisons import compare_groups, named
from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import CLASSES, GRADIENT_MODES, HEADS, SETTINGS
from hemnet.report.estimates import OF_A_DIFFERENCE
from hemnet.report.groups import Group, Section, group_labels
from hemnet.report.lines import not_shown
from hemnet.report.plots import class_bars, distinct_colours, forest, head_colour
from hemnet.report.significance import compare, holm, sentence
from hemnet.report.variants import EMANET, Variant, others, unlike, usual_mode, variants

MOST_CLASSES = 30
"""A chart of more classes shows those on which em and hem differ most."""
MOST_SIDES = 5
"""Settings in a chart of classes."""


def against_heads(section: Section, variant: Variant | None, slug: str) -> Block | None:
    """Return the scores of every head, with paired tests of hem (or em) against the others.

    A head with iterations is compared with hem of as many, any other with hem at one T.
    """
    rivals = others(section)
    if not rivals:
        return None
    first = None if variant is None else variant.subject(variant.chosen)
    if first is None:
        first, *rivals = rivals
        beside = {g: first if g.iterations in (None, first.iterations) else None for g in rivals}
    else:
        beside = {group: _beside(section, group) for group in rivals}
    subjects = [*dict.fromkeys([first, *filter(None, beside.values())])]
    pairs = {group: subject for group, subject in beside.items() if subject is not None}
    found = [compare_groups("", named(subject), named(group)) for group, subject in pairs.items()]
    tested = dict(zip(pairs, holm(found, conclusive=section.conclusive), strict=True))
    which = usual_mode(variant) if variant is not None else ""
    rows: list[list[Cell]] = []
    for group in (*subjects, *rivals):
        cells = test_cells(tested[group]) if group in tested else NOT_TESTED
        if group in beside and group not in tested:
            cells = [*NOT_TESTED[:-1], f"none of its settings at T={group.iterations}{which}"]
        rows.append([group.label, group.score(), pairs[group].label if group in pairs else None, *cells])
    columns = (Column("head"), Column("mIoU"), Column("compared with"), *TESTS)
    how = "A head that iterates is compared at its own T and settings; the table says with what."
    block = Block(HEADS.chapter, [f"Each head's mIoU, and paired tests by seed. {how}"])
    block.items += [
        Chart(slug, HEADS, "Mean, 95% interval and single seeds.",
              lambda: forest([_forest_row(*named(group)) for group in (*subjects, *rivals)])),
        Table(f"{slug}_heads", "Heads; differences are of what a head is compared with minus the head.",
              columns, rows),
        _accuracies((*subjects, *rivals), slug),
    ]  # fmt: skip
    block.findings = [sentence(each) for each in tested.values()]
    return block


def _beside(section: Section, rival: Group) -> Group | None:
    """Return what a head is compared with: hem, or em, of settings as like its own as there are.

    What EMANet's head is made of, see `EMANET`, aside, those of a head that iterates must be its own.
    """
    found = [(unlike(variant, rival), variant) for variant in variants(section)]
    if rival.iterations is None:
        found = [(keys, variant) for keys, variant in found if variant.subject(variant.chosen)]
        nearest = min(found, key=lambda each: len(each[0]))[1]
        return nearest.subject(nearest.chosen)
    alike = [each for each in found if each[0] <= EMANET and each[1].subject(rival.iterations)]
    return min(alike, key=lambda each: len(each[0]))[1].subject(rival.iterations) if alike else None


def _accuracies(shown: Sequence[Group], slug: str) -> Table:
    columns = (Column("head"), Column("mean accuracy"), Column("pixel accuracy"))
    rows: list[list[Cell]] = [
        [group.label, group.score("val/mean_accuracy"), group.score("val/pixel_accuracy")] for group in shown
    ]
    caption = "Accuracy of each head: the mean over classes, and of all pixels."
    return Table(f"{slug}_heads_accuracy", caption, columns, rows)


def _forest_row(label: str, group: Group) -> tuple[str, str, list[float]]:
    return label, head_colour(group.head), list(group.by_seed().values())


def gradient_modes(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return mIoU of each gradient mode, with paired tests against `Variant.mode` at the same head, T, h."""
    if len({group.gradient for group in variant.groups}) < 2:
        return None
    usual = {(g.head, g.iterations, g.scale): g for g in variant.usual}
    pairs = [
        (group, usual[key])
        for group in variant.groups
        if group.gradient != variant.mode and (key := (group.head, group.iterations, group.scale)) in usual
    ]
    if not pairs:
        return None
    shown = list(dict.fromkeys(group for pair in pairs for group in pair[::-1]))
    # The heading names what all of a variant share.
    told = dict(zip(shown, group_labels(shown, [group.rest for group in shown]), strict=True))
    found = [compare_groups("", (told[a], a), (told[b], b)) for a, b in pairs]
    tested = holm(found, conclusive=section.conclusive)
    block = Block(GRADIENT_MODES.chapter, [f"Other gradient modes against {variant.mode}."])
    rows = [[told[g], g.score(), *test_cells(t)] for (g, _), t in zip(pairs, tested, strict=True)]
    columns = (Column("setting"), Column("mIoU"), *TESTS)
    block.items += [
        Chart(slug, GRADIENT_MODES, "Mean, 95% interval and single seeds.",
              lambda: forest([_forest_row(label, group) for group, label in told.items()])),
        Table(f"{slug}_gradient_modes", f"Each mode minus {variant.mode} at the same head, T and h.", columns,
              rows),
    ]  # fmt: skip
    block.findings = summary(tested, f"of other modes from {variant.mode}")
    return block


def per_class(section: Section, variant: Variant | None, slug: str) -> Block | None:
    """Return the IoU of each class at one T for em, hem and other heads."""
    sides = others(section)
    if variant is not None:
        sides = [g for head in ("em", "hem") if (g := variant.at(head, variant.chosen))] + sides
    names = {key: None for g in sides for run in g.runs.values() for key in run.scores if "/iou/" in key}
    if not names:
        return None
    keys, drawn = list(names), sides[:MOST_SIDES]
    columns = [Column("class"), *(Column(group.label) for group in sides)]
    rows: list[list[Cell]] = [[_class(key), *(group.score(key) for group in sides)] for key in keys]
    notes = ["Means over seeds with 95% intervals."]
    if left := [group.label for group in sides[MOST_SIDES:]]:
        notes.append(f"Not drawn, for lack of room: {'; '.join(left)}; the table has all.")
    size = None
    if [group.head for group in sides[:2]] == ["em", "hem"]:
        em, hem = sides[:2]
        columns.append(Column("hem − em", signed=True))
        change = [
            compare("", ("", hem.by_seed(key)), ("", em.by_seed(key)), OF_A_DIFFERENCE).difference
            for key in keys
        ]
        for row, difference in zip(rows, change, strict=True):
            row.append(difference)
        size = [0.0 if c is None else abs(c.mean) for c in change]
    if len(keys) > MOST_CLASSES:
        which = "first classes" if size is None else "classes on which em and hem differ most"
        order = range(len(keys)) if size is None else np.argsort(size)[::-1]
        keys = [keys[i] for i in sorted(order[:MOST_CLASSES])]
        notes.append(f"The {MOST_CLASSES} {which}; the table has all {len(rows)}.")
    if left_out := not_shown(section, sides):
        notes.append(left_out)
    block = Block(CLASSES.chapter)
    block.items += [
        Chart(slug, CLASSES, " ".join(notes), _class_chart(keys, drawn)),
        Table(f"{slug}_classes", "IoU of each class; intervals of differences are not corrected for the "
              "number of classes. A class without a score has none.", columns, rows),
    ]  # fmt: skip
    return block


def _class_chart(keys: Sequence[str], sides: Sequence[Group]) -> Callable[[], Figure]:
    def draw() -> Figure:
        return class_bars(
            [_class(key) for key in keys],
            [
                (g.label, colour, [list(g.by_seed(key).values()) for key in keys])
                for g, colour in zip(sides, distinct_colours([g.head for g in sides]), strict=True)
            ],
        )

    return draw


def _class(key: str) -> str:
    return key.partition("/iou/")[2]


def every_group(shown: Sequence[Section], slug: str) -> Block:
    """Return the table of all settings of the sections, which counts seeds, however often each ran."""
    columns = (Column("setting"), Column("mIoU"), Column("n"), Column("seeds"), Column("their mIoU"),
               Column("without score"), Column("not finished"))  # fmt: skip
    rows: list[list[Cell]] = []
    for section, group in [(each, group) for each in shown for group in each.groups]:
        values = list(group.by_seed().values())
        missing = sum(not np.isfinite(value) for value in values)
        seeds = " ".join(map(str, group.by_seed()))
        scores = " ".join(f"{value:.4f}" for value in values)
        label = f"{group.label}, {section.label}" if len(shown) > 1 else group.label
        rows.append(
            [label, group.score(), len(values) - missing, seeds, scores, missing, len(group.lost_seeds)]
        )
    return Block(SETTINGS.chapter, [], [Table(f"{slug}_settings", "mIoU of every setting.", columns, rows)])
