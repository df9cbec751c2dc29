"""The page: one HTML file with its style and its pictures inside, that asks the network for nothing."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hemnet.report.contents import Block

MARK = '<meta name="generator" content="hemnet.report">'


@dataclass(frozen=True)
class Part:
    """A section of the report: its title, what each chapter found in sentences, its blocks."""

    title: str
    findings: Sequence[tuple[str, Sequence[str]]]
    blocks: Sequence[Block]


def render(
    parts: Sequence[Part], opening: Sequence[Block], closing: Sequence[Block], svgs: Mapping[str, str]
) -> str:
    """Return the page as HTML; everything that comes from runs is escaped.

    Args:
        parts: the sections.
        opening: blocks before them.
        closing: blocks after them.
        svgs: the charts' SVG by their names.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["verdict"] = _verdict
    uris = {name: _uri(svg) for name, svg in svgs.items()}
    template = environment.get_template("page.html.jinja")
    return template.render(parts=parts, opening=opening, closing=closing, uris=uris)


def _uri(svg: str) -> str:
    """Return an SVG as an image's address: apart from the page, so that no two share an id."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _verdict(finding: str) -> str:
    """Return the class of a finding for the style sheet."""
    for end, name in ((": supported.", "supported"), (": inside the noise.", "noise")):
        if finding.endswith(end):
            return name
    return "open"
