"""The method in one picture: three iterations of highway EM on a photograph, with all tensors drawn.

Shape suffixes: B images, N positions, C channels, K components, H and W rows and columns of a map.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from drawing import INK, PAPER, SOFT, save, styled
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from PIL import Image, ImageColor
from torch import Tensor

from hemnet.em import EMResult, unroll
from hemnet.nets import EfficientNetLite
from hemnet.nets.foreign import MEAN_RGB, STD_RGB
from hemnet.report.plots import BLUE, GREEN, PURPLE, SKY, VERMILION, YELLOW

PHOTOGRAPH = Path(__file__).parents[1] / "figures" / "coffee.jpg"
STEPS, COMPONENTS, SEED = 3, 5, 6
MODEL: dict[str, Any] = {"highway_scale": 0.5, "assignment": "dot"}
"""The layer's default: Eq. 8 of the paper at variance sqrt(C)."""
COLOURS = (BLUE, VERMILION, GREEN, YELLOW, PURPLE, SKY)[:COMPONENTS]
MEAN, STD = torch.tensor(MEAN_RGB), torch.tensor(STD_RGB)

# The layout, in points, downwards: side of a map, its columns, and the heights of the rows.
WIDTH, HEIGHT, SIDE = 409, 296, 66
COLUMNS = [7 + 82 * i for i in range(5)]
BUS, ASSIGN, MAP, POOL, ROAD, MEANS, TEXT = 24, 34, 60, 136, 188, 201, 235
WORDS = (
    r"E  $z_{nk} = \mathrm{softmax}_k(x_n\cdot\mu_k/\sigma^2)$: which component holds a position, as colours",
    r"M  $m_k = \Sigma_n z_{nk}x_n\,/\,\Sigma_n z_{nk}$: the average of what a component holds",
    r"N  $\mu_k \leftarrow h\,\mu_k + (1-h)\,m_k$: a part $h$ of each mean passes unchanged, on the highway",
    r"R  $y_n = \Sigma_k z_{nk}\mu_k$: each position is replaced by the mix of its components' means",
)


def photograph() -> Image.Image:
    """Return the photograph: a coffee cup, by Rachel Michetti, CC0, which scikit-image ships."""
    return Image.open(PHOTOGRAPH).convert("RGB")


@cache
def features() -> Tensor:
    """Return features of the photograph, (1, N, C): a map of EfficientNet-Lite0, normalised by channel."""
    image_HWC = torch.from_numpy(np.array(photograph())).float() / 255
    network = EfficientNetLite(0, output_stride=8, weights="imagenet").eval()
    with torch.no_grad():
        maps = network(((image_HWC - MEAN) / STD).permute(2, 0, 1)[None])
    x_BNC = maps[-1].flatten(2).transpose(1, 2)
    return (x_BNC - x_BNC.mean(1)) / x_BNC.std(1)


def initial_means() -> Tensor:
    """Return means drawn as those of a new layer are, (1, K, C)."""
    shape = 1, COMPONENTS, features().shape[-1]
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED))


@cache
def fit() -> EMResult:
    """Return three iterations on the photograph."""
    return unroll(features(), initial_means(), iterations=STEPS, return_trajectory=True, **MODEL)


@cache
def _principal() -> tuple[Tensor, Tensor, Tensor]:
    """Return the features' first three principal components, (C, 3), and the ends of their colours, (3,)."""
    x_NC = features()[0]
    axes_C3 = torch.linalg.svd(x_NC, full_matrices=False)[2][:3].T
    low_3, high_3 = torch.quantile(x_NC @ axes_C3, torch.tensor([0.02, 0.98]), dim=0)
    return axes_C3, low_3, high_3


def false_colours(values_NC: Tensor) -> np.ndarray:
    """Return vectors as colours, (N, 3) uint8: their three principal components, those of the features."""
    axes_C3, low_3, high_3 = _principal()
    return ((values_NC @ axes_C3 - low_3) / (high_3 - low_3)).clamp(0, 1).mul(255).byte().numpy()


def assignment_map(step: int) -> np.ndarray:
    """Return the responsibilities of an E-step, 1 ... T, each position a mix of its components' colours."""
    palette_K3 = torch.tensor([ImageColor.getrgb(colour) for colour in COLOURS]).float()
    return _square((fit().responsibilities(step - 1)[0] @ palette_K3).byte().numpy())


def _square(colours_N3: np.ndarray) -> np.ndarray:
    side = round(len(colours_N3) ** 0.5)
    return colours_N3.reshape(side, side, 3)


def _image(axis: Axes, pixels_HW3: np.ndarray, left: float, top: float) -> None:
    place = (left, left + SIDE, top + SIDE, top)
    axis.imshow(pixels_HW3, extent=place, interpolation="none", aspect="auto", zorder=2)


def _arrow(axis: Axes, points: Sequence[tuple[float, float]], colour: str = INK, width: float = 1.2) -> None:
    """A line through points, with a head at its end."""
    axis.plot(*zip(*points, strict=True), color=colour, linewidth=width, solid_joinstyle="miter", zorder=1)
    axis.add_patch(
        FancyArrowPatch(*points[-2:], arrowstyle="-|>", mutation_scale=7, color=colour, linewidth=width,
                        shrinkA=0, shrinkB=0, zorder=1)
    )  # fmt: skip


def _box(axis: Axes, text: str, left: float, top: float, colour: str = INK) -> None:
    shape = FancyBboxPatch((left, top), SIDE, 16, boxstyle="round,pad=0,rounding_size=4", linewidth=1.1,
                           edgecolor=colour, facecolor=PAPER, zorder=2)  # fmt: skip
    axis.add_patch(shape)
    axis.text(left + SIDE / 2, top + 8.3, text, ha="center", va="center", fontsize=9, color=INK, zorder=3)


def _means(axis: Axes, step: int, center: float) -> None:
    """The means after a step, each in false colours, with the frame of its component's colour."""
    shown_K3 = false_colours(fit().trajectory[step, 0])
    for k, colour in enumerate(COLOURS):
        left = center + 11 * (k - COMPONENTS / 2) + 1
        axis.add_patch(
            plt.Rectangle((left, MEANS), 9, 9, facecolor=shown_K3[k] / 255, edgecolor=colour, linewidth=1.8)
        )
    axis.text(center, MEANS + 16, rf"$\mu^{{({step})}}$", ha="center", va="center", fontsize=10)


def _iteration(axis: Axes, step: int, left: float) -> None:
    """One iteration: E-step, its map, M-step, and the step on the highway below."""
    middle, gap = left + SIDE / 2, left + SIDE
    axis.text(middle, 12, f"iteration {step}", ha="center", va="center", fontsize=10)
    _box(axis, "E: assign", left, ASSIGN)
    _arrow(axis, [(middle, BUS), (middle, ASSIGN)])
    _arrow(axis, [(middle, ASSIGN + 16), (middle, MAP)])
    _image(axis, assignment_map(step), left, MAP)
    _arrow(axis, [(middle, MAP + SIDE), (middle, POOL)])
    _box(axis, "M: average", left, POOL)
    # The features reach the M-step too; the means of the step before reach the E-step.
    _arrow(axis, [(gap + 5, BUS), (gap + 5, POOL + 8), (gap, POOL + 8)])
    _arrow(axis, [(left - 6, ROAD), (left - 6, ASSIGN + 8), (left, ASSIGN + 8)], SOFT)
    _arrow(axis, [(middle, POOL + 16), (middle, ROAD - 8)], BLUE, 1.8)
    axis.text(middle + 4, ROAD - 22, r"$\times\,(1-h)$", fontsize=8, color=BLUE, va="center")
    axis.text(left + 10, ROAD - 7, r"$\times\,h$", fontsize=9, color=VERMILION, ha="center", va="center")
    axis.add_patch(Circle((middle, ROAD), 7.5, facecolor=PAPER, edgecolor=VERMILION, linewidth=1.8, zorder=4))
    axis.text(middle, ROAD + 0.3, "N", ha="center", va="center", fontsize=9, color=INK, zorder=5)
    _means(axis, step, middle)


@styled
def draw(path: Path) -> None:
    """The method in one picture."""
    figure = plt.figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axis.axis("off")
    first, *middle, last = COLUMNS
    _ends(axis, first, last)
    for step, left in enumerate(middle, start=1):
        _iteration(axis, step, left)
    for row, line in enumerate(WORDS):
        axis.text(first, TEXT + 16 * row, line, fontsize=8.6, va="center")
    save(figure, path)


def _ends(axis: Axes, first: float, last: float) -> None:
    """The photograph and its features at the left, the reconstruction at the right, the highway between."""
    middle = first + SIDE / 2
    axis.text(middle, 12, "features x", ha="center", va="center", fontsize=10)
    _image(axis, _square(false_colours(features()[0])), first, 20)
    small = np.asarray(photograph().resize((132, 132), Image.Resampling.LANCZOS))
    _image(axis, small, first, 104)
    _arrow(axis, [(middle, 104), (middle, 86)])
    axis.text(middle + 5, 95, "backbone", fontsize=8.6, va="center")
    edge = COLUMNS[3] + SIDE + 5
    axis.plot((first + SIDE, edge), (BUS, BUS), color=INK, linewidth=1.2, zorder=1)
    _means(axis, 0, middle)
    _arrow(axis, [(first + 4, ROAD), (last + 10, ROAD), (last + 10, POOL + 16)], VERMILION, 3)
    axis.text(last + 15, ROAD - 7, "highway", fontsize=9, color=VERMILION, va="center")
    # The responsibilities of the last E-step reach the reconstruction.
    _arrow(axis, [(edge - 5, MAP + 50), (last - 5, MAP + 50), (last - 5, POOL + 8), (last, POOL + 8)], SOFT)
    _arrow(axis, [(last + SIDE / 2, POOL), (last + SIDE / 2, MAP + SIDE)])
    _box(axis, "R: rebuild", last, POOL)
    axis.text(last + SIDE / 2, 12, "output y", ha="center", va="center", fontsize=10)
    _image(axis, _square(false_colours(fit().reconstruction[0])), last, MAP)
