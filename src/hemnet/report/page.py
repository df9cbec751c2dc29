"""The page: one HTML file that contains its style and pictures and loads nothing from the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hemnet.report.contents import Block
from hemnet.report.svg import inline


@dataclass(frozen=True)
class PagePart:
    """A part of the page: its title and its blocks."""

    title: str
    blocks: Sequence[Block]


def render(
    parts: Sequence[PagePart],
    first: Sequence[Block],
    opening: Sequence[Block],
    closing: Sequence[Block],
    svgs: Mapping[str, str],
) -> str:
    """Return the page as HTML; all text from runs is escaped.

    Args:
        parts: the parts, in order.
        first: blocks at the top of the page, before its findings.
        opening: blocks between the findings and the parts.
        closing: blocks after them.
        svgs: the charts' SVG by their names.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["verdict"] = _verdict
    # matplotlib has escaped the text in a chart.
    environment.filters["drawing"] = lambda chart: Markup(inline(svgs[chart.name], chart.caption))
    template = environment.get_template("page.html.jinja")
    return template.render(parts=parts, first=first, opening=opening, closing=closing)


def _verdict(finding: str) -> str:
    """Return the style sheet's class for a finding."""
    for end, name in ((": supported.", "supported"), (": inside the noise.", "noise")):
        if finding.endswith(end):
            return name
    return "open"
