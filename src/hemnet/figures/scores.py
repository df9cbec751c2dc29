"""Scores as figures: confusion matrices and learning curves, as PNG files.

Shapes: K classes.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hemnet.data import DatasetSpec
from hemnet.figures import styled

# Most classes with which a confusion matrix has numbers in its cells, and names at its sides.
MOST_NUMBERS, MOST_NAMES = 12, 64


@styled
def confusion_figure(C_KK: np.ndarray, spec: DatasetSpec, path: Path, title: str = "") -> None:
    """Write a confusion matrix as shares of each true class: rows sum to 1; a row without pixels is grey.

    Args:
        C_KK: counts; rows are true classes, columns predicted ones.
        spec: the classes; up to `MOST_NAMES` names are shown.
        path: the PNG file.
        title: above the matrix.
    """
    count = spec.num_classes
    total_K1 = C_KK.sum(1, keepdims=True)
    share_KK = np.divide(C_KK, total_K1, out=np.full(C_KK.shape, np.nan), where=total_K1 > 0)
    side = float(np.clip(0.32 * count, 4.5, 11))
    figure = Figure(figsize=(side + 2, side + 1.5), layout="constrained", dpi=110)
    axis = figure.subplots()
    # Colours by the square root, which makes confusions of a few per cent visible.
    colours = mpl.colormaps["Blues"].with_extremes(bad="0.85")
    picture = axis.imshow(share_KK, cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    figure.colorbar(picture, ax=axis, shrink=0.7, format=PercentFormatter(1.0))
    axis.set(xlabel="predicted class", ylabel="true class")
    if title:
        figure.suptitle(title, fontsize=7, wrap=True)
    axis.spines[:].set_visible(False)
    if count <= MOST_NAMES:
        font = min(9.0, 0.72 * 72 * side / count)
        axis.set_xticks(range(count), spec.classes, rotation=90, fontsize=font)
        axis.set_yticks(range(count), spec.classes, fontsize=font)
    if count <= MOST_NUMBERS:
        for (i, j), share in np.ndenumerate(share_KK):
            if np.isfinite(share):
                axis.text(
                    j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                    color="white" if share > 0.4 else "black",
                )  # fmt: skip
    figure.savefig(path)


@styled
def learning_curves(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Write loss, scores and learning rate against the optimizer step, from the rows of a metrics.csv."""
    figure = Figure(figsize=(11, 3.4), layout="constrained", dpi=110)
    panels = {
        "loss": ("train/loss", "val/loss"),
        "score": ("val/miou", "val/mean_accuracy", "val/pixel_accuracy"),
        "learning rate": ("train/lr",),
    }
    for axis, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                _curve(axis, name, np.array(points))
        axis.set(title=title, xlabel="optimizer step")
        axis.grid(alpha=0.3)
        if axis.lines:
            # Below the panel: inside, it would cover an end of some curve.
            axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(axis.lines))
    figure.savefig(path)


def _curve(axis: Axes, name: str, points: np.ndarray) -> None:
    steps, values = points.T
    if len(points) > 200:  # noisy values per step: the thick line is their running mean
        axis.plot(steps, values, alpha=0.2, color="C0")
        window = len(points) // 50
        values = np.convolve(values, np.ones(window) / window, mode="valid")
        steps = steps[window - 1 :]
        axis.plot(steps, values, label=name, color="C0")
        return
    axis.plot(steps, values, label=name, marker="." if len(points) < 50 else None)
