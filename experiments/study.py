"""Print the tests and measures that STUDY.md fixed beforehand, from the runs that have finished.

    python experiments/study.py RUNS_FOLDER [RUNS_FOLDER ...] [--tables FOLDER] > verdicts.md

Runs are recognised by their configurations, in any folder. A contrast of the plan that lacks pairs shows no
number. What the plan does not have comes last, as exploratory.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from study_claims import claims
from study_explored import by_image, over_split, refits
from study_finished import Finished, Setting, score
from study_measures import costs, entropies, evaluated, planned, sharpened
from study_plan import Family, exploratory, plan
from study_power import sensitivity
from study_runs import members, read_runs
from study_tables import Table, slug
from study_verdicts import COMPARED, Found, cells, compared, decide, outcome_table

from hemnet.config.command_line import run_entry
from hemnet.errors import HemnetError
from hemnet.report.significance import LEAST_SEEDS
from hemnet.storage.places import absolute

Group = tuple[Family, Found]


def explored(controls: Sequence[Group], every: Sequence[Group]) -> Iterator[str | Table]:
    """Yield what STUDY.md calls exploratory: the controls, and measures that the plan does not have."""
    yield "\n# Exploratory\n\nAdded after the plan. No verdicts; p is not corrected."
    for family, found in controls:
        made = compared(family.contrasts, found)
        rows = [
            [contrast.name, *cells(comparison)]
            for contrast, (count, comparison) in zip(family.contrasts, made, strict=True)
            if count >= LEAST_SEEDS  # as in the plan, a contrast that has just begun shows no number
        ]
        yield f"\n## {family.title}\n"
        yield Table(slug(family.title), COMPARED, rows) if rows else "- not yet: fewer than 3 pairs of runs"
    [primary] = [found for family, found in every if family.title == "Primary"]
    blocks = merged([group for group in every if group[0].title in ("Depth", "Bridge", "Eq. 7")])
    others = {setting: runs for setting, runs in blocks.items() if runs and setting not in primary}
    yield "\n## Sharpening outside the primary runs\n\nRuns in which the mean entropy falls.\n"
    yield sharpened(others, "sharpening_outside_the_primary_runs")
    yield from by_image(every)
    yield from over_split(of_heads(every, "hem"))
    yield from refits(of_heads(every, "hem"))


def grouped(families: Sequence[Family], runs: Sequence[Finished]) -> tuple[list[Group], list[HemnetError]]:
    """Return each family with its runs, none where these cannot be compared, and why they cannot."""
    made: list[Group] = []
    refused: list[HemnetError] = []
    for family in families:
        try:
            made.append((family, members(family.title, family.settings, family.seeds, runs)))
        except HemnetError as error:
            refused.append(error)
            made.append((family, {setting: {} for setting in family.settings}))
    return made, refused


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
    blocks = []
    for family, found in groups:
        ready = [count == family.seeds for count, _ in compared(family.contrasts, found)]
        wanted = set(product(family.settings, range(family.seeds)))
        done = {(setting, seed) for setting, runs in found.items() for seed in runs}
        blocks.append((family.title, len(ready), sum(ready), wanted, done))
    _, contrasts, complete, wanted, done = zip(*blocks, strict=True)
    every = ("all, each run once", sum(contrasts), sum(complete), set().union(*wanted), set().union(*done))
    header = ("block", "contrasts", "with all pairs", "planned runs", "finished")
    rows = [[*block[:3], len(block[3]), len(block[4])] for block in (*blocks, every)]
    return Table("progress", header, rows)


def of_heads(groups: Sequence[Group], *heads: str) -> dict[Setting, list[Finished]]:
    """Return the runs of each setting with one of these heads, in the order of the settings' names."""
    return {
        setting: [*by_seed.values()]
        for setting, by_seed in merged(groups).items()
        if by_seed and setting.head in heads
    }


def by_runs(values: Iterable[str]) -> str:
    """Return each value, one per run, with the number of its runs."""
    return ", ".join(f"{value} ({count} runs)" for value, count in Counter(values).items())


def study(folders: Sequence[Path], experiment: str) -> Iterator[str | Table]:
    """Yield the page, piece by piece.

    Raises:
        HemnetError: a folder has no such run, or two runs of a family differ in what they must share.
    """
    runs, left_out = read_runs(folders, experiment)
    groups, refused = grouped(plan(), runs)
    if refused:
        raise refused[0]
    controls, refused = grouped(exploratory(), runs)  # whose refusals keep no verdict from being shown
    every = [*groups, *controls]
    in_plan, known = paths(groups), paths(every)
    yield f"# `{experiment}`: {len(in_plan)} finished runs of the plan\n"
    planned_runs = [run.record for run in runs if run.run.path in in_plan]
    yield f"- revisions: {by_runs(run.revision for run in planned_runs)}"
    if any(run.instructions for run in planned_runs):
        yield f"- instruction sets: {by_runs(run.instructions or 'not recorded' for run in planned_runs)}"
    for what, named in (
        ("of the controls", [run.run.path for run in runs if run.run.path in known - in_plan]),
        ("outside the plan", [run.run.path for run in runs if run.run.path not in known]),
    ):
        yield from [f"- {what}: {', '.join(path.name for path in named)}"] if named else []
    yield from (f"- {told}" for told in [*left_out, *refused])
    yield "\n## Blocks\n\nSome share runs.\n"
    yield progress(groups)
    decided = {family.title: decide(family, found) for family, found in groups}
    yield "\n## The paper's claims\n"
    yield claims(decided, groups[0][1])
    yield "\n## Scores\n\n`val/miou` of the last step.\n"
    yield scores(every)
    yield "\n## Cost\n\nParameters, and FLOPs of a training crop, in 10^9.\n"
    yield costs(merged(groups))
    for family, found in groups:
        yield f"\n## {family.title}\n"
        yield outcome_table(family, decided[family.title])
        if family.title == "Primary":
            yield "\nMean entropy of the responsibilities at the end of training, in nats:\n"
            yield entropies(found)
            yield "\nRuns in which it falls with every t, and over the E-steps alone (t < T):\n"
            yield sharpened(found)
    yield from sensitivity(groups)
    yield ""
    yield from evaluated(of_heads(every, "hem", "emanet"))
    yield from planned(of_heads(groups, "hem"))
    yield from explored(controls, every)


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
