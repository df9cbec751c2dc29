"""Figures of one run, as they are drawn: positions, colours and labels."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from hemnet.figures.attention import Attention, attention_page
from hemnet.figures.scores import learning_curves


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that are saved during the test."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


@pytest.mark.parametrize("show_images", [True, False])
@pytest.mark.parametrize(("components", "iterations"), [(1, 1), (4, 2), (4, 7), (6, 3)])
@pytest.mark.parametrize("size", [(48, 64), (64, 40)])
def test_the_pictures_of_an_image_fill_a_rectangle(
    components: int,
    iterations: int,
    size: tuple[int, int],
    show_images: bool,
    tmp_path: Path,
    drawn: list[Figure],
) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    maps = np.zeros((components, iterations, 6, 8))
    one = Attention("a", image, range(components), [0.1] * components, maps)
    attention_page([one], range(iterations), tmp_path / "page.png", show_images=show_images)
    (page,) = drawn
    *pictures, _colours = page.axes
    assert len(pictures) == components * (iterations + show_images)
    boxes = np.array([picture.get_position().extents for picture in pictures])
    whole = (boxes[:, 2].max() - boxes[:, 0].min()) * (boxes[:, 3].max() - boxes[:, 1].min())
    covered = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    assert 0.85 * whole < covered < 1.001 * whole


def test_an_image_is_bright_where_its_component_is(tmp_path: Path, drawn: list[Figure]) -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    maps = np.zeros((1, 2, 2, 2))
    maps[0, -1] = [[1, 0], [0, 0]]
    attention_page([Attention("a", image, [3], [0.2], maps)], [0, 1], tmp_path / "page.png")
    lit = drawn[0].axes[0].images[0].get_array()
    assert lit[0, 0, 0] == 200
    assert 20 < lit[-1, -1, 0] < 100


def pixels(page: Figure, path: Path, panel: int, colour: str) -> int:
    """Return how many pixels of a panel, without its legend, have a colour."""
    picture = np.asarray(Image.open(path).convert("RGB")) / 255
    left, bottom, right, top = page.axes[panel].get_position().extents
    height, width = picture.shape[:2]
    inside = picture[
        int((1 - top) * height) : int((1 - bottom) * height), int(left * width) : int(right * width)
    ]
    return int((np.abs(inside - to_rgb(colour)).max(-1) < 0.05).sum())


NAMES = ("val/miou", "val/mean_accuracy", "val/pixel_accuracy")


@pytest.mark.parametrize("steps", [1, 4, 90, 400])
@pytest.mark.parametrize(
    ("above", "said"),
    [
        ((0.0, 0.1, 0.1), [(2, 1)]),
        ((0.0, 0.0, 0.2), [(1, 0)]),
        ((0.0, 0.0, 0.0), [(1, 0), (2, 1)]),
        ((0.0, 0.1, 0.1001), [(2, 1)]),
        ((0.0, 0.1, 0.2), []),
    ],
)
def test_curves_that_coincide_are_all_seen_and_the_legend_says_so(
    above: tuple[float, ...], said: list[tuple[int, int]], steps: int, tmp_path: Path, drawn: list[Figure]
) -> None:
    rows = [
        {"step": step, **{name: 0.5 + step / 1000 + more for name, more in zip(NAMES, above, strict=True)}}
        for step in range(0, 10 * steps, 10)
    ]
    learning_curves(rows, tmp_path / "curves.png")
    (page,) = drawn
    for colour in ("C0", "C1", "C2"):
        assert pixels(page, tmp_path / "curves.png", 1, colour) >= (10 if steps == 1 else 40)
    labels = [text.get_text() for text in page.axes[1].get_legend().get_texts()]
    expected = list(NAMES)
    for which, other in said:
        expected[which] += f"\n(coincides with {NAMES[other]})"
    assert labels == expected


def test_values_that_are_not_finite_coincide_with_nothing_else(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"step": step, "train/loss": float("nan"), "val/loss": 1.0} for step in range(3)]
    learning_curves(rows, tmp_path / "curves.png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == ["train/loss", "val/loss"]
