"""Figures as SVG: files, and parts of a page in which parts of a figure tell their values."""

import io
import re
from xml.sax.saxutils import quoteattr

from matplotlib.artist import Artist
from matplotlib.figure import Figure

TOLD = "told: "
"""Begins the id of a part that tells a text, which follows."""
PAPER = "paper"
"""Id of the white background."""
LINE = 17
"""Points: height of the line at the bottom of a figure in which a part tells its text."""
SMALLEST = 0.85
"""Of the size of a figure, before it is scrolled on a page that is too narrow for it."""
STYLE = (
    ".told { outline: none; } .told > path { pointer-events: all; } .told .line { visibility: hidden; } "
    ".told:hover .line, .told:focus .line { visibility: visible; } "
    ".told:focus > path { opacity: 1 !important; stroke: #d55e00; stroke-width: 2; }"
)


def tell(part: Artist, text: str) -> None:
    """Have a part of a figure tell a text: as its title, and in a line at the bottom of the figure.

    The line is shown while a mouse points at the part, or while it has the focus, by the tab key or by touch.
    Its letters are the smaller, the longer the text is.
    """
    part.set_gid(TOLD + text)


def as_svg(figure: Figure, name: str) -> str:
    """Return the text of an SVG file, the same for the same content.

    All ids begin with ``name``, so that figures in one page share none.
    """
    figure.patch.set_gid(PAPER)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", out.getvalue(), count=1, flags=re.DOTALL)
    # In a page, a style for all elements would be one of the whole page; here it is that of the figure.
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" ', 1)
    width, height = map(float, svg.partition('viewBox="0 0 ')[2].partition('"')[0].split())
    svg, parts = re.subn(rf'<g id="{TOLD}([^"]*)">', lambda part: _part(part[1], width, height), svg)
    if parts:
        svg = re.sub("(<svg [^>]*>)", rf"\1\n <style>{STYLE}</style>", svg, count=1)
    own = rf"\g<1>{name}-"
    return re.sub("<[^>]+>", lambda tag: re.sub(r'(\bid="|href="#|url\(#)', own, tag[0]), svg)


def _part(text: str, width: float, height: float) -> str:
    """Return the start of a group that tells a text, which is escaped already; sizes are the figure's."""
    size = min(9.0, (width - 8) / (0.6 * max(1, len(text))))
    return (
        f'<g class="told" tabindex="0" role="img"><title>{text}</title><g class="line">'
        f'<rect y="{height - LINE:g}" width="{width:g}" height="{LINE}" fill="#fff"/>'
        f'<text x="{width / 2:g}" y="{height - 5:g}" text-anchor="middle" '
        f'style="font: {size:.3g}px DejaVu Sans, Arial, sans-serif">{text}</text></g>'
    )


def inline(svg: str, label: str) -> str:
    """Return the text of `as_svg` as an element of a page, without its background.

    Args:
        svg: the text of the file.
        label: what the figure shows, for readers who do not see it.
    """
    svg = re.sub(rf'\s*<g id="[^"]*-{PAPER}">.*?</g>|\s*<metadata>.*?</metadata>', "", svg, flags=re.DOTALL)
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None
    role = "group" if 'class="told"' in svg else "img"
    least = SMALLEST * float(width[1])
    start = f'<svg role="{role}" aria-label={quoteattr(label)} style="min-width: {least:g}px" '
    return start + svg.partition("<svg ")[2]
