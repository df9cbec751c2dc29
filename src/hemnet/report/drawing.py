"""Charts written as PDF and SVG by as many processes as there are cores: drawing takes most of the time."""

import gc
import io
import logging
import multiprocessing
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.backends.backend_pdf  # before processes are forked, which else import it each
from matplotlib.figure import Figure

from hemnet.errors import HemnetError
from hemnet.processes.children import die_with_parent
from hemnet.report.contents import Chart
from hemnet.report.plots import STYLE
from hemnet.report.svg import as_svg

log = logging.getLogger(__name__)
MISSING_GLYPH = re.compile(r"Glyph (\d+) .* missing from font")
SHARE = 4
"""Least charts for which a process is worth its start."""


def write_charts(charts: Sequence[Chart], folder: Path, processes: int | None = None) -> dict[str, str]:
    """Write every chart as PDF and SVG, the same bytes for the same content, and return each SVG by its name.

    Args:
        charts: what to draw; their names differ.
        folder: where the files go; it is there.
        processes: how many draw; by default one per core, where a process can be forked. 1 is this one.

    Raises:
        HemnetError: a process died.
    """
    if processes is None:
        # Elsewhere a chart would have to be sent to a process, and it draws what it closes over.
        cores = os.cpu_count() or 1 if sys.platform == "linux" else 1
        processes = max(1, min(cores, len(charts) // SHARE))
    with mpl.rc_context(STYLE), _garbage_left():
        if processes == 1:
            drawn = [_draw(chart, folder) for chart in charts]
        else:
            drawn = _side_by_side(charts, folder, processes)
    if missing := " ".join(sorted(set().union(*(letters for _, letters in drawn)))):
        log.warning("boxes in charts stand for %s: install a font with them, such as Noto Sans CJK", missing)
    return {chart.name: svg for chart, (svg, _) in zip(charts, drawn, strict=True)}


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Leave garbage to `_draw`, which collects what a chart leaves behind.

    Fonts and figures are made of so many objects that Python would look for garbage all the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()  # objects that are there already are no garbage of charts
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _draw(chart: Chart, folder: Path) -> tuple[str, set[str]]:
    """Write a chart, and return its SVG and the letters that no font has."""
    letters = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", MISSING_GLYPH.pattern)
        svg = save(chart.draw(), folder, chart.name)
    for each in caught:
        if found := MISSING_GLYPH.match(str(each.message)):
            letters.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    gc.collect()
    return svg, letters


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PDF and SVG, and return the SVG."""
    layout = figure.get_layout_engine()
    if layout is not None:  # done once, not for each file
        layout.execute(figure)
        figure.set_layout_engine(None)
    pdf = io.BytesIO()  # of an error in writing to a disk, matplotlib makes another one
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Producer": None})
    (folder / f"{name}.pdf").write_bytes(pdf.getvalue())
    svg = as_svg(figure, name)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return svg


# What a forked process has to draw, and where to.
_own: list[tuple[Sequence[Chart], Path]] = []


def _side_by_side(charts: Sequence[Chart], folder: Path, processes: int) -> list[tuple[str, set[str]]]:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, _begin, (charts, folder)) as pool:
        try:
            return list(pool.map(_draw_own, range(len(charts))))
        except BrokenProcessPool as error:
            raise HemnetError("a process that draws charts died, perhaps out of memory: try again") from error


def _begin(charts: Sequence[Chart], folder: Path) -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the report, and with it this process
    _own[:] = [(charts, folder)]


def _draw_own(index: int) -> tuple[str, set[str]]:
    charts, folder = _own[0]
    return _draw(charts[index], folder)
