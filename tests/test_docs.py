"""The documentation: its code blocks run as they stand, and its links lead somewhere."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "experiments").glob("*.md")])


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
