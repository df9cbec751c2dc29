"""Chapters on accuracy: against T, against h, between heads, between gradient modes, per class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.groups import Group, Section, scale_text
from hemnet.report.plots import MARKERS, Line, bars, forest, head_colour, scale_colour, score_chart
from hemnet.report.statistics import Comparison, compare, estimate, holm, sentence
from hemnet.report.variants import Variant, others

MOST_CLASSES = 30
"""Of more classes, a chart shows those on which em and hem differ most."""


@dataclass
class Chapter:
    """A block, and what it found, for the top of the page.

    Attributes:
        block: to be shown.
        findings: a sentence each.
        tested: the comparisons behind them.
    """

    block: Block
    findings: list[str] = field(default_factory=list)
    tested: list[Comparison] = field(default_factory=list)


Named = tuple[str, dict[int, float]]
TESTS = (Column("difference", signed=True), Column("seeds in common"), Column("p", 2, False),
         Column("p after Holm", 2, False), Column("verdict"))  # fmt: skip


def test_cells(found: Comparison) -> list[Cell]:
    """Return the cells of `TESTS` for a comparison."""
    return [found.difference, len(found.seeds), found.p, found.p_holm, found.verdict]


def named(group: Group, name: str | None = None) -> Named:
    """Return a group as a side of a comparison of mIoU."""
    return name or group.label, group.by_seed()


def against_depth(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return mIoU against T of em and hem, with a paired test at each T."""
    block = Block("mIoU against the number of iterations T")
    hem = f"hem (h={scale_text(variant.scale)})"
    by_head = {head: {t: g for t in variant.depths if (g := variant.at(head, t))} for head in ("em", "hem")}
    pairs = [t for t in variant.depths if t in by_head["em"] and t in by_head["hem"]]
    tested = holm(
        [compare(f"T={t}", named(by_head["hem"][t], hem), named(by_head["em"][t], "em")) for t in pairs]
    )
    lines = [
        Line(hem if head == "hem" else head, head_colour(head),
             {t: g.by_seed() for t, g in groups.items()}, MARKERS[head])
        for head, groups in by_head.items() if groups
    ]  # fmt: skip
    if len({t for line in lines for t in line.points}) > 1:
        levels = _levels(section)
        block.items.append(Chart(
            f"{slug}_miou_vs_iterations",
            "mIoU against T: means over seeds with 95% intervals; faint dots are single seeds"
            + (", horizontal lines the mean of heads without T." if levels else "."),
            lambda: score_chart(lines, levels, "iterations T"),
        ))  # fmt: skip
    else:
        block.paragraphs.append("One T only, so there is no curve over T.")
    if not pairs:
        block.paragraphs.append("No T at which both em and hem finished, so nothing to compare.")
    rows = [
        [t, by_head["em"][t].score(), by_head["hem"][t].score(), *test_cells(found)]
        for t, found in zip(pairs, tested, strict=True)
    ]
    columns = (Column("T"), Column("em"), Column(hem), *TESTS)
    if rows:
        caption = f"mIoU of em and {hem} at each T, and paired tests of {hem} minus em."
        block.items.append(Table(f"{slug}_miou_vs_iterations", caption, columns, rows))
    return Chapter(block, [sentence(found) for found in tested], tested) if lines else None


def _levels(section: Section) -> list[tuple[str, str, float]]:
    found = [(group, group.score()) for group in others(section)]
    return [(group.label, head_colour(group.head), score.mean) for group, score in found if score][:6]


def against_scale(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return mIoU against h with a curve per T, and paired tests against h = 0 at the same T."""
    at = {t: [g for g in variant.usual if g.iterations == t] for t in variant.depths}
    at = {t: groups for t, groups in at.items() if sum(g.head == "hem" for g in groups) > 1}
    if not at:
        return None
    family: list[Comparison] = []
    rows: list[list[Cell]] = []
    for t, groups in at.items():
        plain = variant.at("em", t)
        for group in groups:
            rows.append([t, scale_text(group.scale), group.score(), len(group.runs)])
            if group.head == "hem":
                zero = {} if plain is None else plain.by_seed()
                family.append(compare(f"T={t}", named(group, f"h={scale_text(group.scale)}"), ("h=0", zero)))
    tested = holm(family)
    left = iter(tested)
    for row, group in zip(rows, (g for groups in at.values() for g in groups), strict=True):
        row += test_cells(next(left)) if group.head == "hem" else [None] * len(TESTS)
    block = Block("mIoU against the highway scale h")
    depths = list(at)
    lines = [
        Line(f"T={t}", scale_colour(i / max(len(depths) - 1, 1)),
             {g.scale: g.by_seed() for g in at[t] if isinstance(g.scale, float)}, "osD^vP*X"[i % 8])
        for i, t in enumerate(depths)
    ]  # fmt: skip
    block.items += [
        Chart(f"{slug}_miou_vs_scale",
              "mIoU against h: means over seeds with 95% intervals; h = 0 is plain EM.",
              lambda: score_chart(lines, [], "highway scale h", "true")),
        Table(f"{slug}_miou_vs_scale", "mIoU at each h, and paired tests against h = 0 at the same T.",
              (Column("T"), Column("h"), Column("mIoU"), Column("n"), *TESTS), rows),
    ]  # fmt: skip
    return Chapter(block, _summary(tested, "differences from h = 0"), tested)


def _summary(tested: Sequence[Comparison], what: str) -> list[str]:
    """Return one sentence on a large family, and one on each member that is supported."""
    counts: dict[str, int] = {}
    for found in tested:
        counts[found.verdict] = counts.get(found.verdict, 0) + 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return [f"Of {len(tested)} {what}: {told}.", *(sentence(found) for found in tested if found.supported)]


def against_heads(section: Section, variant: Variant | None, slug: str) -> Chapter | None:
    """Return the scores of every head, with paired tests of the others against hem (or em) at one T."""
    rivals = others(section)
    reference = None
    if variant is not None:
        reference = variant.at("hem", variant.chosen) or variant.at("em", variant.chosen)
    if not rivals or len(section.groups) < 2:
        return None
    if reference is None:
        reference, *rivals = rivals
    tested = holm([compare("", named(reference), named(group)) for group in rivals])
    block = Block("Heads", [f"Each head's mIoU, and {reference.label} minus that head, paired by seed."])
    columns = (Column("head"), Column("mIoU"), Column("mean accuracy"), Column("pixel accuracy"), *TESTS)
    rows: list[list[Cell]] = [[*_scores(reference), *[None] * len(TESTS)]]
    rows += [[*_scores(group), *test_cells(found)] for group, found in zip(rivals, tested, strict=True)]
    block.items += [
        Chart(f"{slug}_heads", "mIoU of each head: mean, 95% interval and single seeds.",
              lambda: forest([_forest_row(group) for group in (reference, *rivals)])),
        Table(f"{slug}_heads", f"Heads, and paired tests of {reference.label} minus each.", columns, rows),
    ]  # fmt: skip
    return Chapter(block, [sentence(found) for found in tested], tested)


def _scores(group: Group) -> list[Cell]:
    return [
        group.label,
        *(group.score(f"val/{name}") for name in ("miou", "mean_accuracy", "pixel_accuracy")),
    ]


def _forest_row(group: Group) -> tuple[str, str, list[float]]:
    return group.label, head_colour(group.head), list(group.by_seed().values())


def gradient_modes(section: Section, variant: Variant, slug: str) -> Chapter | None:
    """Return mIoU of each gradient mode, with paired tests against `Variant.mode` at the same head, T, h."""
    if len({group.gradient for group in variant.groups}) < 2:
        return None
    usual = {(g.head, g.iterations, g.scale): g for g in variant.usual}
    pairs = [
        (group, usual[key])
        for group in variant.groups
        if group.gradient != variant.mode and (key := (group.head, group.iterations, group.scale)) in usual
    ]
    tested = holm([compare("", named(a), named(b)) for a, b in pairs])
    shown = list(dict.fromkeys(group for pair in pairs for group in pair[::-1]))
    block = Block("Gradient modes", [f"How the iterations are differentiated, against {variant.mode}."])
    if not pairs:
        block.paragraphs.append("No head, T and h at which two modes finished, so nothing to compare.")
        return Chapter(block)
    rows = [
        [g.label, g.score(), len(g.runs), *test_cells(t)] for (g, _), t in zip(pairs, tested, strict=True)
    ]
    columns = (Column("setting"), Column("mIoU"), Column("n"), *TESTS)
    block.items += [
        Chart(f"{slug}_gradient_modes", "mIoU of each gradient mode: mean, 95% interval, single seeds.",
              lambda: forest([_forest_row(group) for group in shown])),
        Table(f"{slug}_gradient_modes", f"Each mode minus {variant.mode} at the same head, T and h.", columns, rows),
    ]  # fmt: skip
    return Chapter(block, _summary(tested, f"differences of other modes from {variant.mode}"), tested)


def per_class(section: Section, variant: Variant | None, slug: str) -> Chapter | None:
    """Return the IoU of each class at one T for em, hem and other heads."""
    sides = others(section)
    if variant is not None:
        sides = [g for head in ("em", "hem") if (g := variant.at(head, variant.chosen))] + sides
    sides = sides[:5]
    names = {key: None for g in sides for run in g.runs.values() for key in run.scores if "/iou/" in key}
    if not names:
        return None
    keys = list(names)
    columns = [Column("class"), *(Column(group.label) for group in sides)]
    rows: list[list[Cell]] = [[_class(key), *(group.score(key) for group in sides)] for key in keys]
    note = ""
    if [group.head for group in sides[:2]] == ["em", "hem"]:
        columns.append(Column("hem − em", signed=True))
        change = [compare("", *(("", g.by_seed(key)) for g in sides[1::-1])).difference for key in keys]
        for row, difference in zip(rows, change, strict=True):
            row.append(difference)
        if len(keys) > MOST_CLASSES:
            size = [0.0 if c is None else abs(c.mean) for c in change]
            keys = [keys[i] for i in sorted(np.argsort(size)[::-1][:MOST_CLASSES])]
            note = f" The {MOST_CLASSES} classes on which em and hem differ most; the table has all."
    keys = keys[:MOST_CLASSES]
    block = Block("Classes")
    block.items += [
        Chart(f"{slug}_classes", f"IoU of each class: means over seeds with 95% intervals.{note}",
              _class_chart(keys, sides)),
        Table(f"{slug}_classes", "IoU of each class; intervals of differences are not corrected for the number of "
              "classes. A class that is absent or never scored has none.", columns, rows),
    ]  # fmt: skip
    return Chapter(block)


def _class_chart(keys: Sequence[str], sides: Sequence[Group]) -> Callable:
    def draw():  # noqa: ANN202
        return bars(
            [_class(key) for key in keys],
            [(g.label, head_colour(g.head), [list(g.by_seed(key).values()) for key in keys]) for g in sides],
        )

    return draw


def _class(key: str) -> str:
    return key.partition("/iou/")[2]


def every_group(section: Section, slug: str) -> Block:
    """Return the table of all settings of a section, none left out."""
    columns = (Column("setting"), Column("mIoU"), Column("n"), Column("seeds"), Column("without score"),
               Column("not finished"))  # fmt: skip
    rows: list[list[Cell]] = []
    for group in section.groups:
        values = list(group.by_seed().values())
        missing = sum(not np.isfinite(value) for value in values)
        seeds = " ".join(map(str, group.runs))
        rows.append([group.label, estimate(values), len(values) - missing, seeds, missing, len(group.lost)])
    return Block("All settings", [], [Table(f"{slug}_settings", "mIoU of every setting.", columns, rows)])
