"""Pictures of predictions and attention from run directories, reduced in size for the page."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hemnet.data.decoding import read_image
from hemnet.data.spec import DataError
from hemnet.report.contents import Block, Picture
from hemnet.report.definitions import ATTENTION, PREDICTIONS
from hemnet.report.groups import Group, Section
from hemnet.report.lines import not_shown
from hemnet.report.variants import Variant, others
from hemnet.wording import counted

PAGES = {f"{definition.key}.png": definition.title for definition in (PREDICTIONS, ATTENTION)}
WIDTH, TALLEST, QUALITY = 1000, 4000, 70
MOST_RUNS = 4
"""Per section and kind of picture."""
PLACES = ("figures/", "")
"""Where in its folder a run has its figures, and where a run has them that was kept without its folders."""


def figure_of(run: Path, file: str) -> str | None:
    """Return where a figure of a run is, from the run's folder; None if there is none."""
    return next((place + file for place in PLACES if os.path.lexists(run / place / file)), None)


class Album:
    """Pictures for one page, up to a total size.

    Args:
        budget: total bytes of data URIs.
    """

    def __init__(self, budget: int = 5_000_000) -> None:
        self.left = budget

    def block(self, section: Section, variant: Variant | None) -> Block | None:
        """Return the pictures of the first seed of em, hem and other heads; None if there are none."""
        groups = others(section)
        if variant is not None:
            groups = [g for head in ("em", "hem") if (g := variant.at(head, variant.chosen))] + groups
        block = Block(
            PREDICTIONS.chapter, ["The first seed of each head, from the last validation of training."]
        )
        for file, what in PAGES.items():
            pages = [(group, page) for group in groups if (page := _page(group, file))]
            if left := self._add(block, pages, what):
                block.paragraphs.append(f"Not shown, for lack of room: {what} of {'; '.join(left)}.")
        if not block.items and len(block.paragraphs) == 1:
            return None
        if left_out := not_shown(section, groups):
            block.paragraphs.append(left_out)
        if block.items:
            block.folded = f"Show {counted(len(block.items), 'image')}"
        return block

    def _add(self, block: Block, pages: Sequence[tuple[Group, Path]], what: str) -> list[str]:
        """Add up to `MOST_RUNS` pictures to a block, and return the labels of the groups after them.

        One that cannot be read is a doubt of its run.
        """
        most = len(block.items) + MOST_RUNS
        for i, (group, page) in enumerate(pages):
            if len(block.items) == most:
                return [group.label for group, _ in pages[i:]]
            seed = min(group.runs)
            caption = f"{group.label}, seed {seed}: {what}"
            try:
                data = _data_uri(page)
            except DataError as error:  # the run was killed while writing the file
                group.runs[seed].doubts.append(f"{page.name}: {error}: not shown")
                continue
            if len(data) > self.left:
                block.paragraphs.append(f"{caption} left out: the page would be too large to send.")
                continue
            self.left -= len(data)
            block.items.append(Picture(caption, data))
        return []


def _page(group: Group, file: str) -> Path | None:
    run = group.runs[min(group.runs)].path
    place = figure_of(run, file)
    return run / place if place else None


def _data_uri(path: Path) -> str:
    image = Image.fromarray(read_image(path))
    image.thumbnail((WIDTH, TALLEST), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
