"""Chapters on training: learning curves, and the convergence of the EM iterations."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.definitions import CONVERGENCE, LEARNING, LIKELIHOOD
from hemnet.report.estimates import mean_alone
from hemnet.report.groups import Section
from hemnet.report.lacking import lacking_curves, lacking_profiles
from hemnet.report.lines import (
    END,
    WHEN,
    curve_chart,
    curves_of,
    depths_with,
    depths_with_curves,
    joined,
    lines_at,
    not_drawn,
    not_shown,
    phase_chart,
    profiles,
    settings_at,
    some_heads,
)
from hemnet.report.panels import draw_profile, grid
from hemnet.report.variants import Variant, others


def learning(section: Section, variant: Variant | None, slug: str) -> Block | None:
    """Return mIoU on the validation split over training."""
    name = LEARNING.metric.name
    further, too_many = some_heads([group for group in others(section) if curves_of(group, name)])
    depths = depths_with_curves(variant, name) if variant is not None else []
    if not depths and not further:
        return None
    block = Block(LEARNING.chapter)
    left = not_drawn(variant, depths) if variant is not None else ""
    lacking = lacking_curves(variant, depths, LEARNING.metric, [group for group, _ in further])
    if variant is not None and (further_variants := not_shown(section, variant.usual)):
        block.paragraphs.append(further_variants)
    block.items.append(Chart(
        slug, LEARNING,
        joined("Means over seeds; bands are the range of the seeds.", left, too_many, lacking),
        lambda: curve_chart(variant, depths, LEARNING.metric, further),
    ))  # fmt: skip
    return block


def convergence(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return the likelihood that the iterations gain, their step lengths, components and entropy."""
    depths = depths_with(variant, LIKELIHOOD.metric.name)
    if not depths:
        return None
    block = Block(LIKELIHOOD.chapter, [WHEN])
    left = not_drawn(variant, depths)
    note = joined(left, lacking_profiles(variant, depths, LIKELIHOOD.metrics))
    block.items.append(Chart(slug, LIKELIHOOD, note, lambda: phase_chart(variant, depths, LIKELIHOOD.metric)))
    shown = [metric for metric in CONVERGENCE.metrics if depths_with(variant, metric.name)]

    def draw(axis: Axes, row: int, column: int) -> None:
        for label, colour, marker, group in lines_at(variant, depths[row]):
            if found := profiles(group, shown[column].name, END):
                draw_profile(axis, label, colour, marker, [*found.values()])

    if shown:
        titles = [metric.label for metric in shown]
        rows = [f"T={t}" for t in depths]
        block.items.append(Chart(
            slug, CONVERGENCE,
            joined("At the end of training.", left, lacking_profiles(variant, depths, shown, [END])),
            lambda: grid(rows, titles, draw, xlabel="iteration t", ylabel="", share_y="none",
                         log=[metric.log for metric in shown]),
        ))  # fmt: skip
    block.items.append(_convergence_table(variant, depths, slug))
    return block


def _convergence_table(variant: Variant, depths: Sequence[int], slug: str) -> Table:
    columns = (
        Column("T"), Column("T of evaluation"), Column("head"), Column("first L", 4, False),
        Column("last L", 4, False), Column("gained", 3, False), Column("last step length", 2, False),
        Column("last components", 3, False), Column("last entropy", 3, False),
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for t in depths:
        for label, group in settings_at(variant, t):
            at = group.depth("em/log_likelihood")
            first, last, step, components, entropy = (
                group.phase(f"em/{family}", END, place) for family, place in (
                    ("log_likelihood", 0), ("log_likelihood", at), ("step_length", at - 1),
                    ("components", at), ("entropy", at))
            )  # fmt: skip
            gained = {seed: last[seed] - first[seed] for seed in first.keys() & last.keys()}
            values = (first, last, gained, step, components, entropy)
            rows.append([t, at, label, *(mean_alone(by_seed.values()) for by_seed in values)])
    caption = (
        "EM iterations at the end of training, with the T of evaluation; means over seeds. L: "
        "log-likelihood, nats per position. What is gained is the mean of each run's gain."
    )
    return Table(f"{slug}_convergence", caption, columns, rows)
