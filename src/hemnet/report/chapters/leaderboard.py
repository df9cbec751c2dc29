"""The first chapter: every setting of every recipe by its score, a table for each data set."""

import os
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hemnet.report.contents import Block, Cell, Column, Links, Table
from hemnet.report.estimates import Mean, mean_alone
from hemnet.report.file_names import file_names
from hemnet.report.groups import Group, Section, group_labels
from hemnet.report.images import figure_of
from hemnet.report.lost_runs import AMBIGUOUS
from hemnet.report.own_settings import own_settings
from hemnet.report.record import Record, on_one_machine
from hemnet.report.setting_labels import Settings, labels
from hemnet.runs.canonical import TARGET, told
from hemnet.runs.identity import below
from hemnet.runs.moved import ROOT
from hemnet.runs.run_settings import DIMENSIONS, NAMED_BY_FOLDER, VALIDATION, data_folder
from hemnet.wording import counted

TITLE = "Leaderboard"
ABOUT = (
    "A row per setting, by the mean over its seeds. Rows are not tested against each other, and "
    "settings of different recipes may differ in more than their names say: comparisons follow below. "
    "Where many keys differ, a row leaves out those in which it has the most common value."
)
TIMES = "Minutes and steps are of the whole training, means over the seeds of which they are known."
DOUBTS = (
    "Not conclusive: the recipe says that its scores tell nothing. Labels in doubt: a run warns of what it "
    "was trained or scored with. Seeds that did not finish or have no score, as after a divergence, are "
    "in no mean, which is of the others alone."
)
COLUMNS = (Column("recipe"), Column("setting"), Column("mIoU"), Column("seeds"), Column("minutes", 1),
           Column("steps", 0), Column("runs, by seed"))  # fmt: skip
Entry = tuple[Section, Group]


def leaderboard(made: Sequence[Section], records: Sequence[Record], folder: Path) -> Block | None:
    """Return the tables of all settings by score; None without a finished run.

    Args:
        made: the sections.
        records: all runs, also those that did not finish.
        folder: that of the page, from which the links to the runs start.
    """
    by_data: dict[frozenset[tuple[str, str]], list[Entry]] = defaultdict(list)
    for section in made:
        scored = frozenset((k, v) for k, v in section.settings.items() if below(k, (VALIDATION, ROOT)))
        by_data[scored] += [(section, group) for group in section.groups]
    if not by_data:
        return None
    block = Block(TITLE, [ABOUT])
    names = _names(by_data)
    wanted = [f"leaderboard_{name}" for name in names] if len(names) > 1 else ["leaderboard"]
    files = file_names([*zip(wanted, map(sorted, by_data), strict=True)])
    boards = sorted(zip(names, files, by_data.values(), strict=True), key=lambda board: -len(board[2]))
    for data, name, entries in boards:
        rows = [row for _, row in sorted(_rows(entries, folder), key=lambda row: -row[0])]
        caption = f"{data}: mIoU on the validation split (val/miou), highest first. {TIMES}"
        if not on_one_machine(run for _, group in entries for run in group.runs.values()):
            caption += " The runs are of several machines, by which minutes differ too."
        block.items.append(Table(name, caption, COLUMNS, rows, sortable=True))
    if any(_doubt(*entry) for entries in by_data.values() for entry in entries):
        block.paragraphs.append(DOUBTS)
    if never := _never_finished(made, records):
        block.paragraphs.append(
            f"Settings of which no run has finished, and so without a row: {'; '.join(never)}."
        )
    return block


def _never_finished(made: Sequence[Section], records: Sequence[Record]) -> list[str]:
    """Return each setting that has runs, none of them finished, and how these ended."""
    groups = [(group, {**group.rest, **section.settings}) for section in made for group in section.groups]
    placed = {id(run) for group, _ in groups for run in group.lost}
    lost = [run for run in records if run.is_lost and id(run) not in placed and AMBIGUOUS not in run.doubts]
    if not lost:
        return []
    finished = [next(iter(group.runs.values())) for group, _ in groups]
    found: dict[tuple[object, ...], Group] = {}
    for run, own in zip(lost, own_settings([*finished, *lost])[len(finished) :], strict=True):
        who, rest = run.identity, {key: value for key, value in own.items() if key not in DIMENSIONS}
        kind = who.head, who.iterations, who.highway_scale, who.gradient
        found.setdefault((*kind, frozenset(rest.items())), Group(*kind, rest)).lost.append(run)
    every = [*groups, *((group, group.rest) for group in found.values())]
    told = group_labels([group for group, _ in every], [settings for _, settings in every])[len(groups) :]
    ends = (Counter(run.status for run in group.lost).most_common() for group in found.values())
    counts = (", ".join(f"{count} {status}" for status, count in each) for each in ends)
    return [f"{name} ({ended})" for name, ended in zip(told, counts, strict=True)]


def _names(by_data: Mapping[frozenset[tuple[str, str]], Sequence[Entry]]) -> list[str]:
    """Return the name of each data set: its class or folder, and what tells it from others of that name."""
    every = [dict(data) for data in by_data]
    short = [_name(data, section) for data, ((section, _), *_) in zip(every, by_data.values(), strict=True)]
    for hidden in ((ROOT,), ()):  # the folder is named where names alone do not tell data sets apart
        further = labels(every, hidden=(f"{VALIDATION}.{TARGET}", *hidden))
        names = [f"{name} ({text})" if text else name for name, text in zip(short, further, strict=True)]
        if len({*names}) == len(names):
            break
    return names


def _name(data: Settings, section: Section) -> str:
    kind = told(data.get(f"{VALIDATION}.{TARGET}", "data"))
    return (data_folder(section.runs[0].config) if kind in NAMED_BY_FOLDER else "") or kind


def _rows(entries: Sequence[Entry], folder: Path) -> list[tuple[float, list[Cell]]]:
    """Return the mean score and the row of each setting; without a score, it counts as below all others."""
    found: list[tuple[float, list[Cell]]] = []
    for mine in _sharing_recipes(entries):
        named = group_labels([g for _, g in mine], [{**g.rest, **section.settings} for section, g in mine])
        for (section, group), setting in zip(mine, named, strict=True):
            score = group.score()
            row: list[Cell] = [
                ", ".join(group.recipes) + _doubt(section, group),
                setting,
                score,
                score.n if score else 0,
            ]
            row += [_mean(group, lambda run: run.seconds, 60), _mean(group, _steps), _links(group, folder)]
            found.append((score.mean if score else -1.0, row))
    return found


def _sharing_recipes(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries in parts that share no recipe: a row is told from all others of its recipes."""
    parts: list[tuple[set[str], list[Entry]]] = []
    for entry in entries:
        recipes, mine = set(entry[1].recipes), [entry]
        for part in [part for part in parts if part[0] & recipes]:
            parts.remove(part)
            recipes, mine = recipes | part[0], part[1] + mine
        parts.append((recipes, mine))
    return [mine for _, mine in parts]


def _doubt(section: Section, group: Group) -> str:
    """Return why a score may mean little, to follow the name of the recipe; "" for no reason."""
    reasons = [] if section.conclusive else ["not conclusive"]
    reasons += [f"{counted(len(group.lost_seeds), 'seed')} did not finish"] if group.lost_seeds else []
    reasons += [f"{counted(group.scoreless, 'seed')} without a score"] if group.scoreless else []
    reasons += ["labels in doubt"] if any(run.result.get("warnings") for run in group.runs.values()) else []
    return f" ({', '.join(reasons)})" if reasons else ""


def _steps(run: Record) -> float | None:
    return run.result.get("steps")


def _mean(group: Group, of: Callable[[Record], float | None], unit: float = 1) -> Mean | None:
    """Return the mean over seeds with a score of what is known of their runs, in a unit; None of nothing."""
    known = [of(run) for run in group.runs.values() if run.scored]
    return mean_alone([float(value) / unit for value in known if value is not None])


def _links(group: Group, folder: Path) -> Links:
    """Return links to each run's folder, by its seed, and to its learning curves, from the page's folder."""
    pairs: list[tuple[str, str]] = []
    for seed, run in sorted(group.runs.items()):
        address = urllib.parse.quote(os.fsencode(os.path.relpath(run.path, folder.resolve()) + "/"))
        pairs.append((str(seed), address))
        if (curves := figure_of(run.path, "learning_curves.png")) is not None:
            pairs.append(("curves", address + curves))
    return Links(pairs)
