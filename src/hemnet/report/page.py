"""The page: one HTML file that contains its style and pictures and loads nothing from the network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hemnet.report.contents import Block
from hemnet.report.significance import LEAST_SEEDS
from hemnet.report.svg import inline

EXPONENT = re.compile(r"\d[\d.]*e-\d+")
MOST_FINDINGS = 6
"""Of a chapter; further ones are folded away."""


@dataclass(frozen=True)
class PagePart:
    """A part of the page: its title and its blocks."""

    title: str
    blocks: Sequence[Block]

    @property
    def found(self) -> bool:
        """Whether a block has findings."""
        return any(block.findings for block in self.blocks)


def render(
    first: Sequence[Block],
    parts: Sequence[PagePart],
    last: Sequence[Block],
    svgs: Mapping[str, str],
    *,
    finished: bool,
) -> str:
    """Return the page as HTML; all text from runs is escaped.

    Args:
        first: blocks at the top of the page, before its findings.
        parts: the parts, in order.
        last: blocks after them.
        svgs: the charts' SVG by their names.
        finished: whether any run has.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["verdict"] = _verdict
    environment.filters["breakable"] = _breakable
    # matplotlib has escaped the text in a chart.
    environment.filters["drawing"] = lambda chart: Markup(inline(svgs[chart.name], chart.caption))
    template = environment.get_template("page.html.jinja")
    page = {"first": first, "parts": parts, "last": last, "finished": finished}
    return template.render(page, least=LEAST_SEEDS, most=MOST_FINDINGS)


def _breakable(text: str) -> Markup:
    """Return a text of which a line ends after an underscore, as of a recipe's name, and within no 7e-05."""
    names = str(escape(text)).replace("_", "_<wbr>")
    return Markup(EXPONENT.sub(r'<span class="whole">\g<0></span>', names))


def _verdict(finding: str) -> str:
    """Return the style sheet's class for a finding."""
    for end, name in ((": supported.", "supported"), (": inside the noise.", "noise")):
        if finding.endswith(end):
            return name
    return "open"
