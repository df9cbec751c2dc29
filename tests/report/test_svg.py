"""Charts as SVG: what their parts tell, ids, both colour schemes; in text and in a browser."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from _helpers.fake_runs import write_evaluation, write_run
from matplotlib.figure import Figure
from PIL import Image

from hemnet.report.drawing import save
from hemnet.report.plots import STYLE, head_colour, scale_colour
from hemnet.report.svg import as_svg, inline, tell
from hemnet.report.write import write_report


def marked(text: str) -> Figure:
    """Return a figure with a bar that tells a text."""
    figure = Figure(figsize=(4, 3))
    axis = figure.subplots()
    bar, _ = axis.bar([0, 1], [1, 2])
    tell(bar, text)
    axis.set_title('id="x" url(#y) <g id="told: z">')
    return figure


def text_of(told: str, name: str) -> str:
    with mpl.rc_context(STYLE):
        return as_svg(marked(told), name)


HOSTILE = """a "b" & <script>alert('c')</script>"""


def test_a_part_tells_its_text_whatever_its_letters(tmp_path: Path) -> None:
    svg = text_of(HOSTILE, "one")
    root = ElementTree.fromstring(svg)
    (part,) = [node for node in root.iter() if node.get("class") == "told"]
    assert part.get("tabindex") == "0"
    assert [child.text for child in part if child.tag.endswith("title")] == [HOSTILE]
    assert HOSTILE in [node.text for node in part.iter() if node.tag.endswith("text")]
    shown = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert 'id="x" url(#y) <g id="told: z">' in shown, "what is not an id stays as it is"


def test_a_long_text_fits_into_its_line(browser, tmp_path: Path) -> None:
    told = (
        "T_train=16, EMANet, momentum=0.9, highway_scale=0.5: 0.5370, 95% interval 0.4990 to 0.5750 & <more>"
    )
    (tmp_path / "page.html").write_text(inline(text_of(told, "one"), "a"))
    browser.resize(1280)
    browser.open(tmp_path / "page.html")
    length, width = (browser.value(f"document.querySelector('{what}').getBoundingClientRect().width")
                     for what in (".line > text", ".line > rect"))  # fmt: skip
    assert 0.6 * width < length < width


def test_figures_of_one_page_share_no_ids_and_refer_to_their_own() -> None:
    one, two = (text_of("a", name) for name in ("one", "two"))
    ids = [set(re.findall(r'<[^>]*\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert not ids[0] & ids[1]
    for svg, mine in zip((one, two), ids, strict=True):
        used = re.findall(r'<[^>]*(?:href="#|url\(#)([^")]+)', svg)
        assert used
        assert set(used) <= mine


def test_a_file_has_white_paper_and_a_part_of_a_page_has_none() -> None:
    svg = text_of("a", "one")
    assert 'id="one-paper"' in svg
    inside = inline(svg, 'what "it" shows')
    assert inside.startswith('<svg role="group" aria-label=\'what "it" shows\'')
    assert "paper" not in inside
    assert "<metadata" not in inside
    ElementTree.fromstring(inside)


def test_files_are_the_same_for_the_same_content_and_embed_their_fonts(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with mpl.rc_context(STYLE):
            save(marked("σ² η – ±"), tmp_path / folder, "one")
    for end in ("svg", "pdf"):
        texts = [(tmp_path / folder / f"one.{end}").read_bytes() for folder in ("a", "b")]
        assert texts[0] == texts[1]
        assert not re.search(rb"CreationDate|ModDate|<dc:date|20[2-9]\d-\d\d-\d\d", texts[0])
    pdf = (tmp_path / "a/one.pdf").read_bytes()
    described = re.findall(rb"/FontDescriptor \d+ 0 R", pdf)
    assert described
    assert b"/Type3" not in pdf, "publishers refuse fonts of type 3"
    assert pdf.count(b"/FontFile2") == pdf.count(b"/Type /FontDescriptor")


def scored(folder: Path) -> Path:
    """Write the report of a grid with two seeds, of one seed, and without a score, and return its folder."""
    for T, h, mious in ((1, 0.0, (0.9, 0.99)), (1, 0.5, (0.5, 0.6)), (2, 0.0, (0.7,)), (2, 0.5, (0.71, 0.7))):
        for seed, miou in enumerate(mious):
            overrides = ("model/head=hem", f"model.head.highway_scale={h}", f"model.head.iterations={T}")
            run = write_run(folder / f"runs/{T}_{h}_{seed}", overrides, seed=seed, miou=miou)
            for T_eval in (2, 4) if h else (2,):
                write_evaluation(run, T_eval, miou)
    write_report([folder / "runs"], folder / "report")
    return folder / "report"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(tmp_path_factory.mktemp("svg"))


@pytest.mark.parametrize("name", ["grid_train", "grid_eval_T2"])
def test_each_cell_of_a_heat_map_tells_its_interval(report: Path, name: str) -> None:
    svg = ElementTree.parse(report / f"figures/synthetic_hem_{name}.svg").getroot()
    told = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}title")]
    axis = "T_train" if name == "grid_train" else "T_eval"
    assert len(told) == 4
    assert f"{axis}=2, η=1: 0.7000, one seed, no interval" in told
    half = 12.706204736 * 0.005  # Student's t for two seeds; their mean has the standard error 0.005
    low, high = 0.705 - half, 0.705 + half
    assert f"{axis}=2, η=0.5: 0.7050, 95% interval {low:.4f} to {high:.4f}, n=2" in told
    assert ("T_eval=4, η=1: no score" in told) == (axis == "T_eval")
    page = (report / "index.html").read_text()
    assert all(f"<title>{text}</title>" in page for text in told)


def test_a_cell_tells_its_interval_under_the_mouse_the_tab_key_and_a_finger(browser, report: Path) -> None:
    for width in (390, 1280):
        browser.resize(width)
        browser.open(report / "index.html")
        assert browser.overflow() == 0
        title = "document.querySelectorAll('.told title')[{}].textContent"
        assert browser.text(".saying").startswith("Point at a cell")
        browser.click(".told > path")
        assert browser.text(".saying") == browser.value(title.format(0))
        assert browser.value("document.activeElement.classList.contains('told')")
        browser.press("\ue004")  # tab
        assert browser.text(".saying") == browser.value(title.format(1))


def test_a_cell_of_a_file_tells_its_interval_in_a_line_of_the_figure(browser, report: Path) -> None:
    browser.open(report / "figures/synthetic_hem_grid_train.svg")
    shown = "getComputedStyle(document.querySelectorAll('.told .line')[{}]).visibility"
    assert browser.value(shown.format(0)) == "hidden"
    browser.click(".told > path")
    assert browser.value(shown.format(0)) == "visible"
    assert browser.value(shown.format(1)) == "hidden"
    browser.press("\ue004")  # tab
    assert browser.value(shown.format(1)) == "visible"


def test_the_interval_of_a_cell_of_a_wide_heat_map_is_on_a_phone_screen(browser, tmp_path: Path) -> None:
    for i in range(16):
        for T in (1, 2):
            keys = {"model.head.highway_scale": i / 16, "model.head.iterations": T}
            head = "hem" if i else "em"
            write_run(tmp_path / f"runs/{i}_{T}", (f"model/head={head}",), miou=0.5 + i / 99, keys=keys)
    write_report([tmp_path / "runs"], tmp_path / "report")
    browser.resize(390)
    browser.open(tmp_path / "report/index.html")
    for cell in (0, 20):
        at = f"document.querySelectorAll('.told')[{cell}]"
        browser.driver.execute_script(
            f"{at}.scrollIntoView({{block: 'center', inline: 'center'}}); {at}.focus()"
        )
        assert browser.text(".saying") == browser.value(f"{at}.querySelector('title').textContent")
        left, right = (
            browser.value(f"document.querySelector('.saying').getBoundingClientRect().{end}")
            for end in ("left", "right")
        )
        assert 0 <= left < right <= 390
    assert browser.overflow() == 0


def contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Return the contrast of two sRGB colours by WCAG 2, 1 to 21."""

    def luminance(colour: np.ndarray) -> float:
        c = np.asarray(colour[:3], float) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ink_and_lines_stand_out_from_the_page_in_both_schemes(
    browser, report: Path, tmp_path: Path, scheme: str
) -> None:
    colours = ["#000000", *map(scale_colour, (0, 0.5, 1)), *map(head_colour, ("em", "hem", "emanet", "fcn"))]
    bands = "".join(
        f'<rect x="{40 * i}" width="40" height="40" fill="{colour}"/>' for i, colour in enumerate(colours)
    )
    text = (report / "index.html").read_text()
    swatch = f'<figure class="chart" id="swatch"><svg viewBox="0 0 400 40">{bands}</svg></figure>'
    (tmp_path / "page.html").write_text(text.replace("<body>", f"<body>{swatch}"))
    browser.resize(1280)
    browser.prefer(scheme)
    browser.open(tmp_path / "page.html")
    browser.find("#swatch > svg").screenshot(str(tmp_path / "swatch.png"))
    picture = np.asarray(Image.open(tmp_path / "swatch.png").convert("RGB"))
    unit = picture.shape[1] / 400
    seen = [picture[picture.shape[0] // 2, int((40 * i + 20) * unit)] for i in range(10)]
    page = seen[-1]  # beyond the bands
    assert (page.mean() < 60) == (scheme == "dark")
    assert contrast(seen[0], page) > 10
    assert all(contrast(colour, page) > 2.5 for colour in seen[1 : len(colours)])
