"""Chapters on mIoU against T and against h."""

from collections import Counter
from collections.abc import Sequence

from hemnet.report.comparisons import against_plain
from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import AGAINST_H, AGAINST_T
from hemnet.report.groups import Section, hem_name, scale_text
from hemnet.report.lines import ALL_MARKERS, by_training, emanet_lines, joined, no_room, not_numbers, some_of
from hemnet.report.plots import DASHES, MARKERS, Line, head_colour, scale_colour, score_chart
from hemnet.report.significance import Comparison, sentence
from hemnet.report.variants import Variant, others, usual_mode
from hemnet.wording import counted

MOST_LEVELS = len(DASHES)
"""Other heads in a chart over T: as many as can be told apart by their lines, whatever their colours."""
TESTS = (Column("difference", signed=True), Column("seeds in common"), Column("left out"),
         Column("p", 2, False), Column("p after Holm", 2, False), Column("verdict"))  # fmt: skip
NOT_TESTED: list[Cell] = [None] * len(TESTS)


def test_cells(found: Comparison) -> list[Cell]:
    """Return the cells of `TESTS` for a comparison."""
    return [
        found.difference, len(found.seeds), len(found.left_out), found.p, found.p_holm, found.verdict,
    ]  # fmt: skip


def against_depth(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return mIoU against T of em and hem, with a paired test at each T."""
    block = Block(AGAINST_T.chapter)
    hem = hem_name(variant.scale)
    by_head = {head: {t: g for t in variant.depths if (g := variant.at(head, t))} for head in ("em", "hem")}
    pairs = [t for t in variant.depths if t in by_head["em"] and t in by_head["hem"]]
    family = against_plain(section)
    tested = [family[by_head["hem"][t]] for t in pairs]
    lines = [
        Line(hem if head == "hem" else head, head_colour(head),
             {t: g.by_seed() for t, g in groups.items()}, MARKERS[head])
        for head, groups in by_head.items() if groups
    ]  # fmt: skip
    rivals, too_many = some_of(emanet_lines(variant, others(section), by_training, head_colour("emanet")))
    drawn = lines + rivals
    if len({t for line in drawn for t in line.points}) > 1:
        levels = _levels(section)
        left = no_room([label for label, *_ in levels[MOST_LEVELS:]])
        flat = ", horizontal lines the mean of heads without iterations" if levels else ""
        note = f"Means over seeds with 95% intervals; faint dots are single seeds{flat}."
        block.items.append(Chart(
            slug, AGAINST_T, joined(note, too_many, left),
            lambda: score_chart(drawn, levels[:MOST_LEVELS], "iterations T"),
        ))  # fmt: skip
    else:
        block.paragraphs.append("One T only, so there is no curve over T.")
    block.paragraphs += _not_tested(variant, bool(pairs))
    rows = [
        [t, by_head["em"][t].score(), by_head["hem"][t].score(), *test_cells(found)]
        for t, found in zip(pairs, tested, strict=True)
    ]
    columns = (Column("T"), Column("em"), Column(hem), *TESTS)
    if rows:
        caption = f"mIoU of em and {hem} at each T, and paired tests of {hem} minus em. {_family(variant)}"
        block.items.append(Table(f"{slug}_miou_vs_iterations", caption, columns, rows))
    block.findings = [sentence(found) for found in tested]
    if len(tested) > 1:
        block.findings.insert(0, counts(tested, "between hem and em"))
    return block if lines else None


def _not_tested(variant: Variant, some: bool) -> list[str]:
    """Return sentences on the highways that are not tested; ``some`` says whether any is."""
    found = []
    if not some:
        found.append(f"No T at which both em and hem finished{usual_mode(variant)}, so nothing to compare.")
    if other := [group.label for group, _ in variant.pairs if group.gradient != variant.mode]:
        found.append(f"Not tested against em, since of another gradient mode: {'; '.join(other)}.")
    return found


def _levels(section: Section) -> list[tuple[str, str, float]]:
    found = [(group, group.score()) for group in others(section) if group.iterations is None]
    return [(group.label, head_colour(group.head), score.mean) for group, score in found if score]


def against_scale(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return mIoU against h with a curve per T, and paired tests against h = 0 at the same T.

    It is of each T that has hem of another h than `Variant.scale`, so that `against_depth` or this shows
    each test of the family.
    """
    at = {t: [g for g in variant.usual if g.iterations == t] for t in variant.depths}
    at = {
        t: groups for t, groups in at.items()
        if any(group.head == "hem" and group.scale != variant.scale for group in groups)
    }  # fmt: skip
    if not at:
        return None
    family = against_plain(section)
    rows: list[list[Cell]] = []
    for t, groups in at.items():
        for group in groups:
            score = group.score()
            cells = test_cells(family[group]) if group in family else NOT_TESTED
            rows.append([t, scale_text(group.scale), score, score.n if score else 0, *cells])
    tested = [family[group] for groups in at.values() for group in groups if group in family]
    block = Block(AGAINST_H.chapter)
    depths = list(at)
    lines = [
        Line(f"T={t}", scale_colour(i / max(len(depths) - 1, 1)),
             {g.scale: g.by_seed() for g in at[t] if isinstance(g.scale, float)},
             ALL_MARKERS[i % len(ALL_MARKERS)])
        for i, t in enumerate(depths)
    ]  # fmt: skip
    drawn, left = some_of([line for line in lines if line.points])
    unplaced = [g.label for groups in at.values() for g in groups if not isinstance(g.scale, float)]
    if any(len(line.points) > 1 for line in lines):
        block.items.append(Chart(
            slug, AGAINST_H,
            joined("Means over seeds with 95% intervals; h = 0 is plain EM.", *not_numbers(unplaced), left),
            lambda: score_chart(drawn, [], "highway scale h", "true"),
        ))  # fmt: skip
    block.items.append(Table(
        f"{slug}_miou_vs_scale",
        f"mIoU at each h, and paired tests against h = 0 at the same T. {_family(variant)}",
        (Column("T"), Column("h"), Column("mIoU"), Column("n"), *TESTS), rows,
    ))  # fmt: skip
    block.findings = (
        summary(tested, "from h = 0") if tested else [f"No run has h = 0 at such a T{usual_mode(variant)}."]
    )
    return block


def _family(variant: Variant) -> str:
    where = f"at every T{usual_mode(variant)}, in all variants"
    return f"Holm's correction is over the tests of every h against plain EM {where}."


def counts(tested: Sequence[Comparison], what: str) -> str:
    """Return a sentence that counts the verdicts of a family, the differences of ``what``."""
    found = Counter(comparison.verdict for comparison in tested)
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(found.items()))
    return f"Of {counted(len(tested), 'difference')} {what}: {verdicts}."


def summary(tested: Sequence[Comparison], what: str) -> list[str]:
    """Return a sentence that counts the verdicts of a family, and one per supported comparison."""
    return [counts(tested, what), *(sentence(found) for found in tested if found.supported)]
