"""Draws the figures of the documentation from real tensors: figures.py [FOLDER], docs/figures by default.

`make figures` runs it. What they show is computed here, on docs/figures/coffee.jpg with the ImageNet weights
of EfficientNet-Lite0, or read from the runs and measurements in experiments/results.

Shape suffixes: B images, N positions, C channels, K components, T iterations, R runs.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

sys.path.insert(0, str(Path(__file__).parent))
import picture
from drawing import INK, PAPER, SOFT, save, styled

from hemnet.em import unroll
from hemnet.report.plots import BLUE, VERMILION
from hemnet.runs.phases import phases
from hemnet.runs.run import Run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
PLAIN = ["em_seed0", *(f"hem_0.0_seed{seed}" for seed in range(1, 8))]
HIGHWAY = [f"hem_0.5_seed{seed}" for seed in range(8)]
MODES = ("unrolled", "one_step", "detached")


def direct(h: float, iterations: int) -> list[float]:
    """Return the shares of Eq. 18, (1-h)·h^(T-1-t) for t = 0 ... T-1, scaled to sum to 1."""
    parts = [(1 - h) * h ** (iterations - 1 - t) for t in range(iterations)]
    return [part / sum(parts) for part in parts]


def trained_shares(runs: Sequence[str]) -> np.ndarray:
    """Return the share of each iteration in the features' gradient at the end of training, (R, T).

    They are those of metrics.csv, means over the last tenth of the logged steps, without the share of the
    reconstruction, scaled to sum to 1.
    """
    opened = (Run.open(RESULTS / "study_primary" / run) for run in runs)
    ends = [phases(run.curves())["gradient/share"][-1, :-1] for run in opened]
    return np.array([end_T / end_T.sum() for end_T in ends])


@styled
def draw_shares(path: Path) -> None:
    """The gradient that each iteration gives to the features, beside Eq. 18, in training on CamVid."""
    figure, axes = plt.subplots(1, 2, figsize=(5.2, 2.5), sharey=True)
    cases = ((0.0, PLAIN, BLUE, "h = 0, plain EM"), (0.5, HIGHWAY, VERMILION, "h = 0.5, highway"))
    for axis, (h, runs, colour, title) in zip(axes, cases, strict=True):
        shares_RT = trained_shares(runs)
        steps = range(1, shares_RT.shape[1] + 1)
        axis.bar(steps, shares_RT.mean(axis=0), 0.62, color=colour, label="measured")
        points = axis.plot(steps, direct(h, len(steps)), "D", color=INK, label="Eq. 18, direct part")
        points[0].set(markersize=5, clip_on=False, zorder=3)
        for step, value in zip(steps, shares_RT.mean(axis=0), strict=True):
            axis.annotate(f"{value:.2f}", (step, 0.045), ha="center", color=PAPER, fontsize=9)
        axis.set(title=title, xlabel="iteration", xticks=list(steps), ylim=(0, 1.05))
        axis.grid(axis="x", visible=False)
    axes[0].set_ylabel("share of the gradient")
    axes[0].legend(loc="upper left")
    save(figure, path)


def mode_parts(mode: str, iterations: int) -> np.ndarray:
    """Return the norm of what each iteration and the reconstruction add to the features' gradient, (T+1,).

    The loss is linear in the reconstruction, with random weights.
    """
    x_BNC, mu_BKC = picture.features(), picture.initial_means()
    weight_BNC = torch.randn(x_BNC.shape, generator=torch.Generator().manual_seed(0))
    given_BNC = x_BNC.clone().requires_grad_()
    fit = unroll(given_BNC, mu_BKC, iterations=iterations, gradient=mode, record_gradient_flow=True,
                 **picture.MODEL)  # fmt: skip
    if not fit.reconstruction.requires_grad:
        return np.zeros(iterations + 1)
    (fit.reconstruction * weight_BNC).sum().backward()
    return fit.gradient_flow.features[:, 0].numpy()


@styled
def draw_modes(path: Path) -> None:
    """Which iterations reach the features under each gradient mode."""
    iterations = 8
    found = {mode: mode_parts(mode, iterations) for mode in MODES}
    figure, axes = plt.subplots(1, 3, figsize=(5.2, 2.1), sharey=True)
    for axis, (mode, parts) in zip(axes, found.items(), strict=True):
        axis.bar(range(iterations), parts[:-1] / found["unrolled"].sum(), 0.8, color=VERMILION)
        axis.bar([iterations], parts[-1:] / found["unrolled"].sum(), 0.8, color=SOFT)
        axis.set(title=mode, xticks=[0, iterations - 1, iterations], xticklabels=["1", str(iterations), "y"])
        axis.grid(axis="x", visible=False)
        if not parts.any():
            axis.annotate("none", (iterations / 2, 0.02), ha="center", color=INK)
    axes[0].set_ylabel("share of the gradient")
    figure.supxlabel("iteration; y is the reconstruction", fontsize=10)
    save(figure, path)


@styled
def draw_engines(path: Path) -> None:
    """Peak memory of forward and backward against T, by engine, as measured."""
    measured = json.loads((RESULTS / "bench_em" / "engines.json").read_text("utf-8"))["results"]
    figure, axis = plt.subplots(figsize=(5.2, 2.4))
    for engine, colour in (("reference", BLUE), ("recompute", VERMILION)):
        rows = [row for row in measured if row["contender"] == engine]
        depths, bytes_ = [row["iterations"] for row in rows], [row["peak_bytes"] / 2**20 for row in rows]
        axis.plot(depths, bytes_, marker="o", color=colour)
        _name(axis, engine, depths[-1], bytes_[-1], colour)
    axis.set(xlabel="iterations T", ylabel="MiB", xscale="log", xticks=depths, xlim=(0.9, 200), ylim=(0, 200))
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.minorticks_off()
    save(figure, path)


def _name(axis: Axes, text: str, x: float, y: float, colour: str) -> None:
    axis.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", color=colour)


FIGURES = {
    "method.svg": picture.draw,
    "shares.svg": draw_shares,
    "modes.svg": draw_modes,
    "engines.svg": draw_engines,
}


def main(folder: Path) -> None:
    """Draw all figures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "figures")
