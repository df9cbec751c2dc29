"""A page of the responsibilities of EM's components, called attention here, as a PNG file.

Shapes: H and W pixels of an image, h and w positions of a feature map, K components, S iterations, shown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hemnet.figures import caption, save, styled

# Inches: width of the page, and sizes around the maps of an image.
WIDTH, LABEL, TITLE, GAP, FOOT, LARGEST_MAP = 10.0, 0.75, 0.45, 0.04, 0.65, 1.7
DIM = 0.35
"""Brightness of the image where a component holds nothing."""


class Attention(NamedTuple):
    """Responsibilities of EM's components in one image.

    ``image`` (H, W, 3) uint8; ``components``, K indices; ``shares``, K, each component's final share of the
    positions; ``maps`` (K, S, h, w), the responsibilities, 0..1.
    """

    name: str
    image: np.ndarray
    components: Sequence[int]
    shares: Sequence[float]
    maps: np.ndarray


@styled
def attention_page(
    images: Sequence[Attention], iterations: Sequence[int], path: Path, *, show_images: bool = True
) -> None:
    """Write a row of maps per component and image: its responsibilities under mu^(t), from 0 to 1.

    A row begins with the image as the component sees it at last: its brightness is the last map's, from `DIM`
    to 1.

    Args:
        images: at least one.
        iterations: the S values of t.
        path: the PNG file.
        show_images: whether the images are shown; without photographs the figure may be shared more freely.
    """
    titles = [f"t = {t}" for t in iterations]
    titles = [f"seen at {titles[-1]}", *titles] if show_images else titles
    side = min(LARGEST_MAP, (WIDTH - LABEL) / len(titles))
    width = LABEL + side * len(titles)
    rows = [side * one.image.shape[0] / one.image.shape[1] for one in images]
    height = sum(TITLE + len(one.maps) * row for one, row in zip(images, rows, strict=True)) + FOOT
    page = _Page(width, height)
    top = 0.0
    for one, row in zip(images, rows, strict=True):
        top += TITLE
        page.text(GAP, top - 0.25, caption(one.name, 59), size=8)
        for place, title in enumerate(titles):
            page.text(LABEL + side * (place + 0.5), top - 0.06, title, size=8, ha="center")
        for k, (component, share) in enumerate(zip(one.components, one.shares, strict=True)):
            label = f"k = {component}\n{100 * share:.0f} %"
            page.text(LABEL - 0.06, top + row / 2, label, size=7, ha="right", va="center")
            for place, picture in enumerate(_row(one.image, one.maps[k], show_images)):
                page.picture(picture, LABEL + side * place, top, side, row)
            top += row
    page.scale("responsibility under the means of iteration t")
    save(page.figure, path)


def _row(image: np.ndarray, maps_Shw: np.ndarray, show_image: bool) -> list[np.ndarray]:
    """Return the pictures of one component: the image in the light of the last map, and the maps."""
    # Resized to the image, so that positions of the map and of the image coincide.
    maps = [cv2.resize(one, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) for one in maps_Shw]
    if not show_image:
        return maps
    light = DIM + (1 - DIM) * np.clip(maps[-1], 0, 1)[..., None]
    return [(image * light).astype(np.uint8), *maps]


class _Page:
    """A figure with positions in inches from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), dpi=110)
        self._width, self._height = width, height

    def text(
        self, left: float, bottom: float, text: str, *, size: float, ha: str = "left", va: str = "baseline"
    ) -> None:
        self.figure.text(left / self._width, 1 - bottom / self._height, text, fontsize=size, ha=ha, va=va)

    def picture(self, picture: np.ndarray, left: float, top: float, width: float, height: float) -> None:
        axis = self._axis(left, top, width - GAP, height - GAP)
        axis.imshow(picture, cmap="magma", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axis.set_axis_off()

    def scale(self, label: str) -> None:
        axis = self._axis(self._width / 2 - 1.5, self._height - FOOT + 0.15, 3, 0.1)
        colours = mpl.cm.ScalarMappable(Normalize(0, 1), "magma")
        self.figure.colorbar(colours, cax=axis, orientation="horizontal")
        axis.tick_params(labelsize=7)
        axis.set_xlabel(label, fontsize=8)

    def _axis(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self._height - top - height
        W, H = self._width, self._height
        return self.figure.add_axes((left / W, bottom / H, width / W, height / H))
