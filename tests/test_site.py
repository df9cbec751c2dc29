"""The documentation site: built as `make docs` does, tutorials run, links checked; what must be on it."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from _helpers.entries import start_anew

import hemnet.em

if TYPE_CHECKING:
    from _helpers.browser import Browser

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = start_anew(
        "mkdocs", "build", "--quiet", "--site-dir", str(folder), cwd=ROOT,
        environment={"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """The links, pictures and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for value in (found.get("id"), found.get("name")) if value}
        self.targets += [value for value in (found.get("href"), found.get("src")) if value]


def test_dollars_in_code_are_no_equations(site: Path) -> None:
    """Commands of the study stand on their pages as in the repository, to the letter."""
    commands = 0
    for page in (ROOT / "experiments").glob("*.md"):
        shown = unescape((site / "study" / f"{page.stem}.html").read_text("utf-8"))
        lines = [line[4:] for line in page.read_text("utf-8").splitlines() if re.match(r" {4}.*\$\w", line)]
        assert [line for line in lines if line not in shown] == [], page
        commands += len(lines)
    assert commands > 10


def test_equations_stand_in_their_sentences(site: Path) -> None:
    """Each is drawn, and none begins or ends a paragraph that goes on with a comma or a stop."""
    texts = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert sum("<math" in text for text in texts.values()) > 4
    for path, text in texts.items():
        assert not re.search(r"arithmatex|<p>\s*[.,;]", text), path


def test_no_link_of_any_page_is_broken(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 12
    for path, page in pages.items():
        for target in page.targets:
            if re.match(r"\w+:", target):
                assert target.startswith(("data:image/", "https://")), (path, target)
                continue
            file, _, anchor = target.partition("#")
            to = (path.parent / file).resolve() if file else path
            to = to / "index.html" if to.is_dir() else to
            assert to.is_file(), (path, target)
            if anchor and to in pages:
                assert anchor in pages[to].anchors, (path, target)


def test_every_public_name_of_the_layer_has_its_place(site: Path) -> None:
    page = Page(site / "reference" / "em.html")
    assert {f"hemnet.em.{name}" for name in hemnet.em.__all__} <= page.anchors


def test_every_key_of_every_part_is_listed_with_a_meaning_where_it_is_ours(site: Path) -> None:
    text = (site / "reference" / "keys.html").read_text("utf-8")
    for path in sorted((ROOT / "conf").glob("*/**/*.yaml")):
        group = path.relative_to(ROOT / "conf").parent.as_posix()
        if group.startswith("hydra"):
            continue
        assert f">{group}={path.stem}<" in text
        for key, value in (yaml.safe_load(path.read_text("utf-8")) or {}).items():
            if key not in ("defaults", "_target_") and not isinstance(value, dict) and group != "debug":
                assert f"{group.replace('/', '.')}.{key}" in text, (path, key)
    rows = [
        re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL)
    ]
    assert [row[0] for row in rows if row and not (len(row) == 3 and row[2].strip())] == []
    assert ":class:" not in text
    variance = re.search(r"<code>model\.head\.variance</code>.*?</tr>", text, re.DOTALL)
    assert "sigma squared" in variance[0]


def test_the_example_of_the_explorer_is_a_page_to_click(site: Path, browser) -> None:
    assert "explorer_example.html" in Page(site / "explorer.html").targets
    browser.resize(1280)
    browser.open(site / "explorer_example.html", ready="document.body.dataset.ready === 'true'")
    browser.click("#photo", (0.1, 0.1))
    assert re.match(r"component \d, mostly texture \d", browser.text("#holders li"))
    assert browser.complaints() == []


def test_no_page_is_wider_than_a_phone_or_complains(site: Path, browser: "Browser") -> None:
    browser.resize(390)
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":
            browser.open(path)
            assert browser.overflow() == 0, path
            assert browser.complaints() == [], path


def test_one_can_search_pages_that_are_opened_as_files(site: Path, browser: "Browser") -> None:
    browser.resize(1280)
    browser.open(site / "tutorials" / "layer.html")  # not at the top, where relative paths are shorter
    browser.until("document.querySelector('.md-search').hidden === false")
    browser.click(".md-search__input")
    browser.press(*"model.head.variance")
    found = "[...document.querySelectorAll('a.md-search-result__link')].map(each => each.href)"
    browser.until(f"{found}.length > 0")
    assert any("reference/keys.html" in link for link in browser.value(found))
    assert all(url.startswith("file:") for url in browser.requests())


def test_pictures_follow_the_reader_s_scheme(site: Path, browser: "Browser") -> None:
    """By the background of a drawing."""
    shown = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(site / "figures" / "shares.svg")
        shown[scheme] = browser.value("getComputedStyle(document.querySelector('#patch_1 path')).fill")
    assert shown == {"light": "rgb(254, 254, 254)", "dark": "rgb(23, 27, 33)"}
    browser.prefer("light")


def test_tutorials_were_run(site: Path) -> None:
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        text = (site / "tutorials" / f"{notebook.stem}.html").read_text("utf-8")
        assert "data:image/png" in text
    photographs = (site / "tutorials" / "photographs.html").read_text("utf-8")
    assert "4 images segmented, 0 not" in photographs
    highway = (site / "tutorials" / "highway.html").read_text("utf-8")
    assert "<math" in highway
    assert "$h" not in highway
    assert "evenness over the iterations, 1 is even: {0.0: 0." in highway  # which it printed
