"""How every drawn figure of the documentation looks, on light and on dark pages."""

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from hemnet.report.plots import BLUE, STYLE, VERMILION

INK, PAPER, SOFT = "#1f2429", "#fefefe", "#7b838b"
THEME = {
    INK: ("ink", "#e4e8ec"),
    PAPER: ("paper", "#171b21"),
    SOFT: ("soft", "#9aa3ac"),
    BLUE.lower(): ("blue", "#62b4ee"),
    VERMILION.lower(): ("red", "#ff8438"),
}
"""Colours that a dark page replaces: the name of each and what takes its place."""
LOOK: dict[Any, Any] = STYLE | {
    "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans", "text.parse_math": True,
    "grid.color": SOFT, "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "figure.facecolor": PAPER,
    "axes.facecolor": PAPER, "figure.constrained_layout.use": True,
    # Letters as outlines: the drawing is the same wherever it is shown, also where its font is missing.
    "svg.fonttype": "path",
}  # fmt: skip
styled = mpl.rc_context(LOOK)
SCALE = 1.7
"""Pixels of a page to a point, where the page is wide enough."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, the same bytes for the same content, whose colours follow the reader's page."""
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    path.write_text(_themed(path.read_text("utf-8")), "utf-8")


def _themed(svg: str) -> str:
    """Name the colours of THEME; a viewer that knows no names shows those of a light page."""
    for colour, (name, _) in THEME.items():
        svg = re.sub(rf"\b(fill|stroke): {colour}", rf"\1: {colour}; \1: var(--{name})", svg)
    light = " ".join(f"--{name}: {colour};" for colour, (name, _) in THEME.items())
    dark = " ".join(f"--{name}: {colour};" for name, colour in THEME.values())
    style = f"<style>svg {{{light}}} @media (prefers-color-scheme: dark) {{svg {{{dark}}}}}</style>"
    svg = re.sub(
        r'(width|height)="([\d.]+)pt"', lambda at: f'{at[1]}="{SCALE * float(at[2]):.0f}"', svg, count=2
    )
    return re.sub(r"(<svg [^>]*>)", rf"\1\n {style}", svg, count=1)
