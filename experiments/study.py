"""Print the tests and measures that STUDY.md fixed beforehand, from the runs that have finished.

    python experiments/study.py RUNS_FOLDER [RUNS_FOLDER ...] [--tables FOLDER] > verdicts.md

Runs are recognised by their configurations, in any folder. A contrast of the plan that lacks pairs shows no
number. What the plan does not have comes last, as exploratory.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from study_explored import by_image, over_split, refits
from study_finished import Finished, Setting, score
from study_measures import costs, entropies, evaluated, planned, sharpened
from study_plan import Contrast, Family, exploratory, plan
from study_runs import members, read_runs
from study_tables import Table, mean_and_interval, slug

from hemnet.config.command_line import run_entry
from hemnet.errors import HemnetError
from hemnet.report.significance import Comparison, compare, holm, p_text
from hemnet.storage.places import absolute

Found = dict[Setting, dict[int, Finished]]
Group = tuple[Family, Found]


class Outcome(NamedTuple):
    """A contrast and its result; ``found`` is None if the contrast cannot be tested."""

    contrast: Contrast
    found: Comparison | None
    words: str


def compared(contrasts: Sequence[Contrast], found: Found) -> list[tuple[int, Comparison]]:
    """Return the number of pairs of each contrast, and its comparison over those with a number."""
    made = []
    for contrast in contrasts:
        first, second = (
            {seed: value for seed, run in found[setting].items() if (value := measure(run)) is not None}
            for setting, measure in (
                (contrast.first, contrast.measure),
                (contrast.second, contrast.other or contrast.measure),
            )
        )
        made.append((len(first.keys() & second.keys()), compare("", ("", first), ("", second))))
    return made


def decide(family: Family, found: Found) -> list[Outcome]:
    """Return a family's outcomes; in Holm's correction a contrast that lacks pairs counts with p = 1."""
    counts, comparisons = zip(*compared(family.contrasts, found), strict=True)
    whole = [count == family.seeds for count in counts]
    known = [ready and c.p is not None for c, ready in zip(comparisons, whole, strict=True)]
    family_ps = [c if has else replace(c, p=1.0) for c, has in zip(comparisons, known, strict=True)]
    corrected = holm(family_ps, conclusive=True)
    outcomes = []
    for i, contrast in enumerate(family.contrasts):
        if not whole[i]:
            words = f"not yet: {counts[i]} of {family.seeds} pairs"
        elif not known[i]:
            words = "undefined in too many runs"
        else:
            words = in_words(corrected[i], contrast.claimed, family.seeds)
        outcomes.append(Outcome(contrast, corrected[i] if known[i] else None, words))
    return outcomes


def in_words(found: Comparison, claimed: int, seeds: int) -> str:
    """Return the verdict on a difference after Holm, in the words of STUDY.md."""
    assert found.difference is not None
    if not found.supported:
        words = "no difference shown"
    elif claimed == 0:
        words = "above 0" if found.difference.mean > 0 else "below 0"
    else:
        words = "supported" if found.difference.mean * claimed > 0 else "contradicted"
    return words if seeds > 3 else f"{words} ({seeds} seeds: large differences only)"


COMPARED = ("contrast", "pairs", "mean difference", "95% interval", "p")


def cells(found: Comparison | None) -> list[str]:
    """Return the cells of `COMPARED` after the first, empty if there is no comparison."""
    if found is None or found.difference is None:
        return [""] * (len(COMPARED) - 1)
    p = "" if found.p is None else p_text(found.p)
    return [str(len(found.seeds)), *mean_and_interval(found.difference, signed=True), p]


def outcome_table(family: Family, verdicts: Sequence[Outcome]) -> Table:
    """Return the table of a family of the plan."""
    rows = [
        [contrast.name, *cells(found), "" if found is None else p_text(found.p_holm or 0.0), words]
        for contrast, found, words in verdicts
    ]
    return Table(slug(family.title), (*COMPARED, "p after Holm", "verdict"), rows)


def explored(controls: Sequence[Group], every: Sequence[Group]) -> Iterator[str | Table]:
    """Yield what STUDY.md calls exploratory: the controls, and measures that the plan does not have."""
    yield "\n# Exploratory\n\nAdded after the plan. No verdicts; p is not corrected."
    for family, found in controls:
        made = compared(family.contrasts, found)
        rows = [
            [contrast.name, *cells(comparison)]
            for contrast, (count, comparison) in zip(family.contrasts, made, strict=True)
            if count
        ]
        yield f"\n## {family.title}\n"
        yield Table(slug(family.title), COMPARED, rows) if rows else "- not yet: no pair of runs has finished"
    yield from by_image(every)
    yield from over_split(of_heads(every, "hem"))
    yield from refits(of_heads(every, "hem"))


def on_depth(verdicts: Sequence[Outcome]) -> Iterator[str]:
    """Yield the verdicts on claim 2, from the family "Depth"."""
    words = {(v.contrast.first.T, v.contrast.first.h, v.contrast.second.h): v.words for v in verdicts}
    for T in (8, 16):
        half, high, between = (words[T, *pair] for pair in ((0.5, 0.0), (0.9, 0.0), (0.5, 0.9)))
        for claim, parts, enough in (
            (f"plain EM is beaten at T = {T}", (half, high), any),
            (f"the best step is intermediate at T = {T}", (half, between), all),
        ):
            shown = enough(part.startswith("supported") for part in parts)
            waits = any(part.startswith("not yet") for part in parts)
            yield f"- {claim}: {'shown' if shown else 'not yet' if waits else 'not shown'}"


def sharpening(primary: Found) -> str:
    """Return in how many primary runs the entropy of the responsibilities falls at every t (claim 5)."""
    found = [run.at_end("em/entropy") for by_seed in primary.values() for run in by_seed.values()]
    known = [found_T for found_T in found if found_T is not None]
    fell = sum(bool((np.diff(found_T) < 0).all()) for found_T in known)
    waits = f"not yet: {len(known)} of 16 runs" if len(known) < 16 else "supported"
    words = "not supported" if fell < len(known) else waits  # one run that rises decides
    return f"- entropy falls with every t in {fell} of {len(known)} primary runs: {words}"


def grouped(
    families: Sequence[Family], runs: Sequence[Finished], refused: list[str] | None = None
) -> list[Group]:
    """Return each family with its runs.

    Args:
        families: of the plan, or exploratory.
        runs: all runs.
        refused: gets why a family has runs that cannot be compared, which then has none.

    Raises:
        HemnetError: see `members`, without ``refused``.
    """
    made: list[Group] = []
    for family in families:
        try:
            made.append((family, members(family.title, family.settings, family.seeds, runs)))
        except HemnetError as error:
            if refused is None:
                raise
            refused.append(str(error))
            made.append((family, {setting: {} for setting in family.settings}))
    return made


def paths(groups: Sequence[Group]) -> set[Path]:
    """Return the folders of the runs."""
    return {run.run.path for _, found in groups for by_seed in found.values() for run in by_seed.values()}


def merged(groups: Sequence[Group]) -> Found:
    """Return the runs of each setting of all groups, in the order of the settings' names."""
    every: Found = {}
    for _, found in groups:
        for setting, by_seed in found.items():
            every[setting] = every.get(setting, {}) | by_seed
    return {setting: every[setting] for setting in sorted(every, key=str)}


def scores(groups: Sequence[Group]) -> Table:
    """Return the scores of the runs of the plan and of the controls, by setting and seed."""
    seeds = range(max(family.seeds for family, _ in groups))
    rows = []
    for setting, by_seed in merged(groups).items():
        known = {seed: value for seed, run in by_seed.items() if (value := score(run)) is not None}
        if known:
            each = (f"{known[seed]:.4f}" if seed in known else "" for seed in seeds)
            rows.append([setting, len(known), f"{np.mean([*known.values()]):.4f}", *each])
    return Table("scores", ["setting", "runs", "mean", *(f"seed {seed}" for seed in seeds)], rows)


def progress(groups: Sequence[Group]) -> Table:
    """Return how many of the plan's runs have finished, and how many contrasts have all pairs, by block."""

    def row(block: str, own: Sequence[Group]) -> list[object]:
        wanted = {
            (setting, seed)
            for family, _ in own
            for setting in family.settings
            for seed in range(family.seeds)
        }
        done = {(setting, seed) for _, found in own for setting, runs in found.items() for seed in runs}
        ready = [
            count == family.seeds for family, found in own for count, _ in compared(family.contrasts, found)
        ]
        return [block, len(ready), sum(ready), len(wanted), len(done)]

    rows = [row(group[0].title, [group]) for group in groups]
    header = ("block", "contrasts", "with all pairs", "planned runs", "finished")
    return Table("progress", header, [*rows, row("all, each run once", groups)])


def of_heads(groups: Sequence[Group], *heads: str) -> dict[Setting, list[Finished]]:
    """Return the runs of each setting with one of these heads, in the order of the settings' names."""
    return {
        setting: [*by_seed.values()]
        for setting, by_seed in merged(groups).items()
        if by_seed and setting.head in heads
    }


def study(folders: Sequence[Path], experiment: str) -> Iterator[str | Table]:
    """Yield the page, piece by piece.

    Raises:
        HemnetError: a folder has no such run, or two runs of a family differ in what they must share.
    """
    runs, left_out = read_runs(folders, experiment)
    refused: list[str] = []  # what is exploratory keeps no verdict from being shown
    groups, controls = grouped(plan(), runs), grouped(exploratory(), runs, refused)
    in_plan, known = paths(groups), paths([*groups, *controls])
    yield f"# `{experiment}`: {len(in_plan)} finished runs of the plan\n"
    revisions = Counter(run.record.revision for run in runs if run.run.path in in_plan)
    yield f"- revisions: {', '.join(f'{name} ({count} runs)' for name, count in revisions.items())}"
    for what, named in (
        ("of the controls", [run.run.path for run in runs if run.run.path in known - in_plan]),
        ("outside the plan", [run.run.path for run in runs if run.run.path not in known]),
    ):
        yield from [f"- {what}: {', '.join(path.name for path in named)}"] if named else []
    yield from (f"- {told}" for told in [*left_out, *refused])
    yield "\n## Blocks\n\nSome share runs.\n"
    yield progress(groups)
    yield "\n## Scores\n\n`val/miou` of the last step.\n"
    yield scores([*groups, *controls])
    yield "\n## Cost\n\nParameters, and FLOPs of a training crop, in 10^9.\n"
    yield costs(merged(groups))
    for family, found in groups:
        verdicts = decide(family, found)
        yield f"\n## {family.title}\n"
        yield outcome_table(family, verdicts)
        if family.title == "Depth":
            yield ""
            yield from on_depth(verdicts)
        if family.title == "Primary":
            yield ""
            yield sharpening(found)
            yield "\nMean entropy of the responsibilities at the end of training, in nats:\n"
            yield entropies(found)
            yield "\nRuns in which it falls with every t, and over the E-steps alone (t < T):\n"
            yield sharpened(found)
    yield ""
    yield from evaluated(of_heads(groups, "hem", "emanet"))
    yield from planned(of_heads(groups, "hem"))
    yield from explored(controls, [*groups, *controls])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=absolute, metavar="RUNS_FOLDER", help="holds runs")
    parser.add_argument("--experiment", default="camvid_lite_hem", metavar="NAME", help="the runs' recipe")
    parser.add_argument(
        "--tables", type=absolute, metavar="FOLDER", help="where each table goes as a CSV file"
    )
    options = parser.parse_args(arguments)
    pieces = [*study(options.folders, options.experiment)]
    print("\n".join(map(str, pieces)))
    try:
        for piece in pieces:
            if options.tables and isinstance(piece, Table):
                piece.write(options.tables)
    except OSError as error:
        raise HemnetError(
            f"cannot write to {options.tables} ({error}): name another folder for --tables"
        ) from error


if __name__ == "__main__":
    run_entry(main)
