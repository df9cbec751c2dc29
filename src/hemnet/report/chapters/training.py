"""Chapters on training: learning curves, and the convergence of the EM iterations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from hemnet.report.contents import Block, Cell, Chart, Column, Table
from hemnet.report.groups import Section
from hemnet.report.lines import (
    END,
    WHEN,
    curve_chart,
    curves_of,
    depths_with,
    lines_at,
    phase_chart,
    profiles,
)
from hemnet.report.plots import draw_profile, grid
from hemnet.report.variants import Variant, others


def learning(section: Section, variant: Variant | None, slug: str) -> Block | None:
    """Return mIoU on the validation split over training."""
    name = "val/miou"
    further = [group for group in others(section) if curves_of(group, name)]
    depths = []
    if variant is not None:
        depths = [t for t in variant.depths if any(curves_of(g, name) for *_, g in lines_at(variant, t))]
    if not depths and not further:
        return None
    block = Block("Learning curves", ["Means over seeds; bands are the range of the seeds."])
    block.items.append(Chart(
        f"{slug}_learning", "mIoU on the validation split over training.",
        lambda: curve_chart(variant, depths, name, "mIoU", False, further),
    ))  # fmt: skip
    return block


INSIDE = {"em/step_length": "step length", "em/components": "components", "em/entropy": "entropy"}


def convergence(section: Section, variant: Variant, slug: str) -> Block | None:
    """Return the likelihood that the iterations gain, their step lengths, components and entropy."""
    depths = depths_with(variant, "em/log_likelihood")
    if not depths:
        return None
    block = Block("Convergence of the iterations", [WHEN])
    block.items.append(Chart(
        f"{slug}_log_likelihood",
        "Log-likelihood gained since t = 0, nats per position, on the fixed validation batch.",
        lambda: phase_chart(variant, depths, "em/log_likelihood", "log-likelihood gained", False),
    ))  # fmt: skip
    families = [family for family in INSIDE if depths_with(variant, family)]

    def draw(axis: Axes, row: int, column: int) -> None:
        if families[column] == "em/step_length":
            axis.set_yscale("log")
        for label, colour, marker, group in lines_at(variant, depths[row]):
            if found := profiles(group, families[column], END):
                draw_profile(axis, label, colour, marker, found)

    if families:
        titles = [INSIDE[family] for family in families]
        rows = [f"T={t}" for t in depths]
        block.items.append(Chart(
            f"{slug}_convergence",
            "At the end of training: relative step length, effective number of components, entropy of the "
            "responsibilities.",
            lambda: grid(rows, titles, draw, xlabel="iteration t", ylabel="", share_y="col"),
        ))  # fmt: skip
    block.items.append(_convergence_table(variant, depths, slug))
    return block


def _convergence_table(variant: Variant, depths: Sequence[int], slug: str) -> Table:
    columns = (
        Column("T"), Column("head"), Column("L at t=0", 4, False), Column("L at t=T", 4, False),
        Column("gained", 3, False), Column("last step length", 2, False),
        Column("components at t=T", 3, False), Column("entropy at t=T", 3, False),
    )  # fmt: skip
    rows: list[list[Cell]] = []
    for t in depths:
        for label, _, _, group in lines_at(variant, t):
            first, last, step, components, entropy = (
                _mean(group.phase(f"em/{family}", END, at)) for family, at in (
                    ("log_likelihood", 0), ("log_likelihood", t), ("step_length", t - 1), ("components", t),
                    ("entropy", t))
            )  # fmt: skip
            gained = None if first is None or last is None else last - first
            rows.append([t, label, first, last, gained, step, components, entropy])
    caption = "EM iterations at the end of training, means over seeds; L: log-likelihood, nats per position."
    return Table(f"{slug}_convergence", caption, columns, rows)


def _mean(by_seed: dict[int, float]) -> float | None:
    return float(np.mean(list(by_seed.values()))) if by_seed else None
