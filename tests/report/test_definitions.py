"""The page and the W&B dashboard show the same figures: both are held against the table of definitions."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _helpers.fake_runs import plausible_rows, write_evaluation, write_run, write_study
from PIL import Image

from hemnet.report import dashboards
from hemnet.report.definitions import CLASSES, FIGURES, Definition
from hemnet.report.write import write_report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of a study that has data for every figure."""
    folder = tmp_path_factory.mktemp("all")
    write_study(folder / "runs", depths=(2, 4), scales=(0.5, 0.9), seeds=2)
    another = ("model/head=hem", "model.head.iterations=2", "model.head.gradient=one_step")
    write_run(folder / "runs/one_step", another, rows=plausible_rows(2, 0.5, 0))
    for h in (0.0, 0.5):
        run = folder / f"runs/sweeps/depth/{'hem' if h else 'em'}_T2_h{h}_s0"
        for T in (2, 8):
            write_evaluation(run, T, 0.5 + h / 10)
    figures = folder / "runs/sweeps/depth/hem_T4_h0.5_s0/figures"
    figures.mkdir()
    for name in ("predictions", "attention"):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(figures / f"{name}.png")
    write_report([folder / "runs"], folder / "report")
    return html.unescape((folder / "report/index.html").read_text())


def panels_by_chapter() -> dict[str, list[dict[str, Any]]]:
    """Return the panels of the dashboard as they are sent, by the heading above them."""
    found: dict[str, list[dict[str, Any]]] = {}
    chapter = ""
    for block in dashboards.payload(dashboards.dashboard("e", "p"))["spec"]["blocks"]:
        if block["type"] == "heading":
            chapter = block["children"][0]["text"]
        elif block["type"] == "panel-grid":
            found[chapter] = block["metadata"]["panelBankSectionConfig"]["panels"]
    return found


def test_the_dashboard_begins_with_the_leaderboard_as_the_page_does(page: str) -> None:
    (chapter, panels), *_ = panels_by_chapter().items()
    config = panels[0]["config"]
    assert chapter == re.findall(r"<h2>([^<]*)</h2>", page)[0] == "Leaderboard"
    assert (config["metrics"], config["groupBy"]) == (["val/miou"], "setting.value")
    grids = [b for b in dashboards.payload(dashboards.dashboard("e", "p"))["spec"]["blocks"]
             if b["type"] == "panel-grid"]  # fmt: skip
    assert [runs["name"] for runs in grids[0]["metadata"]["runSets"]] == ["finished runs"], "all heads"


def shows(panel: dict[str, Any], figure: Definition) -> bool:
    config = panel["config"]
    if figure is CLASSES:
        return "val/iou_table" in str(panel)
    title = config.get("chartTitle") or config.get("title") or config.get("value") or ""
    return title.removeprefix("**").startswith(figure.title)


def test_every_figure_has_its_panels_and_every_panel_its_figure() -> None:
    found = panels_by_chapter()
    assert found.pop("Leaderboard")
    assert list(found) == list(dict.fromkeys(figure.chapter for figure in FIGURES))
    for chapter, panels in found.items():
        mine = [figure for figure in FIGURES if figure.chapter == chapter]
        for figure in mine:
            assert any(shows(panel, figure) for panel in panels), figure.title
        for panel in panels:
            assert any(shows(panel, figure) for figure in mine), panel


def test_a_panel_draws_the_metrics_of_its_figure() -> None:
    for chapter, panels in panels_by_chapter().items():
        for figure in (figure for figure in FIGURES if figure.chapter == chapter):
            drawn = [str(panel) for panel in panels if shows(panel, figure)]
            if figure.axis not in ("T of evaluation and h", "class"):
                for metric in figure.metrics:
                    assert any(re.search(rf"[:/']{metric.name}'", text) for text in drawn), metric


def test_every_figure_is_on_the_page_and_every_chart_of_the_page_is_a_figure(page: str) -> None:
    captions = re.findall(r'(?:class="caption"|figcaption)>([^<]*)<', page)
    headings = re.findall(r"<h3>([^<]*)</h3>", page)
    for figure in FIGURES:
        assert any(figure.title in caption for caption in captions), figure.title
        assert figure.chapter in headings
    charts = re.findall(r'<figcaption>([^<]*)<a href="figures/synthetic_hem_(\w+)\.pdf"', page)
    assert len(charts) > 10
    for caption, name in charts:
        assert any(caption.startswith(f.title) and name.startswith(f.key) for f in FIGURES), caption


def test_keys_and_titles_tell_the_figures_apart() -> None:
    assert (
        len({figure.key for figure in FIGURES}) == len({figure.title for figure in FIGURES}) == len(FIGURES)
    )
    documented = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    for metric in (metric for figure in FIGURES for metric in figure.metrics):
        stem = re.sub(r"/all$", "/<stage>", metric.name)
        assert f"`{stem}" in documented, metric
