"""Splits a section into variants: runs that differ only in head, T, h and gradient mode."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from hemnet.report.groups import USUAL_MODE, Group, Section
from hemnet.report.setting_labels import Settings, labels
from hemnet.runs.run_settings import HEAD

GRADIENT_SETTINGS = f"{HEAD}gradient."
"""Settings of a gradient mode. Those of the usual mode make variants, those of other modes do not."""
Options = frozenset[tuple[str, str]]
"""Keys of a head with their values."""
EMANET = {f"{HEAD}{name}" for name in ("assignment", "normalize", "variance")}
"""The settings in which EMANet's head differs from hem, gradient mode and h aside."""


@dataclass(frozen=True, eq=False)
class Variant:
    """EM groups of a section that differ only in head, T, h and gradient mode, the subjects of the study.

    Attributes:
        label: what tells it from other variants; "" if it is the only one.
        groups: in the order of the section.
        settings: what its groups share of the head's settings.
        mode: the gradient mode of charts about other settings; groups of other modes may have several options
            of their mode, those of this mode have one.
    """

    label: str
    groups: list[Group]
    settings: Settings
    mode: str | None

    @cached_property
    def pairs(self) -> list[tuple[Group, Group]]:
        """Each hem with the em of its T, gradient mode and options of that, if it is there."""
        return _pairs(self.groups)

    @property
    def usual_pairs(self) -> list[tuple[Group, Group]]:
        """The `pairs` of the gradient mode `mode`, which are tested."""
        return [pair for pair in self.pairs if pair[0].gradient == self.mode]

    @cached_property
    def usual(self) -> list[Group]:
        """The groups with the gradient mode `mode`."""
        return [group for group in self.groups if group.gradient == self.mode]

    @cached_property
    def depths(self) -> list[int]:
        """Each T of the `usual` groups, rising."""
        return sorted({group.iterations for group in self.usual if group.iterations is not None})

    @cached_property
    def scale(self) -> float | str | None:
        """The h of hem in charts about other settings: the one with scores at most values of T at which em
        has them too, then at most values of T, then nearest to 0.5.
        """
        scored = [group for group in self.usual if group.scored] or self.usual
        places = [(group.scale, group.iterations) for group in scored if group.head == "hem"]
        plain = {group.iterations for group in scored if group.head == "em"}

        def worth(scale: float | str | None) -> tuple[int, int, float]:
            depths = [depth for h, depth in places if h == scale]
            return len(plain.intersection(depths)), len(depths), -_distance(scale)

        return max(dict(places), key=worth, default=None)

    def at(self, head: str, iterations: int) -> Group | None:
        """Return the group with this head and T; for ``hem`` that with the h of `Variant.scale`."""
        wanted = 0.0 if head == "em" else self.scale
        for group in self.usual:
            if (group.head, group.iterations, group.scale) == (head, iterations, wanted):
                return group
        return None

    def subject(self, iterations: int) -> Group | None:
        """Return what other heads are compared with at one T: hem, of the h of `Variant.scale` or else of
        that nearest to 0.5, and em where there is no hem; those with a score before others.
        """
        found = [g for g in self.usual if g.iterations == iterations]
        return min(
            found,
            key=lambda g: (not g.scored, g.head == "em", g.scale != self.scale, _distance(g.scale)),
            default=None,
        )

    @cached_property
    def chosen(self) -> int:
        """The T of charts of one T: with most seeds of which both em and hem have a score, then one with hem,
        then with most scores, then largest.
        """

        def worth(depth: int) -> tuple[int, bool, int, int]:
            em, hem = self.at("em", depth), self.at("hem", depth)
            common = len(em.scored & hem.scored) if em and hem else 0
            scores = sum(len(group.scored) for group in self.usual if group.iterations == depth)
            return common, hem is not None, scores, depth

        return max(self.depths, key=worth)


def _distance(scale: float | str | None) -> float:
    return abs(scale - 0.5) if isinstance(scale, float) else np.inf


@lru_cache(maxsize=1)  # several chapters ask for those of one section
def variants(section: Section) -> list[Variant]:
    """Return the variants of a section, the one with most scores first."""
    found: dict[Options, list[Group]] = defaultdict(list)
    for group in section.groups:
        if group.head in ("em", "hem"):
            found[frozenset(group.rest.items()) - _options(group)].append(group)
    parts = [(key, *part) for key, groups in found.items() for part in _by_options(groups)]
    told = labels([dict(key | options) for key, options, *_ in parts])
    made = [
        Variant(label, groups, dict(key | options), mode)
        for label, (key, options, groups, mode) in zip(told, parts, strict=True)
    ]
    return sorted(made, key=lambda variant: -_scores(variant.groups))


def _options(group: Group) -> Options:
    """Return the settings of a group's gradient mode."""
    return frozenset((k, v) for k, v in group.rest.items() if k.startswith(GRADIENT_SETTINGS))


def _by_options(groups: Sequence[Group]) -> list[tuple[Options, list[Group], str | None]]:
    """Split groups by the options of their usual gradient mode; return the options, the groups and that mode.

    The first part has most scores, and the groups of other modes.
    """
    mode = _usual_mode(groups)
    found: dict[Options, list[Group]] = defaultdict(list)
    for group in groups:
        if group.gradient == mode:
            found[_options(group)].append(group)
    parts = sorted(found.items(), key=lambda part: -_scores(part[1]))
    parts[0][1].extend(group for group in groups if group.gradient != mode)
    return [(*part, mode) for part in parts]


def _usual_mode(groups: Sequence[Group]) -> str | None:
    """Return the mode with most pairs of hem and em that have scores, then ``unrolled``, then most groups."""
    modes = [group.gradient for group in groups]
    paired = [hem.gradient for hem, em in _pairs(groups) if hem.scored and em.scored]
    return max(modes, key=lambda mode: (paired.count(mode), mode == USUAL_MODE, modes.count(mode)))


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    def key(group: Group) -> tuple[int | None, str | None, Options]:
        return group.iterations, group.gradient, _options(group)

    plain = {key(group): group for group in groups if group.head == "em"}
    return [(group, plain[key(group)]) for group in groups if group.head == "hem" and key(group) in plain]


def _scores(groups: Sequence[Group]) -> int:
    return sum(len(group.scored) for group in groups)


def unlike(variant: Variant, rival: Group) -> set[str]:
    """Return the settings of a head in which another differs; of one without EM, those that both have."""
    own, other = variant.settings, rival.rest
    keys = own.keys() & other.keys() if rival.iterations is None else own.keys() | other.keys()
    return {key for key in keys if own.get(key) != other.get(key)}


def usual_mode(variant: Variant) -> str:
    """Return of which gradient mode `Variant.usual` is, to follow a clause; "" if there is no other."""
    return f" in gradient mode {variant.mode}" if len(variant.usual) < len(variant.groups) else ""


def others(section: Section) -> list[Group]:
    """Return the groups whose head is neither em nor hem."""
    return [group for group in section.groups if group.head not in ("em", "hem")]
