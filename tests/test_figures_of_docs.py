"""The figures of the documentation: what they show, and that the committed ones are the script's."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _helpers.waiting import CEILING
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
STUDY = DOCS.parent / "experiments" / "results" / "study_primary"
NAMES = ("engines", "method", "modes", "shares")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    command = [sys.executable, str(DOCS / "tools" / "figures.py"), str(folder)]
    # matplotlib keeps a list of fonts, which may be of another installation and name another DejaVu Sans.
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path_factory.mktemp("matplotlib"))}
    subprocess.run(command, check=True, timeout=CEILING, capture_output=True, env=environment)
    return folder


def parts(svg: str) -> tuple[str, np.ndarray, list[np.ndarray]]:
    """A drawing as its text without names and numbers, its numbers, and the pixels of its pictures."""
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", svg)
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in pictures]
    text = re.sub(r"data:image/png;base64,[^\"]+", "", svg)
    text = re.sub(r'(\bid="|#)[\w-]+', r"\1", text)
    numbers = re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)
    return re.sub(r"-?\d+\.?\d*(?:e-?\d+)?", "", text), np.array(numbers, float), pixels


def test_every_figure_is_drawn_and_none_is_left_over(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {f"{name}.svg" for name in NAMES}
    assert {path.name for path in (DOCS / "figures").glob("*.svg")} == {f"{name}.svg" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_figures_are_those_that_the_script_draws(drawn: Path, name: str) -> None:
    """Up to rounding, which differs between processors: a thirtieth of a point, two grey levels."""
    (text, numbers, pictures), (old_text, old_numbers, old_pictures) = (
        parts((folder / f"{name}.svg").read_text("utf-8")) for folder in (drawn, DOCS / "figures")
    )
    assert text == old_text
    np.testing.assert_allclose(numbers, old_numbers, atol=0.03, rtol=0)
    assert len(pictures) == len(old_pictures)
    for now, before in zip(pictures, old_pictures, strict=True):
        assert now.shape == before.shape
        assert np.abs(now.astype(int) - before).mean() < 2


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_can_be_read_on_a_dark_page_and_loads_nothing(name: str) -> None:
    svg = (DOCS / "figures" / f"{name}.svg").read_text("utf-8")
    assert "@media (prefers-color-scheme: dark)" in svg
    named = set(re.findall(r"var\(--(\w+)\)", svg))
    assert {"ink", "paper"} <= named
    for name in named:
        assert len(re.findall(rf"--{name}: #", svg)) == 2  # in the light and the dark page
    assert not re.search(r"(?:href|src)=\"(?!#|data:)", svg)
    assert len(svg) < 200_000


def test_the_shares_are_those_of_the_runs_beside_equation_18(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "tools"))
    import figures

    assert figures.direct(0.5, 3) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert figures.direct(0.0, 4) == [0, 0, 0, 1]
    for runs in (figures.PLAIN, figures.HIGHWAY):
        for run, shares in zip(runs, figures.trained_shares(runs), strict=True):
            logged = pd.read_csv(STUDY / run / "metrics.csv").filter(regex=r"^gradient/share/").dropna()
            last = logged.iloc[-(len(logged) // 10) :, :-1].mean()
            np.testing.assert_allclose(shares, last / last.sum(), rtol=1e-6)
    assert figures.trained_shares(figures.PLAIN)[0, -1] > figures.trained_shares(figures.HIGHWAY)[:, -1].max()
    # One step sends what all send through the last iteration; nothing passes where nothing is differentiated.
    whole, last = figures.mode_parts("unrolled", 4), figures.mode_parts("one_step", 4)
    assert (whole > 0).all()
    assert (last[:3] == 0).all()
    np.testing.assert_allclose(last[3:], whole[3:], rtol=1e-5)
    assert not figures.mode_parts("detached", 4).any()
