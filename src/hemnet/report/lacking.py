"""Sentences below charts on the seeds that are in no mean, since they lack values, as after a divergence.

Shapes: n seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from hemnet.report.definitions import Metric
from hemnet.report.groups import Group
from hemnet.report.lines import END, curves_of, lines_at, profiles, shown_values
from hemnet.report.panels import aligned, drawable, whole
from hemnet.report.significance import listed
from hemnet.report.variants import Variant

EVERY = range(END + 1)
Panel = tuple[Mapping[int, np.ndarray], np.ndarray]
"""What a panel draws of a group: by seed, and stacked."""


def lacking_profiles(
    variant: Variant, depths: Sequence[int], metrics: Sequence[Metric], phases: Sequence[int] = EVERY
) -> str:
    """Return a sentence on the seeds that are not in each mean of charts per iteration; "" if all are."""

    def panels(group: Group) -> Iterable[Panel]:
        for metric in metrics:
            for phase in phases:
                if found := profiles(group, metric.name, phase):
                    values_nS = np.array([shown_values(metric, each) for each in found.values()])
                    yield found, drawable(values_nS, metric.log)

    return _lacking(_drawn(variant, depths), panels)


def lacking_curves(
    variant: Variant | None, depths: Sequence[int], metric: Metric, further: Sequence[Group] = ()
) -> str:
    """Return a sentence on the seeds that are not in each mean of a chart over training; "" if all are."""

    def panels(group: Group) -> Iterable[Panel]:
        if found := curves_of(group, metric.name):
            yield found, aligned([*found.values()], metric.log)[1]

    others = [(group.label, group) for group in further]
    return _lacking([*(_drawn(variant, depths) if variant else ()), *others], panels)


def _drawn(variant: Variant, depths: Sequence[int]) -> list[tuple[str, Group]]:
    return [(f"{label} at T={t}", group) for t in depths for label, _, _, group in lines_at(variant, t)]


def _lacking(drawn: Iterable[tuple[str, Group]], panels: Callable[[Group], Iterable[Panel]]) -> str:
    told = []
    for label, group in drawn:
        seeds = {
            seed
            for by_seed, values_nS in panels(group)
            for seed, kept in zip(by_seed, whole(values_nS), strict=True)
            if not kept
        }
        if seeds:
            told.append(f"{listed(sorted(seeds))} of {label}")
    return f"Not in each mean, for want of values: {'; '.join(told)}." if told else ""
