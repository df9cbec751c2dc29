"""The equations of `hemnet.em.functional` again, one number at a time, in float64.

Slow on purpose, and written from the equations rather than from the fast code: loops over images b,
positions n, components k and channels c. The tests hold the fast code against it. Every function takes
and returns tensors; results are float64 and carry no gradient.

Shape suffixes: B images, N positions, C channels, K components, T iterations.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hemnet.em.functional import EMPTY_MASS, SHORTEST_MEAN, Assignment, Normalization

Vector = list[float]
Matrix = list[Vector]


def responsibilities(x_BNC: Tensor, mu_BKC: Tensor, *, variance: float, assignment: Assignment) -> Tensor:
    """Eq (1), from squared distances ("gaussian") or dot products ("dot"): (B, N, K)."""
    score = _gaussian_score if assignment == "gaussian" else _dot
    return _each_image(
        lambda x, mu: [_softmax([score(x_n, mu_k) / variance for mu_k in mu]) for x_n in x], x_BNC, mu_BKC
    )


def component_means(x_BNC: Tensor, z_BNK: Tensor, mu_BKC: Tensor) -> Tensor:
    """Eq (2); a component without mass keeps its mu: (B, K, C)."""

    def one_image(x: Matrix, z: Matrix, mu: Matrix) -> Matrix:
        means = []
        for k, mu_k in enumerate(mu):
            mass = math.fsum(z_n[k] for z_n in z)
            total = [
                math.fsum(z_n[k] * x_n[c] for x_n, z_n in zip(x, z, strict=True)) for c in range(len(mu_k))
            ]
            means.append(mu_k if mass <= EMPTY_MASS else [value / mass for value in total])
        return means

    return _each_image(one_image, x_BNC, z_BNK, mu_BKC)


def newton_step(mu_BKC: Tensor, m_BKC: Tensor, h: float) -> Tensor:
    """Eq (3) in its first form, mu + η(m - mu) with η = 1 - h: (B, K, C)."""
    return _each_image(
        lambda mu, m: [
            [a + (1 - h) * (b - a) for a, b in zip(mu_k, m_k, strict=True)]
            for mu_k, m_k in zip(mu, m, strict=True)
        ],
        mu_BKC,
        m_BKC,
    )


def normalize_means(mu_BKC: Tensor, normalize: Normalization) -> Tensor:
    """Each mean divided by its length ("l2"), or left alone ("none"): (B, K, C)."""

    def one_image(mu: Matrix) -> Matrix:
        return [[value / max(math.hypot(*mu_k), SHORTEST_MEAN) for value in mu_k] for mu_k in mu]

    return _each_image(one_image, mu_BKC) if normalize == "l2" else mu_BKC.double()


def reconstruct(z_BNK: Tensor, mu_BKC: Tensor) -> Tensor:
    """Eq (4): (B, N, C)."""
    return _each_image(
        lambda z, mu: [
            [math.fsum(z_n[k] * mu_k[c] for k, mu_k in enumerate(mu)) for c in range(len(mu[0]))] for z_n in z
        ],
        z_BNK,
        mu_BKC,
    )


def log_likelihood(x_BNC: Tensor, mu_BKC: Tensor, *, variance: float) -> Tensor:
    """Eq (5) from the densities of each position under each component: (B,)."""

    def one_image(x: Matrix, mu: Matrix) -> Matrix:
        log_norm = -0.5 * len(mu[0]) * math.log(2 * math.pi * variance)
        total = 0.0
        for x_n in x:
            log_joint = [_gaussian_score(x_n, mu_k) / variance + log_norm - math.log(len(mu)) for mu_k in mu]
            peak = max(log_joint)
            total += peak + math.log(math.fsum(math.exp(value - peak) for value in log_joint))
        return [[total]]

    return _each_image(one_image, x_BNC, mu_BKC)[:, 0, 0]


def unroll(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    *,
    highway_scales: Sequence[float],
    assignment: Assignment,
    variance: float,
    normalize: Normalization,
) -> tuple[Tensor, Tensor, Tensor]:
    """One iteration per highway scale: reconstruction (B, N, C), trajectory (T+1, B, K, C), z (B, N, K)."""
    trajectory = [mu_BKC.double()]
    z_BNK = responsibilities(x_BNC, mu_BKC, variance=variance, assignment=assignment)
    for t, h in enumerate(highway_scales):
        mu = trajectory[t]
        z_BNK = responsibilities(x_BNC, mu, variance=variance, assignment=assignment)
        step = newton_step(mu, component_means(x_BNC, z_BNK, mu), h)
        trajectory.append(normalize_means(step, normalize))
    return reconstruct(z_BNK, trajectory[-1]), torch.stack(trajectory), z_BNK


def _gaussian_score(x_n: Vector, mu_k: Vector) -> float:
    return -0.5 * math.fsum((a - b) ** 2 for a, b in zip(x_n, mu_k, strict=True))


def _dot(x_n: Vector, mu_k: Vector) -> float:
    return math.fsum(a * b for a, b in zip(x_n, mu_k, strict=True))


def _softmax(logits: Vector) -> Vector:
    peak = max(logits)
    weights = [math.exp(value - peak) for value in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _each_image(function: Callable[..., Matrix], *tensors: Tensor) -> Tensor:
    images = zip(*(tensor.double().tolist() for tensor in tensors), strict=True)
    return torch.tensor([function(*matrices) for matrices in images], dtype=torch.float64)
