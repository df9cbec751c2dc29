"""Which runs are averaged and which are compared, decided by their whole configurations.

Runs that differ only in the seed are a group. Groups that differ only in the head are a section: the same
data, budget and way to train. Names of recipes part nothing: a recipe that sets another head in a recipe, as
camvid_lite_em does in camvid_lite_hem, is compared with it. Nothing is compared across sections.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np

from hemnet.report.estimates import Estimate, score
from hemnet.report.lost_runs import AMBIGUOUS, settings_of
from hemnet.report.own_settings import own_settings
from hemnet.report.record import Record
from hemnet.report.setting_labels import Settings, labels
from hemnet.runs.canonical import text
from hemnet.runs.run_settings import DIMENSIONS, HEAD, HEAD_KIND, ITERATIONS_EVAL

EM_HEADS = ("em", "hem")
USUAL_MODE = "unrolled"


@dataclass(eq=False)
class Group:
    """Runs that differ only in the seed.

    Attributes:
        head: as `hemnet.runs.identity` names it; T, h and gradient too, which are None without an EM layer.
        iterations: T.
        scale: h.
        gradient: gradient mode.
        rest: the other settings of the head.
        label: text that identifies the group within its section.
        runs: the finished runs by seed.
        lost: runs of these settings that did not finish.
    """

    head: str
    iterations: int | None
    scale: float | str | None
    gradient: str | None
    rest: Settings
    label: str = ""
    runs: dict[int, Record] = field(default_factory=dict)
    lost: list[Record] = field(default_factory=list)

    @property
    def lost_seeds(self) -> list[int]:
        """The seeds that have no finished run, but one that failed, was killed or still trains."""
        return sorted({run.identity.seed for run in self.lost} - self.runs.keys())

    @property
    def scored(self) -> set[int]:
        """The seeds of its finished runs with a score."""
        return {seed for seed, run in self.runs.items() if run.scored}

    @property
    def scoreless(self) -> int:
        """How many of its finished runs have no score."""
        return len(self.runs) - len(self.scored)

    @property
    def recipes(self) -> list[str]:
        """The names of the recipes of its finished runs."""
        return sorted({run.identity.experiment for run in self.runs.values()})

    def by_seed(self, metric: str = "val/miou") -> dict[int, float]:
        """Return a final score of each seed; NaN where a run has none."""
        return {seed: run.scores.get(metric, float("nan")) for seed, run in sorted(self.runs.items())}

    def score(self, metric: str = "val/miou") -> Estimate | None:
        """Return the mean over seeds and its interval."""
        return score(list(self.by_seed(metric).values()))

    def by_iterations(self) -> dict[int, dict[int, float]]:
        """Return mIoU by T of evaluation and seed, for the runs that were evaluated."""
        depths = sorted({T for run in self.runs.values() for T in run.evaluated})
        return {
            T: {seed: run.evaluated[T] for seed, run in sorted(self.runs.items()) if T in run.evaluated}
            for T in depths
        }

    def depth(self, family: str) -> int:
        """Return the T of a metric per iteration: ``em/*`` are of evaluation, ``gradient/*`` of training."""
        assert self.iterations is not None
        later = self.rest.get(ITERATIONS_EVAL)
        return int(later) if later is not None and family.startswith("em/") else self.iterations

    def phase(self, family: str, phase: int, t: int) -> dict[int, float]:
        """Return one per-iteration metric in one phase of training by seed, for the runs that logged it."""
        found = {}
        for seed, run in sorted(self.runs.items()):
            values = run.phases.get(family)
            if values is not None and 0 <= t < values.shape[1] and np.isfinite(values[phase, t]):
                found[seed] = float(values[phase, t])
        return found

    def costs(self, name: str) -> dict[int, float]:
        """Return one ``cost/NAME`` by seed, for the runs that logged it."""
        key = f"cost/{name}"
        return {seed: run.cost[key] for seed, run in sorted(self.runs.items()) if key in run.cost}


@dataclass(eq=False)
class Section:
    """Groups that may be compared.

    Attributes:
        experiment: the recipe of most of its runs; of several with as many, the first by name.
        settings: all that its groups share.
        groups: those with a finished run.
        label: text that identifies the section within its experiment; "" if it is the only one.
    """

    experiment: str
    settings: Settings
    groups: list[Group]
    label: str = ""

    @property
    def title(self) -> str:
        """Experiment and label, and the further recipes of its runs."""
        others = sorted(self.recipes - {self.experiment})
        title = f"{self.experiment} ({self.label})" if self.label else self.experiment
        return f"{title}, with {', '.join(others)}" if others else title

    @property
    def recipes(self) -> set[str]:
        """The recipes of its runs."""
        return {name for group in self.groups for name in group.recipes}

    @property
    def content(self) -> list[object]:
        """What tells it from any other section, in order."""
        return [self.conclusive, sorted(self.settings.items())]

    @property
    def conclusive(self) -> bool:
        """Whether the scores tell anything."""
        return all(run.conclusive for run in self.runs)

    @property
    def runs(self) -> list[Record]:
        """Every run of its groups."""
        return [run for group in self.groups for run in group.runs.values()]


def sections(records: Sequence[Record]) -> list[Section]:
    """Sort records into sections of groups; of two runs with one seed in a group, the later one counts, or
    that which has a score.

    Runs whose recipe says that their scores tell nothing are in sections of their own.
    """
    found: dict[tuple[bool, frozenset[tuple[str, str]]], dict[Any, Group]] = defaultdict(dict)
    finished = [record for record in records if record.status == "finished"]
    ordered = sorted(finished, key=lambda r: (r.scored, _started(r), str(r.path)))
    for record, own in zip(ordered, own_settings(ordered), strict=True):
        shared = frozenset((k, v) for k, v in own.items() if not k.startswith(HEAD))
        who = record.identity
        rest = {k: v for k, v in own.items() if k.startswith(HEAD) and k not in DIMENSIONS}
        key = (who.head, who.iterations, who.highway_scale, who.gradient, frozenset(rest.items()))
        group = found[record.conclusive, shared].setdefault(key, Group(*key[:4], rest))
        if (earlier := group.runs.get(who.seed)) is not None:
            earlier.superseded = earlier.scored
        group.runs[who.seed] = record
    made = [
        Section(_recipe([*groups.values()]), dict(shared), sorted(groups.values(), key=_order))
        for (_, shared), groups in found.items()
    ]
    _add_lost(made, [each for each in records if each.is_lost])
    made = sorted(made, key=lambda s: (s.experiment, -len(s.runs)))
    for _, members in groupby(made, lambda section: section.experiment):
        mine = list(members)
        known = [{**each.settings, **({} if each.conclusive else {"conclusive": "False"})} for each in mine]
        for section, label in zip(mine, labels(known), strict=True):
            section.label = label
    for section in made:
        told = group_labels(section.groups, [group.rest for group in section.groups])
        for group, label in zip(section.groups, told, strict=True):
            group.label = label
    return made


def _add_lost(made: Sequence[Section], lost: Sequence[Record]) -> None:
    """Add each run that did not finish to the group that it is of."""
    for run in lost:
        groups = [g for each in made if each.conclusive == run.conclusive for g in each.groups]
        which = settings_of(run, [[*group.runs.values()] for group in groups])
        if len(which) == 1:
            groups[which[0]].lost.append(run)
        elif len(which) > 1 and AMBIGUOUS not in run.doubts:
            run.doubts.append(AMBIGUOUS)


def _recipe(groups: Sequence[Group]) -> str:
    counts = Counter(run.identity.experiment for group in groups for run in group.runs.values())
    return min(counts, key=lambda name: (-counts[name], name))


def _started(record: Record) -> datetime:
    """Return when a run started, which environment.json says in the local time of its machine."""
    try:
        return datetime.strptime(str(record.environment.get("started")), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _order(group: Group) -> Any:
    scale = group.scale if isinstance(group.scale, float) else np.inf
    return group.iterations is None, group.head, group.iterations or 0, scale, str(group.gradient)


def group_labels(groups: Sequence[Group], further: Sequence[Settings]) -> list[str]:
    """Return text that tells each group from the others: head, T, h, and what else differs.

    Args:
        groups: the groups.
        further: the settings of each besides head, T, h and gradient mode.
    """
    modes = {group.gradient for group in groups if group.head in EM_HEADS}
    # Keys of one head are not those of another: em and hem are one, and so differ in T, h and what follows.
    kinds = ["em" if group.head in EM_HEADS else group.head for group in groups]
    told = labels(
        [{**own, HEAD_KIND: kind} for own, kind in zip(further, kinds, strict=True)], hidden=(HEAD_KIND,)
    )
    return [", ".join(filter(None, (_head(g, modes), text))) for g, text in zip(groups, told, strict=True)]


def _head(group: Group, modes: Collection[str | None]) -> str:
    parts = [group.head] + ([] if group.iterations is None else [f"T={group.iterations}"])
    if group.head == "hem" or (group.head == "emanet" and group.scale):
        parts.append(f"h={scale_text(group.scale)}")
    if group.head in EM_HEADS and len(modes) > 1 and group.gradient != USUAL_MODE:
        parts.append(str(group.gradient))
    return ", ".join(parts)


def scale_text(scale: float | str | None) -> str:
    """Return a highway scale for a label."""
    return text(scale) if isinstance(scale, float) else str(scale)


def hem_name(scale: float | str | None) -> str:
    """Return the name of hem at a highway scale."""
    return f"hem (h={scale_text(scale)})"
