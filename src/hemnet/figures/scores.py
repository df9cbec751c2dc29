"""Scores as figures: confusion matrices and learning curves, as PNG files.

Shapes: K classes; S logged steps, (S, 2): step and value.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hemnet.data import DatasetSpec
from hemnet.figures import save, styled

# Most classes with which a confusion matrix has numbers in its cells, and names at its sides.
MOST_NUMBERS, MOST_NAMES = 12, 64
# Most points of a learning curve that are drawn as they are.
MOST_POINTS = 200
# The looks of the curves in a panel, in the order in which they are drawn: each is narrower than those below
# it, or has gaps, so that all are seen where they coincide.
DASHES: tuple[Any, ...] = ("-", (0, (4, 3)), (0, (1, 2.5)))
WIDTHS = (2.4, 1.8, 1.8)


@styled
def confusion_figure(
    C_KK: np.ndarray, spec: DatasetSpec, path: Path, title: str = "", origin: str = "{}"
) -> None:
    """Write a confusion matrix as shares of each true class: rows sum to 1; a row without pixels is grey.

    Args:
        C_KK: counts; rows are true classes, columns predicted ones.
        spec: the classes; up to `MOST_NAMES` names are shown.
        path: the PNG file.
        title: above the matrix.
        origin: is inside the file, see `hemnet.figures.save`.
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
    save(figure, path, origin)


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
        curves = {name: np.array([(row["step"], row[name]) for row in rows if name in row]) for name in names}
        _draw(axis, {name: curve_S2 for name, curve_S2 in curves.items() if len(curve_S2)})
        axis.set(title=title, xlabel="optimizer step")
        axis.grid(alpha=0.3)
    save(figure, path)


def _draw(axis: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Draw curves (S, 2) so that all are seen, also where they coincide, which the legend says."""
    if not curves:
        return
    values = np.concatenate([curve_S2[:, 1] for curve_S2 in curves.values()])
    finite = values[np.isfinite(values)]
    visible = 0.01 * (np.ptp(finite) if len(finite) else 0.0)
    below: dict[str, np.ndarray] = {}
    for place, (name, curve_S2) in enumerate(curves.items()):
        steps, values = curve_S2.T
        same = [other for other, there_S2 in below.items() if _close(there_S2, curve_S2, visible)]
        below[name] = curve_S2
        if len(steps) > MOST_POINTS:  # noisy values per step: the thick line is their running mean
            axis.plot(steps, values, alpha=0.2, color=f"C{place}")
            window = len(steps) // 50
            values = np.convolve(values, np.ones(window) / window, mode="valid")
            steps = steps[window - 1 :]
        axis.plot(
            steps, values, color=f"C{place}", linestyle=DASHES[place], linewidth=WIDTHS[place],
            marker="o" if len(steps) < 50 else None, markersize=9 - 2.5 * place,
            label=f"{name}\n(coincides with {same[-1]})" if same else name,
        )  # fmt: skip
    # Below the panel: inside, it would cover an end of some curve.
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), handlelength=4)


def _close(first_S2: np.ndarray, second_S2: np.ndarray, visible: float) -> bool:
    """Return whether two curves have the same steps, and values that differ by no more than ``visible``."""
    return np.array_equal(first_S2[:, 0], second_S2[:, 0]) and np.allclose(
        first_S2[:, 1], second_S2[:, 1], rtol=0, atol=visible, equal_nan=True
    )
