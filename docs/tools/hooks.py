"""Hooks of mkdocs: pages from outside docs/, equations as MathML, the reference of keys, valid links."""

import contextlib
import json
import posixpath
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from hemnet.explore.rendering import render

sys.path.insert(0, str(Path(__file__).parent))
import keys
import notebooks

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "experiments/results/README.md": "study/results.md",
    "experiments/FINDINGS.md": "study/FINDINGS.md",
    "experiments/FINDINGS_SMALL.md": "study/FINDINGS_SMALL.md",
    "experiments/FINDINGS_VARIANCE_1.md": "study/FINDINGS_VARIANCE_1.md",
    "experiments/STUDY.md": "study/STUDY.md",
}
"""Pages of the site that stand elsewhere in the repository, by their paths there."""
EXAMPLE = "docs/tools/explorer_example.json"
"""What the element #data of an explorer's page has: two mosaics and a run of synthetic_hem_short, T = 8."""
MADE = OUTSIDE | {EXAMPLE: "explorer_example.html"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)]*)?\)")
# As the extension arithmatex of mkdocs.yml marks them, which knows code, in which nothing is an equation.
MATH = re.compile(
    r'<div class="arithmatex">\\\[(.+?)\\\]</div>|<span class="arithmatex">\\\((.+?)\\\)</span>', re.DOTALL
)


def on_files(files: Files, config: Any) -> Files:
    """Add pages from outside and the figures that they show; tutorials, which are run; an explorer's page."""
    for tutorial in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        with contextlib.chdir(ROOT):
            text = notebooks.markdown(tutorial)
        files.append(File.generated(config, f"tutorials/{tutorial.stem}.md", content=text))
    for place, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / place).read_text("utf-8")))
    for figure in sorted((ROOT / "experiments" / "results").rglob("*.svg")):
        uri = f"study/{figure.relative_to(ROOT / 'experiments').as_posix()}"
        files.append(File.generated(config, uri, content=figure.read_bytes()))
    data = json.loads((ROOT / EXAMPLE).read_text("utf-8"))
    files.append(File.generated(config, MADE[EXAMPLE], content=render(data, {"example": EXAMPLE})))
    return files


@event_priority(-100)  # after the plugin that writes the index
def on_post_build(config: Any) -> None:
    """Let one search in pages that are opened as files: a browser loads scripts into these, and no JSON."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text('utf-8')}", "utf-8")


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Make links lead to pages of the site."""
    uri = page.file.src_uri
    home = Path(next((place for place, to in OUTSIDE.items() if to == uri), f"docs/{uri}")).parent
    markdown = LINK.sub(lambda found: _link(found, uri, home, files), markdown)
    if uri == "reference/keys.md":
        markdown = markdown.replace("<!-- keys -->", keys.page(ROOT / "conf"))
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Make equations MathML, which browsers draw without a script."""
    return MATH.sub(_mathml, html)


def _link(found: re.Match[str], uri: str, home: Path, files: Files) -> str:
    """A link that leads to no page of the site becomes the name of the file in the repository."""
    picture, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    if re.match(r"\w+:", target):
        return found[0]
    place = posixpath.normpath(home / target)
    to = MADE.get(place, place.removeprefix("docs/"))
    to = re.sub(r"^(tutorials/\w+)\.ipynb$", r"\1.md", to)
    if place.startswith("experiments/results/") and place.endswith(".svg"):
        to = f"study/{place.removeprefix('experiments/')}"
    if files.get_file_from_path(to) is not None:
        up = "../" * uri.count("/")
        return f"{picture}[{text}]({up}{to}{anchor})"
    return text if picture else f"{text} (`{place}`)" if place not in text else f"`{place}`"


def _mathml(found: re.Match[str]) -> str:
    block, inline = found[1], found[2]
    return convert(unescape((block or inline).strip()), display="block" if block else "inline")
