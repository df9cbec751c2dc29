"""The equations of (generalised) expectation-maximization over image features, as pure functions.

The model is one Gaussian mixture per image, weights 1/K and covariance σ²I. One iteration is

    (1) E-step   z_nk = softmax_k( -|x_n - mu_k|² / 2σ² )
    (2) M-step   m_k  = Σ_n z_nk x_n / N_k,   N_k = Σ_n z_nk
    (3) N-step   mu_k <- h·mu_k + (1 - h)·m_k      h is the highway scale, η = 1 - h the Newton step
    (4) R-step   y_n  = Σ_k z_nk mu_k              z of the last E-step, mu after the last N-step
    (5)          L(mu) = Σ_n log Σ_k N(x_n | mu_k, σ²I) / K

For 0 <= η <= 2 a step is a generalised EM step: L never falls. With "dot" in the place of (1), see
`responsibilities`, it may.

Shape suffixes: B images, N positions, C channels, K components, T iterations. A size-1 B broadcasts.
Whatever the input type, means and responsibilities are held in float32, or float64 if an input is
float64, and autocast is off inside.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from hemnet.em.options import Assignment, Normalization, check_model, check_shapes, check_weights

# Below this mass, in positions, a component counts as empty. It is about the smallest whose reciprocal,
# times features and gradients, stays finite in float32. EM can still move a far component to the data, so a
# larger value would give up components too early.
EMPTY_MASS = 1e-20
# Means shorter than this are divided by it, not by their length, so that a zero mean stays finite.
SHORTEST_MEAN = 1e-6


def responsibilities(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    *,
    variance: float | Tensor,
    assignment: Assignment,
    prior: Tensor | None = None,
) -> Tensor:
    """E-step, eq (1): the share of each component in each position.

    "gaussian" is softmax_k((x_n·mu_k - |mu_k|²/2) / σ²), equal to (1) because |x_n|² cancels;
    "dot" is softmax_k(x_n·mu_k / σ²), the posterior under weights π_k ∝ exp(|mu_k|²/2σ²) instead of 1/K:
    Eq. 8 of Song, Kim and Shim (AAAI 2021), and at variance 1 the assignment of EMANet.

    With a variance σ_k² per component, for "gaussian" alone, it is softmax_k(log N(x_n | mu_k, σ_k²I)); a
    prior adds log π_k before the softmax.

    Args:
        x_BNC: features, (B, N, C).
        mu_BKC: means, (B, K, C) or (1, K, C).
        variance: σ², positive: a number, or a tensor of shape (), (1,), (K,) or (B or 1, K).
        assignment: as above.
        prior: π_k, (K,) or (B or 1, K), positive; divided by its sum. 1/K if None.

    Returns:
        z (B, N, K), float32 or float64, non-negative, summing to 1 over K.
    """
    return torch.softmax(_logits(x_BNC, mu_BKC, variance, assignment, prior), dim=-1)


def component_means(x_BNC: Tensor, z_BNK: Tensor, mu_BKC: Tensor) -> Tensor:
    """M-step, eq (2): the responsibility-weighted mean of the positions, (B, K, C).

    A component whose mass N_k is below `EMPTY_MASS` keeps its mu_k, with a gradient of one to mu_k and
    none to x and z.
    """
    x_BNC, z_BNK, mu_BKC = promote(x_BNC, z_BNK, mu_BKC)
    mass_BK1 = z_BNK.sum(dim=1).unsqueeze(-1)
    # Not the negation of ">": a NaN mass must reach the result, not pass for an empty component.
    empty_BK1 = mass_BK1 <= EMPTY_MASS
    # Dividing by 1 where empty keeps the unused branch of the outer `where` finite in the backward pass.
    safe_mass_BK1 = torch.where(empty_BK1, 1.0, mass_BK1)
    with autocast_off(x_BNC):
        return torch.where(empty_BK1, mu_BKC, (z_BNK.transpose(-2, -1) @ x_BNC) / safe_mass_BK1)


def newton_step(mu_BKC: Tensor, m_BKC: Tensor, h: float | Tensor) -> Tensor:
    """N-step, eq (3): h·mu + (1 - h)·m, a Newton-Raphson step of size 1 - h on Q; h = 0 is plain EM."""
    mu_BKC, m_BKC = promote(mu_BKC, m_BKC)
    return h * mu_BKC + (1 - h) * m_BKC


def normalize_means(mu_BKC: Tensor, normalize: Normalization) -> Tensor:
    """Means as they are ("none") or at unit length over C ("l2").

    "l2" divides by max(|mu_k|, `SHORTEST_MEAN`): a zero mean stays zero.
    """
    return F.normalize(mu_BKC, dim=-1, eps=SHORTEST_MEAN) if normalize == "l2" else mu_BKC


def reconstruct(z_BNK: Tensor, mu_BKC: Tensor) -> Tensor:
    """R-step, eq (4): y_n = Σ_k z_nk mu_k, (B, N, C)."""
    z_BNK, mu_BKC = promote(z_BNK, mu_BKC)
    with autocast_off(z_BNK):
        return z_BNK @ mu_BKC


def log_likelihood(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    *,
    variance: float | Tensor,
    weights_BN: Tensor | None = None,
    prior: Tensor | None = None,
) -> Tensor:
    """Log-likelihood of the features under the mixture, eq (5), in nats, constants included.

    Args:
        x_BNC: features, (B, N, C).
        mu_BKC: means, (B, K, C) or (1, K, C).
        variance: σ², positive; a number or a tensor, as in `responsibilities`.
        weights_BN: how often each position counts, (B, N) or (1, N); once if None.
        prior: π_k in the place of 1/K, as in `responsibilities`.

    Returns:
        (B,), float32 or float64, summed over the N positions.

    Raises:
        ValueError: if the shapes do not match or the variance is not positive.

    Example:
        >>> x_BNC, mu_BKC = torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)
        >>> log_likelihood(x_BNC, mu_BKC, variance=1.0)  # one position at the one mean: -log 2π
        tensor([-1.8379])
    """
    check_shapes(x_BNC, mu_BKC)
    check_model(variance, prior, mu_BKC)
    if weights_BN is not None:
        check_weights(weights_BN, x_BNC)
    channels, components = mu_BKC.shape[-1], mu_BKC.shape[-2]
    constant = -0.5 * channels * math.log(2 * math.pi) - (math.log(components) if prior is None else 0)
    (x_BNC,) = promote(x_BNC)
    shared_BN = torch.logsumexp(_logits(x_BNC, mu_BKC, variance, "gaussian", prior), dim=-1)
    if not _differs(variance):
        # What all components have in common, which the logits leave out.
        variance_B1 = _rows(variance, x_BNC)[:, 0]
        own_BN = x_BNC.square().sum(dim=-1) / (2 * variance_B1) + channels / 2 * variance_B1.log()
        shared_BN = shared_BN - own_BN
    return weigh(shared_BN + constant, weights_BN).sum(dim=-1)


def _logits(
    x_BNC: Tensor,
    mu_BKC: Tensor,
    variance: float | Tensor,
    assignment: Assignment,
    prior: Tensor | None = None,
) -> Tensor:
    """Return the logits of the components, (B, N, K), without what they have in common."""
    x_BNC, mu_BKC = promote(x_BNC, mu_BKC)
    with autocast_off(x_BNC):
        products_BNK = x_BNC @ mu_BKC.transpose(-2, -1)
    if assignment == "gaussian":
        products_BNK = products_BNK - mu_BKC.square().sum(dim=-1).unsqueeze(1) / 2
    if _differs(variance):
        variance_B1K = _rows(variance, x_BNC)
        products_BNK = products_BNK - x_BNC.square().sum(dim=-1, keepdim=True) / 2
        logits_BNK = products_BNK / variance_B1K - x_BNC.shape[-1] / 2 * variance_B1K.log()
    else:
        logits_BNK = products_BNK / (_rows(variance, x_BNC) if isinstance(variance, Tensor) else variance)
    if prior is None:
        return logits_BNK
    prior_B1K = _rows(prior, x_BNC)
    return logits_BNK + (prior_B1K / prior_B1K.sum(dim=2, keepdim=True)).log()


def _differs(variance: float | Tensor) -> TypeGuard[Tensor]:
    """Whether each component has a variance of its own."""
    return isinstance(variance, Tensor) and variance.shape[-1:].numel() > 1


def _rows(values: float | Tensor, like_BNC: Tensor) -> Tensor:
    """Reshape a number, (), (1,), (K,) or (B or 1, K) to (B or 1, 1, K or 1), to broadcast over positions."""
    if not isinstance(values, Tensor):
        return like_BNC.new_full((1, 1, 1), values)
    return values.to(like_BNC).reshape(*(1,) * (2 - values.ndim), *values.shape).unsqueeze(1)


def weigh(values: Tensor, weights_BN: Tensor | None) -> Tensor:
    """Multiply values of positions, (B, N) or (B, N, K), by the weights of these, if there are any."""
    if weights_BN is None:
        return values
    weights_BN = weights_BN.to(values.dtype)
    return values * (weights_BN if values.ndim == 2 else weights_BN.unsqueeze(2))


def promote(*tensors: Tensor) -> list[Tensor]:
    """Cast to the type of the EM state: float32, or float64 if one of the tensors is."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def autocast_off(tensor: Tensor) -> AbstractContextManager:
    """Keep autocast from casting matrix products of the EM state on the device of the tensor."""
    device = tensor.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return nullcontext()
    return torch.autocast(device, enabled=False)
