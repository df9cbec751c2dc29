"""The layer against the equations that Song, Kim and Shim (AAAI 2021) print, in plain loops.

Shape suffixes: N positions, C channels, K components.
"""

import math

import pytest
import torch
from _helpers.fits import draw
from torch import Tensor

from hemnet.em import HighwayEM, unroll


def share(scores: list[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def eq_7(x_C: list[float], mu_KC: list[list[float]], sigma2: float) -> list[float]:
    """softmax_k(-|x - mu_k|² / σ²): without the factor 2 of a Gaussian's density."""
    return share([-math.fsum((x - m) ** 2 for x, m in zip(x_C, mu, strict=True)) / sigma2 for mu in mu_KC])


def eq_8(x_C: list[float], mu_KC: list[list[float]], sigma2: float) -> list[float]:
    """softmax_k(x·mu_k / σ²)."""
    return share([math.fsum(x * m for x, m in zip(x_C, mu, strict=True)) / sigma2 for mu in mu_KC])


def hem(x_NC: Tensor, mu_KC: Tensor, e_step, eta: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Eq. 11 to 13, T times, then Eq. 10 with the responsibilities of the last E-step; σ² = sqrt(C)."""
    sigma2 = math.sqrt(x_NC.shape[1])
    for _ in range(iterations):
        z_NK = torch.tensor([e_step(x, mu_KC.tolist(), sigma2) for x in x_NC.tolist()], dtype=torch.float64)
        em_KC = torch.stack([(z_N[:, None] * x_NC).sum(0) / z_N.sum() for z_N in z_NK.T])
        mu_KC = (1 - eta) * mu_KC + eta * em_KC
    return z_NK @ mu_KC, mu_KC


@pytest.mark.parametrize(
    ("e_step", "assignment", "variance"), [(eq_8, "dot", None), (eq_7, "gaussian", math.sqrt(7) / 2)]
)
@pytest.mark.parametrize("eta", [0.5, 0.6, 1.0])
def test_the_equations_as_printed(e_step, assignment: str, variance: float | None, eta: float) -> None:
    x_NC, mu_KC = draw(12, 7, seed=3), draw(4, 7, seed=4)
    y_NC, final_KC = hem(x_NC, mu_KC, e_step, eta, 3)
    fit = unroll(
        x_NC[None], mu_KC[None], iterations=3, highway_scale=1 - eta, assignment=assignment, variance=variance
    )
    # Sums of at most 12 terms of size 1, three steps: 1e-12 is thousands of roundings of 2^-53.
    torch.testing.assert_close(fit.means[0], final_KC, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fit.reconstruction[0], y_NC, rtol=1e-12, atol=1e-12)


def test_the_layer_as_it_comes_is_the_papers() -> None:
    """Eq. 8 at σ² = sqrt(C), η = 0.5, T = 3, means that are a moving average and are not normalised."""
    layer = HighwayEM(7, 4)
    x_BCHW = draw(1, 7, 3, 4, seed=5)
    y_NC, _ = hem(x_BCHW[0].flatten(1).mT, layer.means.double(), eq_8, 0.5, 3)
    torch.testing.assert_close(layer(x_BCHW)[0].flatten(1).mT, y_NC, rtol=1e-12, atol=1e-12)
    assert layer.averages
    assert layer.momentum == 0.9
