"""The page of a report with its chapters, and the files of their tables and charts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hemnet.report.chapters.costs import costs
from hemnet.report.chapters.gradient_flow import backbone, gradient_flow
from hemnet.report.chapters.heads import against_heads, every_group, gradient_modes, per_class
from hemnet.report.chapters.leaderboard import leaderboard
from hemnet.report.chapters.miou_curves import against_depth, against_scale
from hemnet.report.chapters.overview import origins, overview, problems, warnings
from hemnet.report.chapters.table2 import evaluated_grid, trained_grid
from hemnet.report.chapters.training import convergence, learning
from hemnet.report.contents import Block, Chart, Table
from hemnet.report.drawing import write_charts
from hemnet.report.file_names import FOLDERS, PAGE, file_names
from hemnet.report.groups import Section, sections
from hemnet.report.images import Album
from hemnet.report.page import PagePart, render
from hemnet.report.printable import printable
from hemnet.report.record import Record, Unreadable
from hemnet.report.variants import Variant, variants
from hemnet.runs.canonical import digits

# What each chapter shows and needs, for the sentence on what is left out.
OF_VARIANTS = {
    "mIoU against T (em or hem at two T, or both at one)": against_depth,
    "mIoU against h (two highway scales)": against_scale,
    "T of training and step size (two of each)": trained_grid,
    "T of evaluation and step size (two of each; hemnet evaluate --sweep table2_eval)": evaluated_grid,
    "gradient modes (two of them)": gradient_modes,
    "gradient flow (gradient/means, T of 2 or more)": gradient_flow,
    "gradient of the backbone (gradient/backbone)": backbone,
    "convergence (em/log_likelihood)": convergence,
}
LEFT_OUT = (
    "Of these runs there is nothing to show in the following chapters; in parentheses is what each needs, "
    "settings to compare or metrics that runs log:"
)
OF_SECTIONS = {
    "heads (one besides em and hem)": against_heads,
    "classes (val/iou)": per_class,
    "learning curves (val/miou)": learning,
    "cost (cost/...)": costs,
}
# Chapters that a single setting has too: they compare iterations, phases of training, and classes.
OF_ONE = (gradient_flow, convergence, per_class)
MOST_ALONE = 4
"""So many settings of a recipe, each with nothing to compare it with, have chapters of their own."""
APART = (
    "Charts and pictures of these settings are left out, for lack of room: a report on one run has its own."
)


def write_page(
    records: Sequence[Record],
    unreadable: Sequence[Unreadable],
    into: Path,
    folder: Path,
    *,
    images: bool,
) -> list[str]:
    """Write the page on all runs, and its tables and charts in folders beside it.

    Args:
        records: the runs.
        unreadable: run directories that cannot be read.
        into: the folder to write to.
        folder: where that folder's content will lie, from which the page's links to the runs start.
        images: whether the page shows predictions and attention maps.

    Returns:
        the files of tables and charts, relative to the page's folder.
    """
    made = sections(records)
    parts = list(_parts(made, Album() if images else None))
    here = Path.cwd()
    # Warnings stand above the chapters whose scores they cast doubt on.
    opening = [leaderboard(made, records, folder), warnings(records, here)]
    # Last, since pictures that cannot be read are problems too.
    closing = [overview(records, unreadable, made), problems(records, unreadable, here)]
    first, last = ([block for block in blocks if block] for blocks in (opening, closing))
    shown = [*first, *(block for part in parts for block in part.blocks), *last]
    items = [item for block in shown for item in block.items]
    charts = [item for item in items if isinstance(item, Chart)]
    tables = [item for item in items if isinstance(item, Table)]
    for name in FOLDERS:
        (into / name).mkdir()
    svgs = write_charts(charts, into / "figures")
    _write_tables(tables, into / "tables")
    # Paths of runs may have what no file of the report can hold.
    text = printable(render(first, parts, last, svgs, finished=bool(made)))
    (into / PAGE).write_text(text, "utf-8")
    files = [f"figures/{chart.name}.{end}" for chart in charts for end in ("pdf", "svg")]
    return files + [f"tables/{table.name}.{end}" for table in tables for end in ("csv", "tex")]


def _parts(made: Sequence[Section], album: Album | None) -> Iterator[PagePart]:
    """Yield a part per section; many sections with one group, such as the trials of a search, share one."""
    lone: dict[str, list[Section]] = {}
    for experiment, members in groupby(made, lambda section: section.experiment):
        lone[experiment] = [section for section in members if _alone(section)]
    crowds = {name for name, found in lone.items() if len(found) > MOST_ALONE}
    # Every section counts, also one without files of its own, and every recipe in it: no further runs may
    # give its name to another section.
    named = [(each.experiment, each.content) for each in made] + [(f"{name}_lone", name) for name in lone]
    further = [(name, each.content) for each in made for name in each.recipes - {each.experiment}]
    slugs = dict(zip([*made, *lone], file_names([*named, *further]), strict=False))
    for experiment, members in groupby(made, lambda section: section.experiment):
        for section in members:
            crowded = _alone(section) and experiment in crowds
            if not crowded and (part := _part(section, slugs[section], album)).blocks:
                yield part
        if len(lone[experiment]) > 1:
            title = f"{experiment}, settings with nothing to compare"
            block = every_group(lone[experiment], slugs[experiment])
            block.paragraphs += [APART] if experiment in crowds else []
            yield PagePart(title, [block])


def _part(section: Section, slug: str, album: Album | None) -> PagePart:
    found = variants(section)
    several = len(found) > 1
    slugs = [f"{slug}_{digits(repr(sorted(each.settings.items())))}" if several else slug for each in found]
    made = list(_chapters(section, found, slug, slugs))
    blocks = [block for block in (origins(section),) if block and made] + [block for _, block in made]
    if not _alone(section):
        blocks.append(every_group([section], slug))
    if album is not None and (pictures := album.block(section, found[0] if found else None)):
        blocks.append(pictures)
    names = {name for name, _ in made}
    left_out = [name for name in (*OF_VARIANTS, *OF_SECTIONS) if name not in names]
    if left_out and not _alone(section):
        why = f"{LEFT_OUT} {'; '.join(left_out)}."
        blocks.append(Block("Left out", [why], folded="Show what is left out"))
    return PagePart(section.title, blocks)


def _chapters(
    section: Section, found: Sequence[Variant], slug: str, slugs: Sequence[str]
) -> Iterator[tuple[str, Block]]:
    """Yield the name and the block of each chapter that the section has something to show for.

    Args:
        section: the section.
        found: its variants.
        slug: the beginning of the names of its files.
        slugs: that of each variant's.
    """
    for variant, own in zip(found, slugs, strict=True):
        for name, block in _written(OF_VARIANTS, len(variant.groups) == 1, section, variant, own):
            block.title += f" ({variant.label})" if variant.label else ""
            yield name, block
    # These show the first variant, so their files are named as its are.
    first, own = (found[0], slugs[0]) if found else (None, slug)
    yield from _written(OF_SECTIONS, _alone(section), section, first, own)


def _written(
    chapters: Mapping[str, Callable[..., Block | None]], alone: bool, *of: Any
) -> Iterator[tuple[str, Block]]:
    """Yield the chapters with items; of a single setting those in `OF_ONE`, without tables of one row."""
    for name, write in chapters.items():
        block = write(*of) if write in OF_ONE or not alone else None
        if block and alone:
            block.items = [item for item in block.items if not isinstance(item, Table) or len(item.rows) > 1]
        if block and block.items:
            yield name, block


def _alone(section: Section) -> bool:
    return len(section.groups) == 1


def _write_tables(tables: Sequence[Table], folder: Path) -> None:
    for table in tables:
        for end, text in (("csv", table.csv()), ("tex", table.tex())):
            (folder / f"{table.name}.{end}").write_text(printable(text), "utf-8")
