"""How the page of a report uses the width of the screen."""

from pathlib import Path

import pytest
from _helpers.fake_runs import plausible_rows, write_run
from PIL import Image

from hemnet.config.paths import EXPERIMENTS
from hemnet.report.write import write_report

TABLES = """
document.querySelectorAll('details').forEach((each) => { each.open = true; });
const edge = document.querySelector('main').getBoundingClientRect().right;
return [...document.querySelectorAll('.scroll')].map((each) => ({
  name: each.ariaLabel, cut: each.scrollWidth - each.clientWidth,
  free: edge - each.getBoundingClientRect().right,
  heading: Math.max(0, ...[...each.querySelectorAll('th.n')].map((cell) => cell.offsetWidth)),
}));
"""
KEYS = ("assignment", "correct_momentum", "learn_prior", "variance")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with a grid, headings as long as settings can be, seven or eight seeds, and curves."""
    folder = tmp_path_factory.mktemp("wide")
    for values in ((), ("gaussian", True, True, 1.0)):
        own = dict(zip((f"model.head.{key}" for key in KEYS), values, strict=False))
        for T in (8, 16):
            for h in (0.0, 0.5, 0.9):
                for seed in range(7 if (T, h) == (16, 0.9) else 8):
                    keys = own | {"model.head.iterations": T, "model.head.highway_scale": h}
                    path = folder / f"runs/{len(own)}_{T}_{h}_{seed}"
                    rows = plausible_rows(T, h, seed) if seed < 2 else ()
                    write_run(path, seed=seed, miou=0.5 + h / 9 + seed / 99, rows=rows, keys=keys)
                    Image.new("RGB", (9, 9)).save(path / "learning_curves.png")
    write_report([folder / "runs"], folder / "report", images=False)
    return folder / "report/index.html"


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of the committed runs of the study, whose settings have different numbers of seeds."""
    folder = tmp_path_factory.mktemp("study")
    write_report([EXPERIMENTS / "results/study_primary"], folder, images=False)
    return folder / "index.html"


@pytest.mark.parametrize("width", [390, 900, 1280, 1920, 2560])
def test_tables_use_the_width_beside_them_before_they_scroll(browser, page: Path, width: int) -> None:
    browser.resize(width)
    browser.open(page)
    tables = browser.driver.execute_script(TABLES)
    assert len(tables) > 10
    assert [table["name"] for table in tables if table["cut"] and table["free"] > 1] == []
    assert width == 390 or [table["name"] for table in tables if table["cut"]] == []
    assert max(table["heading"] for table in tables) < 300, "long headings wrap"
    assert browser.overflow() == 0


@pytest.mark.parametrize("width", [900, 1280, 1440, 1920])
def test_no_table_of_the_study_scrolls(browser, study_page: Path, width: int) -> None:
    browser.resize(width)
    browser.open(study_page)
    tables = browser.driver.execute_script(TABLES)
    assert [table["name"] for table in tables if table["cut"]] == []
    assert any("Heads" in table["name"] for table in tables)


def test_what_is_folded_away_is_printed(browser, study_page: Path) -> None:
    folded = "[...document.querySelectorAll('details p, details li')].map((each) => each.checkVisibility())"
    browser.open(study_page)
    shown = browser.value(folded)
    assert shown
    assert not any(shown)
    browser.show_for("print")
    try:
        assert all(browser.value(folded))
        assert browser.value("document.querySelector('summary').checkVisibility()") is False
    finally:
        browser.show_for("screen")


@pytest.mark.parametrize(("width", "columns"), [(390, 1), (1280, 1), (1920, 2), (2560, 3)])
def test_findings_stand_in_columns_where_the_page_is_wide(
    browser, page: Path, width: int, columns: int
) -> None:
    browser.resize(width)
    browser.open(page)
    found = "[...document.querySelectorAll('.findings li')].filter((each) => each.offsetParent)"
    assert browser.value(f"new Set({found}.map((each) => each.getBoundingClientRect().left)).size") == columns
