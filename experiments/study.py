"""Print the tests and measures that STUDY.md fixed beforehand, from the runs that have finished.

    python experiments/study.py RUNS_FOLDER [RUNS_FOLDER ...] > verdicts.md

Runs are recognised by their configurations, in any folder. A contrast that lacks pairs shows no number.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from study_plan import Contrast, Family, plan
from study_runs import (
    TENTHS,
    Finished,
    Measure,
    Setting,
    evaluated_at,
    evenness,
    members,
    read_runs,
    step_ratio,
)

from hemnet.errors import HemnetError
from hemnet.report.significance import Comparison, Estimate, compare, estimate, holm, p_text

EVALUATED = (1, 2, 3, 4, 6, 8, 12, 16, 32)
# Smaller falls, relative to the log-likelihood, are rounding of float32.
ROUNDING = 1e-6


class Outcome(NamedTuple):
    """A contrast and its result; ``found`` is None if the contrast cannot be tested."""

    contrast: Contrast
    found: Comparison | None
    words: str


def decide(family: Family, found: dict[Setting, dict[int, Finished]]) -> list[Outcome]:
    """Return a family's outcomes; in Holm's correction a contrast that lacks pairs counts with p = 1."""
    compared, counts = [], []
    for contrast in family.contrasts:
        sides = [
            {seed: value for seed, run in found[setting].items() if (value := measure(run)) is not None}
            for setting, measure in (
                (contrast.first, contrast.measure),
                (contrast.second, contrast.other or contrast.measure),
            )
        ]
        counts.append(len(sides[0].keys() & sides[1].keys()))
        compared.append(compare("", ("", sides[0]), ("", sides[1])))
    whole = [count == family.seeds for count in counts]
    known = [ready and c.p is not None for c, ready in zip(compared, whole, strict=True)]
    family_ps = [c if has else replace(c, p=1.0) for c, has in zip(compared, known, strict=True)]
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


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def outcome_table(verdicts: Sequence[Outcome]) -> str:
    """Return the table of a family."""
    rows = []
    for contrast, found, words in verdicts:
        name = contrast.about or f"{contrast.first} against {contrast.second}"
        cells = ["", "", "", "", ""]
        if found is not None:
            tested = (p_text(p) for p in (found.p, found.p_holm) if p is not None)
            cells = [str(len(found.seeds)), *mean_and_interval(found.difference, signed=True), *tested]
        rows.append([name, *cells, words])
    return table(
        ("contrast", "pairs", "mean difference", "95% interval", "p", "p after Holm", "verdict"), rows
    )


def mean_and_interval(found: Estimate | None, signed: bool = False) -> list[str]:
    """Return two cells, the mean and its interval."""
    if found is None:
        return ["", ""]
    sign = "+" if signed else ""
    interval = "" if found.low is None else f"{found.low:{sign}.4f} to {found.high:{sign}.4f}"
    return [f"{found.mean:{sign}.4f}", interval]


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


def measures(found: dict[Setting, dict[int, Finished]]) -> Iterator[str]:
    """Yield the tables of the further measures, over the runs of each setting."""
    groups = {setting: [*by_seed.values()] for setting, by_seed in found.items() if by_seed}
    yield "## Evaluated at other T\n\nMean `val/miou` over the runs with such an evaluation; not tested.\n"
    yield table(("setting", *(f"T = {T}" for T in EVALUATED)), [
        [setting, *(mean_and_interval(over(runs, partial(evaluated_at, T)))[0] for T in EVALUATED)]
        for setting, runs in groups.items()
    ])  # fmt: skip
    yield (
        "\n## Shares of the gradient\n\nEvenness (1 is even) by tenth of the recorded steps, mean over runs;"
        " and the ratio of an\niteration's share to that of the one after, over the last tenth.\n"
    )
    yield table(("setting", "runs", *TENTHS, "ratio", "95% interval", "1 - η"), [
        [
            setting, len(runs),
            *(mean_and_interval(over(runs, partial(evenness, tenth=tenth)))[0] for tenth in TENTHS),
            *mean_and_interval(over(runs, step_ratio)), setting.h,
        ]
        for setting, runs in groups.items()
    ])  # fmt: skip
    yield "\n## Iterations that lower the log-likelihood, at the end of training\n"
    yield table(
        ("setting", "runs", "steps that fell", "their mean", "largest", "L(T) <= L(0)"),
        [[setting, *falls(runs)] for setting, runs in groups.items()],
    )
    yield "\n## Gradient of the backbone\n\nMedian over steps, mean over runs; and the largest of all.\n"
    yield table(("setting", "runs", "median", "largest"), [
        [setting, len(norms), f"{np.mean([*map(np.median, norms)]):.3g}", f"{max(map(np.max, norms)):.3g}"]
        for setting, runs in groups.items()
        if (norms := [run.backbone for run in runs if len(run.backbone)])
    ])  # fmt: skip


def over(runs: Sequence[Finished], measure: Measure) -> Estimate | None:
    """Return the mean of a measure over the runs in which it is defined."""
    return estimate([math.nan if (value := measure(run)) is None else value for run in runs])


def falls(runs: Sequence[Finished]) -> list[object]:
    """Return number of runs, falling steps, mean and largest fall, and the runs with L(T) <= L(0)."""
    courses = [(run, found_T) for run in runs if (found_T := run.at_end("em/log_likelihood")) is not None]
    steps = np.concatenate([np.diff(found_T) for _, found_T in courses] or [np.zeros(0)])
    sizes = np.concatenate([np.abs(found_T[:-1]) for _, found_T in courses] or [np.zeros(0)])
    fell = -steps[steps < -ROUNDING * sizes]
    lost = ", ".join(run.run.path.name for run, found_T in courses if found_T[-1] <= found_T[0]) or "none"
    sides = [f"{fell.mean():.2g}", f"{fell.max():.2g}"] if len(fell) else ["", ""]
    return [len(courses), f"{len(fell)} of {len(steps)}", *sides, lost]


def sharpening(primary: dict[Setting, dict[int, Finished]]) -> str:
    """Return in how many primary runs the entropy of the responsibilities falls at every t (claim 5)."""
    found = [run.at_end("em/entropy") for by_seed in primary.values() for run in by_seed.values()]
    known = [found_T for found_T in found if found_T is not None]
    fell = sum(bool((np.diff(found_T) < 0).all()) for found_T in known)
    words = f"not yet: {len(known)} of 16 runs" if len(known) < 16 else (
        "supported" if fell == 16 else "not supported"
    )  # fmt: skip
    return f"- entropy falls with every t in {fell} of {len(known)} primary runs: {words}"


def study(folders: Sequence[Path], experiment: str) -> Iterator[str]:
    """Yield the page, piece by piece.

    Raises:
        HemnetError: a folder has no such run, or two runs of a family differ in what they must share.
    """
    runs, unfinished = read_runs(folders, experiment)
    every: dict[Setting, dict[int, Finished]] = {}
    pages = []
    for family in plan():
        found = members(family.title, family.settings, family.seeds, runs)
        for setting, by_seed in found.items():
            if setting.head == "hem":
                every[setting] = every.get(setting, {}) | by_seed
        pages.append((family, found, decide(family, found)))
    planned = {
        run.run.path for _, found, _ in pages for by_seed in found.values() for run in by_seed.values()
    }
    yield f"# `{experiment}`: {len(planned)} finished runs of the plan\n"
    revisions = Counter(run.revision for run in runs if run.run.path in planned)
    yield f"- revisions: {', '.join(f'{name} ({count} runs)' for name, count in revisions.items())}"
    for what, paths in (
        ("not finished", unfinished),
        ("outside the plan", [run.run.path for run in runs if run.run.path not in planned]),
    ):
        yield from [f"- {what}: {', '.join(path.name for path in paths)}"] if paths else []
    for family, found, verdicts in pages:
        yield f"\n## {family.title}\n"
        yield outcome_table(verdicts)
        if family.title == "Depth":
            yield ""
            yield from on_depth(verdicts)
        if family.title == "Primary":
            yield ""
            yield sharpening(found)
    yield ""
    yield from measures(dict(sorted(every.items(), key=lambda item: str(item[0]))))


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUNS_FOLDER", help="holds runs")
    parser.add_argument("--experiment", default="camvid_lite_hem", metavar="NAME", help="the runs' recipe")
    options = parser.parse_args()
    try:
        print("\n".join(study(options.folders, options.experiment)))
    except HemnetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
