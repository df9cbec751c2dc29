"""The explorer's page in a browser: what a click, a touch, a key or a slider shows is what EM did."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.four_patches import CELLS, COLOURS, ITERATIONS, SIZE, data_of, features, layer_of, patches
from PIL import Image

from hemnet.config.build import restore
from hemnet.explore.packing import decoded, unpacked
from hemnet.explore.writing import Wish, explore
from hemnet.runs.run import Run

Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
READY = "document.body.dataset.ready === 'true'"
MIDDLES = ((0.27, 0.28), (0.77, 0.28), (0.27, 0.78), (0.77, 0.78))
"""Cells in the middle of the patches, in reading order, as parts of the width and the height."""
VIEWS = ("photograph", "components", "component", "entropy", "features", "reconstruction", "prediction",
         "truth", "errors")  # fmt: skip


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explore(run.path, Wish(), output=tmp_path_factory.mktemp("page") / "a page.html")


@pytest.fixture
def opened(browser, page: Path):
    browser.resize(1280)
    browser.prefer("light")
    browser.open(page, ready=READY)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []


def holder(browser) -> int:
    return int(browser.find("#holders li").get_attribute("data-component"))


def responsibilities(run: Run, order: tuple[int, ...] = (0, 1, 2, 3)) -> torch.Tensor:
    """(T, h, w, K) of a photograph, of the E-steps 1..T, by the layer itself."""
    network, _ = restore(run)
    layer = layer_of(network)
    x_BChw = features(run, patches(order)[0]).T.reshape(1, -1, *CELLS)
    with torch.no_grad():
        result = layer.run(x_BChw, return_trajectory=True)
        z_TNK = torch.stack([result.responsibilities(t)[0] for t in range(ITERATIONS)])
    return z_TNK.unflatten(1, CELLS)


def test_a_click_on_a_patch_names_the_component_that_holds_it(opened, run: Run) -> None:
    z_hwK = responsibilities(run)[-1]
    for patch, place in enumerate(MIDDLES):
        opened.click("#photo", place)
        assert holder(opened) == patch
        part = opened.text("#holders li > span")
        expected = float(z_hwK[int(CELLS[0] * place[1]), int(CELLS[1] * place[0])].max())
        assert float(part.removesuffix(" %")) / 100 == pytest.approx(expected, abs=0.01)
        x, y = map(int, re.match(r"x (\d+), y (\d+)", opened.text("#where")).groups())
        assert (x, y) == (pytest.approx(place[0] * SIZE[1], abs=1), pytest.approx(place[1] * SIZE[0], abs=1))
        assert f"truth {('sky', 'building', 'pole', 'road')[patch]}" in opened.text("#where")
        assert f"component {patch}," in opened.find("#spoken").get_attribute("textContent")


def test_another_photograph_has_components_of_its_own(opened) -> None:
    opened.click("#photo", MIDDLES[0])
    assert opened.text("#name") == "ahead"
    opened.click("#photographs button:nth-child(2)")
    opened.until("document.getElementById('name').textContent === 'turned'")
    assert holder(opened) == 1  # the pixel stays where it was, and the patches are mirrored
    assert opened.find("#photographs button:nth-child(2)").get_attribute("aria-pressed") == "true"
    for place, patch in zip(MIDDLES, (1, 0, 3, 2), strict=True):
        opened.click("#photo", place)
        assert holder(opened) == patch


def test_keys_move_the_pixel_and_choose_the_iteration_and_the_component(opened, run: Run) -> None:
    opened.click("#photo", MIDDLES[0])
    opened.press(*[Keys.ARROW_RIGHT] * 12)  # half of the map's 24 columns
    assert holder(opened) == 1
    opened.press(*[Keys.ARROW_DOWN] * 8, Keys.ARROW_LEFT)
    assert holder(opened) == 3
    opened.press(Keys.ENTER)
    assert opened.find("#view-component").is_selected()
    assert opened.find("#grid button[aria-pressed='true']").get_attribute("data-component") == "3"
    opened.press(*[Keys.ARROW_DOWN] * 20)
    assert f"y {SIZE[0] - 1}" in opened.text("#where")  # at the border
    opened.press("2")
    assert opened.text("#when") == f"t = 2 of {ITERATIONS}"
    opened.press(".")
    assert opened.text("#when") == f"t = 3 of {ITERATIONS}"
    opened.press(",", ",", ",", ",")
    assert opened.text("#when") == f"t = 1 of {ITERATIONS}"
    opened.press("9")
    assert opened.text("#when") == f"t = {ITERATIONS} of {ITERATIONS}"


def test_each_iteration_shows_its_own_responsibilities_and_likelihood(opened, run: Run) -> None:
    z_ThwK = responsibilities(run)
    for t in (1, 2, 4, ITERATIONS):
        # Where the iteration differs most from its neighbour, so that no other would pass for it.
        neighbour = t - 1 if t == ITERATIONS else t + 1
        change_hw = (z_ThwK[t - 1] - z_ThwK[neighbour - 1]).abs().amax(2)
        row, column = divmod(int(change_hw.argmax()), CELLS[1])
        assert change_hw[row, column] > 0.03
        opened.click("#photo", ((column + 0.5) / CELLS[1], (row + 0.5) / CELLS[0]))
        opened.driver.execute_script(
            "const t = document.getElementById('t'); t.value = arguments[0];"
            "t.dispatchEvent(new Event('input', { bubbles: true }));", t,
        )  # fmt: skip
        expected = z_ThwK[t - 1, row, column]
        for item in opened.driver.find_elements("css selector", "#holders li[data-component]"):
            part = float(item.find_element("xpath", "./span").text.rstrip(" %")) / 100
            assert part == pytest.approx(float(expected[int(item.get_attribute("data-component"))]), abs=0.01)
        bars = f"[...document.querySelectorAll('#hold rect[data-t=\"{t}\"]')]"
        heights = opened.value(f"{bars}.map((bar) => Number(bar.getAttribute('height')))")
        assert sum(heights) == pytest.approx(128, rel=0.02)  # all of the four are drawn, and sum to 1
        assert f"after iteration {t}" in opened.text("#likelihood-now")
        assert opened.value("document.querySelectorAll('#likelihood .chosen').length") == 1
    opened.click("#hold rect.column:nth-of-type(6)")
    assert opened.text("#when") != f"t = {ITERATIONS} of {ITERATIONS}"


def test_views_of_the_photograph_and_their_legends(opened) -> None:
    pictures = {}
    for view in VIEWS:
        opened.driver.execute_script("document.getElementById(arguments[0]).click()", f"view-{view}")
        assert opened.find(f"#view-{view}").is_selected()
        pictures[view] = opened.value("document.getElementById('photo').toDataURL()")
    assert len(set(pictures.values())) == len(pictures)
    opened.driver.execute_script("document.getElementById('view-truth').click()")
    legend = opened.text("#legend")
    for name in ("sky", "building", "pole", "road"):
        assert f"{name} 25 %" in legend
    before = opened.value("document.getElementById('photo').toDataURL()")
    opened.driver.execute_script(
        "const o = document.getElementById('opacity'); o.value = 20; o.dispatchEvent(new Event('input'));"
    )
    assert opened.value("document.getElementById('photo').toDataURL()") != before


def test_components_are_ordered_by_mass_or_by_the_pixel_and_can_be_picked(opened, page: Path) -> None:
    opened.click("#photo", MIDDLES[2])
    opened.driver.execute_script(
        "const order = document.getElementById('order'); order.value = 'hold';"
        "order.dispatchEvent(new Event('change'));"
    )
    assert opened.find("#grid button").get_attribute("data-component") == "2"
    opened.click("#photo", MIDDLES[1])
    assert opened.find("#grid button").get_attribute("data-component") == "1"
    opened.click("#grid button[data-component='0']")
    assert opened.find("#grid button[data-component='0']").get_attribute("aria-pressed") == "true"
    assert "component 0" in opened.text("#legend")
    # The map over the photograph: its own patch is coloured, the others are as grey as without it.
    own, other = opened.driver.execute_script(
        "const photo = document.getElementById('photo'), { width, height } = photo;"
        "const { data } = photo.getContext('2d').getImageData(0, 0, width, height);"
        "return arguments[0].map(([x, y]) => {"
        "  const i = 4 * (Math.round(y * height) * width + Math.round(x * width));"
        "  return [...data.slice(i, i + 3)]; });", [MIDDLES[0], MIDDLES[3]],
    )  # fmt: skip
    assert max(own) - min(own) > 60
    assert max(other) - min(other) < 12


def test_playing_goes_through_the_iterations(opened) -> None:
    assert opened.text("#when") == f"t = {ITERATIONS} of {ITERATIONS}"
    opened.click("#play")
    assert opened.text("#play") == "Pause"
    opened.until("document.getElementById('when').textContent.startsWith('t = 1 ')")
    opened.until("document.getElementById('when').textContent.startsWith('t = 2 ')")
    opened.click("#play")
    assert opened.text("#play") == "Play"


@pytest.mark.parametrize("width", [390, 860, 1280, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_any_width_in_either_scheme(opened, width: int, scheme: str) -> None:
    opened.resize(width)
    opened.prefer(scheme)
    assert opened.overflow() == 0
    ink, ground = (
        opened.value(f"getComputedStyle(document.documentElement).{name}").removeprefix("rgb(").rstrip(")")
        for name in ("color", "backgroundColor")
    )
    brightness = [sum(map(int, colour.split(","))) / 3 for colour in (ink, ground)]
    assert (brightness[0] > 200 and brightness[1] < 50) == (scheme == "dark")
    assert abs(brightness[0] - brightness[1]) > 150
    opened.click("#photo", MIDDLES[3])  # a touch, at the width of a phone
    opened.until("document.querySelector('#holders li').dataset.component === '3'")


def test_tab_reaches_all_controls_and_the_focus_is_seen(opened) -> None:
    reached = set()
    for _ in range(40):
        opened.press(Keys.TAB)
        name = opened.value("document.activeElement.id || document.activeElement.closest('[id]')?.id")
        if name == "photo":
            style = opened.value("getComputedStyle(document.activeElement).outlineStyle")
            assert style == "solid"
        reached.add(name)
    views = {name for name in reached if name and name.startswith("view-")}
    assert len(views) == 1  # a group of radio buttons is one stop
    assert {"photo", "photographs", "opacity", "holders", "order", "scale", "grid", "play", "t"} <= reached


def test_without_truth_nothing_says_truth(browser, run: Run, tmp_path: Path) -> None:
    path = run.path.parent / "camvid" / "val" / "ahead.png"
    browser.resize(1280)
    browser.open(explore(run.path, Wish([path]), output=tmp_path / "page.html"), ready=READY)
    assert not browser.find("#view-truth + span").is_displayed()
    assert browser.find("#view-prediction + span").is_displayed()
    assert not browser.find("#photographs").is_displayed()
    assert "truth" not in browser.text("#where")
    browser.click("#photo", MIDDLES[3])
    assert holder(browser) == 3
    assert browser.complaints() == []


@pytest.mark.parametrize("size", [(61, 90), (361, 1931)], ids=["padded", "shrunk"])
def test_a_pixel_is_that_of_its_cell_whatever_the_size(
    browser, run: Run, tmp_path: Path, size: tuple[int, int]
) -> None:
    blocks = np.random.default_rng(0).integers(0, 4, [-(-side // 16) for side in size])
    image = COLOURS[blocks].repeat(16, axis=0).repeat(16, axis=1)[: size[0], : size[1]]
    Image.fromarray(image).save(tmp_path / "blocks.png")
    page = explore(run.path, Wish([tmp_path / "blocks.png"]), output=tmp_path / "page.html")
    (entry,) = data_of(page)["photographs"]
    z_Khw, shown = decoded(unpacked(entry["z"]))[-1], (entry["height"], entry["width"])
    browser.resize(1280)
    browser.open(page, ready=READY)
    found = set()
    for place in ((0.01, 0.02), (0.3, 0.7), (0.51, 0.4), (0.77, 0.1), (0.99, 0.97)):
        browser.click("#photo", place)
        x, y = map(int, re.match(r"x (\d+), y (\d+)", browser.text("#where")).groups())
        assert (x / shown[1], y / shown[0]) == pytest.approx(place, abs=0.03)
        # A cell of the map is 8 pixels of the photograph; the pointer was somewhere in a pixel of that shown.
        shares_CK = [
            z_Khw[:, int((y + part) * size[0] / shown[0] / 8), int((x + part) * size[1] / shown[1] / 8)]
            for part in (0, 0.99)
        ]
        said = float(browser.text("#holders li > span").rstrip(" %")) / 100
        assert any(
            abs(said - shares_K.max()) < 0.006 and shares_K.argmax() == holder(browser)
            for shares_K in shares_CK
        )
        found.add(holder(browser))
    assert len(found) > 1, "cells that differ too little to tell"
    assert browser.complaints() == []


def test_features_that_do_not_vary_are_said_to(browser, run: Run, tmp_path: Path) -> None:
    Image.fromarray(patches()[0][:1, :1]).save(tmp_path / "one.png")
    browser.open(explore(run.path, Wish([tmp_path / "one.png"]), output=tmp_path / "page.html"), ready=READY)
    assert browser.text("#error-now") == "not defined: the features are the same in all cells"
    assert not browser.find("#error").is_displayed()
    assert browser.text("#explained") == ""
    assert browser.complaints() == []
