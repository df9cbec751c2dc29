"""The verdicts of STUDY.md: each contrast of a family tested and corrected, in the plan's words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from study_finished import Finished, Setting
from study_plan import Contrast, Family
from study_tables import Table, mean_and_interval, slug

from hemnet.report.significance import LEAST_SEEDS, Comparison, compare, holm_p, p_text

SO_FAR = " so far"
Found = dict[Setting, dict[int, Finished]]


class Outcome(NamedTuple):
    """A contrast and its result; ``found`` is None if the contrast cannot be tested."""

    contrast: Contrast
    found: Comparison | None
    words: str


def values(contrast: Contrast, found: Found) -> tuple[dict[int, float], dict[int, float]]:
    """Return the measure of each side of a contrast by seed, of the runs that have it."""
    first, second = (
        {seed: value for seed, run in found[setting].items() if (value := measure(run)) is not None}
        for setting, measure in (
            (contrast.first, contrast.measure),
            (contrast.second, contrast.other or contrast.measure),
        )
    )
    return first, second


def compared(contrasts: Sequence[Contrast], found: Found) -> list[tuple[int, Comparison]]:
    """Return the number of pairs of each contrast, and its comparison over those with a number."""
    made = []
    for contrast in contrasts:
        first, second = values(contrast, found)
        made.append((len(first.keys() & second.keys()), compare("", ("", first), ("", second))))
    return made


def decide(family: Family, found: Found) -> list[Outcome]:
    """Return a family's outcomes; in Holm's correction a contrast that lacks pairs counts with p = 1.

    The others' p after Holm can only fall when it gets its own. So a verdict of a difference stays, and one
    of none may turn, if it would with p = 0 for those that lack pairs.
    """
    counts, comparisons = zip(*compared(family.contrasts, found), strict=True)
    whole = [count == family.seeds for count in counts]
    known = [ready and len(c.seeds) >= LEAST_SEEDS for c, ready in zip(comparisons, whole, strict=True)]
    # Pairs that do not vary, as of scores that differ by rounding, cannot be tested.
    ps = [1.0 if c.p is None or not has else c.p for c, has in zip(comparisons, known, strict=True)]
    corrected = [replace(c, p_holm=h) for c, h in zip(comparisons, holm_p(ps), strict=True)]
    least = holm_p([p if ready else 0.0 for p, ready in zip(ps, whole, strict=True)])
    outcomes = []
    for i, contrast in enumerate(family.contrasts):
        if not whole[i]:
            words = f"not yet: {counts[i]} of {family.seeds} pairs"
        elif not known[i]:
            words = "undefined in too many runs"
        else:
            at_best = replace(corrected[i], p_holm=least[i])
            words = in_words(
                corrected[i], contrast.claimed, len(corrected[i].seeds), may_turn=at_best.supported
            )
        outcomes.append(Outcome(contrast, corrected[i] if known[i] else None, words))
    return outcomes


def in_words(found: Comparison, claimed: int, seeds: int, *, may_turn: bool = False) -> str:
    """Return the verdict on a difference after Holm, in STUDY.md's words, and whether it may still turn."""
    assert found.difference is not None
    if found.unjudged:
        return found.unjudged
    if not found.supported:
        words = f"no difference shown{SO_FAR if may_turn else ''}"
    elif claimed == 0:
        words = "above 0" if found.difference.mean > 0 else "below 0"
    else:
        words = "supported" if found.difference.mean * claimed > 0 else "contradicted"
    return qualified(words, seeds)


def qualified(words: str, seeds: int) -> str:
    """Return a verdict with what a small number of seeds cannot show."""
    return words if seeds > 3 else f"{words} ({seeds} seeds: large differences only)"


COMPARED = ("contrast", "pairs", "above 0", "mean difference", "95% interval", "p")


def cells(found: Comparison | None) -> list[str]:
    """Return the cells of `COMPARED` after the first, empty if there is no comparison."""
    if found is None or found.difference is None:
        return [""] * (len(COMPARED) - 1)
    p = "" if found.p is None else p_text(found.p)
    return [str(len(found.seeds)), str(found.above), *mean_and_interval(found.difference, signed=True), p]


def outcome_table(family: Family, verdicts: Sequence[Outcome]) -> Table:
    """Return the table of a family of the plan."""
    rows = [
        [contrast.name, *cells(found), "" if found is None else p_text(found.p_holm or 0.0), words]
        for contrast, found, words in verdicts
    ]
    return Table(slug(family.title), (*COMPARED, "p after Holm", "verdict"), rows)
