"""The browser that the tests of pages look through: it sees what a reader would see and complain of."""

from pathlib import Path

import pytest

PAGE = """<!DOCTYPE html><meta name="viewport" content="width=device-width">
<style>body { margin: 0; color: black } @media (prefers-color-scheme: dark) { body { color: white } }
.wide { height: 40px; width: %dpx; background: grey }</style>
<div class="wide" tabindex="0"></div><p id="said"></p><img id="picture" src="%s">
<script>
const said = document.getElementById("said");
const show = (click) => { said.textContent = `${click.offsetX},${click.offsetY}`; };
document.querySelector(".wide").onclick = show;
document.onpointerdown = (event) => { document.title = event.pointerType; };
document.onkeydown = (event) => { said.textContent += event.key; };
%s
</script>"""


def test_clicks_and_keys_arrive(browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE % (200, "", ""))
    browser.resize(800)
    browser.open(tmp_path / "page.html")
    browser.click(".wide", (0.25, 0.5))
    assert browser.text("#said") == "50,20"
    assert browser.value("document.title") == "mouse"
    browser.press("a", "3")
    assert browser.text("#said") == "50,20a3"
    assert browser.complaints() == []


def test_on_a_phone_a_click_is_a_touch(browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE % (200, "", ""))
    browser.resize(390)
    browser.open(tmp_path / "page.html")
    browser.click(".wide", (0.25, 0.5))
    browser.until("document.getElementById('said').textContent === '50,20'")
    assert browser.value("document.title") == "touch"


@pytest.mark.parametrize(("width", "beyond"), [(390, 10), (1280, 0)])
def test_what_is_wider_than_the_window_is_noticed(browser, tmp_path: Path, width: int, beyond: int) -> None:
    (tmp_path / "page.html").write_text(PAGE % (400, "", ""))
    browser.resize(width)
    browser.open(tmp_path / "page.html")
    assert browser.overflow() == beyond


def test_errors_and_requests_are_noticed(browser, tmp_path: Path) -> None:
    (tmp_path / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>')
    (tmp_path / "page.html").write_text(PAGE % (9, "dot.svg", "nowhere();"))
    browser.open(tmp_path / "page.html", ready="document.getElementById('picture').naturalWidth === 9")
    assert ["nowhere" in complaint for complaint in browser.complaints()] == [True]
    assert browser.complaints() == []
    assert [name.rpartition("/")[2] for name in browser.requests()] == ["dot.svg"]


def test_the_scheme_is_the_reader_s(browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE % (9, "", ""))
    browser.open(tmp_path / "page.html")
    for scheme, color in (("dark", "rgb(255, 255, 255)"), ("light", "rgb(0, 0, 0)")):
        browser.prefer(scheme)
        assert browser.value("getComputedStyle(document.body).color") == color
