"""How often, and by how much, does the log-likelihood fall in EM's iterations, for each E-step of the paper?

    python experiments/likelihood.py               # drawn features: what docs/method.md quotes
    python experiments/likelihood.py RUN [RUN ...] # features of trained networks, 8 validation images each

EM with the Gaussian E-step (the paper's Eq. 7) never lowers eq (5), the log-likelihood of a mixture with
equal weights 1/K. For the dot product (Eq. 8) no such theorem holds; docs/method.md has the derivation. Two
log-likelihoods are computed, in float64 and in nats per position: "equal", eq (5), and "tilted", of the
mixture with weights π_k ∝ exp(|mu_k|²/2σ²), whose posterior is the dot product.

EM on the features of a run uses the run's E-step, σ², h and initial means, from its last checkpoint, and its
T unless --iterations is given.

Shapes: B images, N positions, C channels, K components, T iterations, S = B·T steps of the means.
"""

import argparse
import math
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from em_inputs import at_layers
from torch import Tensor

from hemnet.config.command_line import run_entry
from hemnet.em import log_likelihood, unroll
from hemnet.em.functional import weigh
from hemnet.errors import HemnetError
from hemnet.runs.run import Run
from hemnet.storage.places import absolute

CHANNELS, POSITIONS, IMAGES = 64, 400, 8
# Smaller falls are rounding; the error of the float64 sums is about 1e-13 nats per position.
ROUNDING = 1e-9


class Course(NamedTuple):
    """Log-likelihoods at mu^(0) ... mu^(T), (B, T+1), nats per position."""

    equal: Tensor
    tilted: Tensor


def tilted_log_likelihood(
    x_BNC: Tensor, mu_BKC: Tensor, variance: float, weights_BN: Tensor | None = None
) -> Tensor:
    """Return the log-likelihood (B,) of a mixture with weights π_k ∝ exp(|mu_k|²/2σ²), of weighted positions.

    log Σ_k π_k N(x | mu_k, σ²I) =
        log Σ_k exp(x·mu_k/σ²) - |x|²/2σ² - (C/2) log 2πσ² - log Σ_k exp(|mu_k|²/2σ²)
    """
    own_BN = -x_BNC.square().sum(2) / (2 * variance) - x_BNC.shape[2] / 2 * math.log(2 * math.pi * variance)
    shared_BN = torch.logsumexp(x_BNC @ mu_BKC.mT / variance, dim=2)
    weights_B1 = torch.logsumexp(mu_BKC.square().sum(2, keepdim=True) / (2 * variance), dim=1)
    return weigh(shared_BN + own_BN - weights_B1, weights_BN).sum(1)


def follow(
    x_BNC: Tensor, trajectory_TBKC: Tensor, variance: float, weights_BN: Tensor | None = None
) -> Course:
    """Return both log-likelihoods at each means of a trajectory, of positions of the given weights."""
    positions_B1 = x_BNC.shape[1] if weights_BN is None else weights_BN.sum(1, keepdim=True)
    equal, tilted = (
        torch.stack([each(mu_BKC) for mu_BKC in trajectory_TBKC], 1) / positions_B1
        for each in (
            lambda mu_BKC: log_likelihood(x_BNC, mu_BKC, variance=variance, weights_BN=weights_BN),
            lambda mu_BKC: tilted_log_likelihood(x_BNC, mu_BKC, variance, weights_BN),
        )
    )
    return Course(equal, tilted)


def step_cells(course_BT: Tensor) -> str:
    """Return four cells: number of falling steps, mean and largest fall, and L(T) - L(0)."""
    steps_S = course_BT.diff(dim=1).flatten()
    fell_S = steps_S[steps_S < -ROUNDING]
    gain = (course_BT[:, -1] - course_BT[:, 0]).mean()
    sizes = f"{fell_S.mean():.2g} | {fell_S.min():.2g}" if len(fell_S) else "0 | 0"
    return f"{len(fell_S)} of {len(steps_S)} | {sizes} | {gain:+.3g}"


def drawn(kind: str, components: int, generator: torch.Generator) -> Tensor:
    """Draw (B, N, C): "normal" is unit normal; "clusters" is K unit-normal centres with noise of 1/3."""
    noise_BNC = torch.randn(IMAGES, POSITIONS, CHANNELS, generator=generator, dtype=torch.float64)
    if kind == "normal":
        return noise_BNC
    centres_BKC = torch.randn(IMAGES, components, CHANNELS, generator=generator, dtype=torch.float64)
    which_BN = torch.randint(components, (IMAGES, POSITIONS), generator=generator)
    own_BNC = centres_BKC.gather(1, which_BN[..., None].expand(-1, -1, CHANNELS))
    return own_BNC + noise_BNC / 3


def spread_of(mu_BKC: Tensor, x_BNC: Tensor) -> float:
    """Return the standard deviation of the means of an image over that of its features."""
    apart, around = mu_BKC - mu_BKC.mean(1, keepdim=True), x_BNC - x_BNC.mean(1, keepdim=True)
    return (apart.square().mean() / around.square().mean()).sqrt().item()


def on_drawn_features(iterations: int) -> None:
    """Print a table: both E-steps at σ² = sqrt(C), from normal means of the features' size."""
    sigma2 = math.sqrt(CHANNELS)
    # The paper's Eq. 7 has no factor 2, so it equals ours at half the σ²: see `variance` of hemnet.em.unroll.
    e_steps = {"Eq. 7": ("gaussian", sigma2 / 2), "Eq. 8": ("dot", sigma2)}
    settings = product(e_steps, ("normal", "clusters"), (1.0, 3.0), (16, 64), (-0.5, 0.0, 0.5, 0.9))
    for e_step, kind, size, components, h in settings:
        assignment, variance = e_steps[e_step]
        generator = torch.Generator().manual_seed(0)
        x_BNC = size * drawn(kind, components, generator)
        mu_BKC = size * torch.randn(1, components, CHANNELS, generator=generator, dtype=torch.float64)
        fit = unroll(
            x_BNC, mu_BKC, iterations=iterations, highway_scale=h, assignment=assignment, variance=variance,
            return_trajectory=True,
        )  # fmt: skip
        course = follow(x_BNC, fit.trajectory, variance)
        row = f"| {e_step}, {kind}, size {size:g}, K = {components}, h = {h}"
        print(f"{row} | equal | {step_cells(course.equal)} | {spread_of(fit.means, x_BNC):.2g} |")
        if assignment == "dot":
            print(f"{row} | tilted | {step_cells(course.tilted)} | |")


def of_run(path: Path, iterations: int | None, images: int) -> dict[str, tuple[Course, float]]:
    """Return log-likelihoods and the spread of the last means per EM layer, on images across the split.

    Raises:
        HemnetError: the run has no EM layer or no complete checkpoint, its data is missing, or a layer has
            learned a variance or a prior.
    """
    found: dict[str, list[tuple[Course, float]]] = {}
    for _, layers in at_layers(Run.open(path), images):
        for name, given in layers.items():
            layer, options = given.layer, given.options
            if options.has_tensors:
                raise HemnetError(f"{path} has a learned variance or prior, for which this is not worked out")
            steps = layer.iterations if iterations is None else iterations
            fit = given.fit(steps)
            course = follow(given.x_BNC, fit.trajectory, options.variance, given.weights_BN)
            step = f"{options.assignment}, σ² = {options.variance:g}, h = {layer.highway_scale}"
            found.setdefault(f"{name}{step}, T = {steps}", []).append(
                (course, spread_of(fit.means, given.x_BNC))
            )
    return {
        setting: (
            Course(*map(torch.cat, zip(*(course for course, _ in images), strict=True))),
            sum(spread for _, spread in images) / len(images),
        )
        for setting, images in found.items()
    }


def main() -> None:
    """Print the table for drawn features, or for each run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="*", type=absolute, metavar="RUN", help="run directories; none: drawn features"
    )
    parser.add_argument("--iterations", type=int, help="T; default: the run's own, 16 for drawn features")
    parser.add_argument("--images", type=int, default=8, help="validation images of a run")
    options = parser.parse_args()
    if options.images < 1 or (options.iterations is not None and options.iterations < 1):
        parser.error("give --iterations and --images of 1 or more")
    print("| | likelihood | steps that fell | their mean | lowest | L(T) - L(0) | spread of mu(T) |")
    if not options.runs:
        on_drawn_features(options.iterations or 16)
    for path in options.runs:
        for setting, (course, spread_T) in of_run(path, options.iterations, options.images).items():
            for kind, values in course._asdict().items():
                print(f"| {path}: {setting} | {kind} | {step_cells(values)} | {spread_T:.2g} |")


if __name__ == "__main__":
    run_entry(main)
