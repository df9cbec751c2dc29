"""The documentation: its code blocks run as they stand, and its links lead somewhere."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "experiments").rglob("*.md")])


@pytest.mark.parametrize("page", ["method.md", "em.md"])
def test_python_blocks_run_in_order(page, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    "module",
    [
        "hemnet.em.layers",
        "hemnet.em.unrolling",
        "hemnet.em.functional",
        "hemnet.training.metrics",
        "hemnet.training.loss.pixels",
        "hemnet.training.loss.regions",
        "hemnet.runs.run",
    ],
)
def test_examples_of_docstrings_are_right(module, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 1
    assert found.failed == 0


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = (
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)
    )
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text("utf-8"))
    targets = [((page.parent / path) if path else page, anchor) for path, anchor in links]
    assert [path for path, _ in targets if not path.exists()] == []
    assert [
        f"{path}#{anchor}"
        for path, anchor in targets
        if anchor and path.suffix == ".md" and anchor not in anchors(path)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_targets_and_scripts_that_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^ *|\$ )make ([a-z][\w-]*)", text, re.MULTILINE)) - targets == set()
    scripts = set(re.findall(r"python (experiments/[\w/.-]+\.py)", text))
    assert {script for script in scripts if not (ROOT / script).exists()} == set()
