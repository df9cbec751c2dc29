"""The interface of an engine, a pass over the features, and the engine "recompute" in plain torch.

The engines "recompute" and "triton" are this interface twice. Everything between two passes (the N-step,
normalisation, their gradients, the loop over iterations) works on K·C numbers per image and is common,
in `hemnet.em.gradient`.

Shape suffixes: B images, N positions, C channels, K components.
"""

from typing import Protocol

import torch
from torch import Tensor

from hemnet.em.engine import products
from hemnet.em.functional import weigh
from hemnet.em.options import Mixture


def logit_factors(mu_BKC: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Weights w (B, K, C) and bias b (B, K) with softmax_k(x·w_k + b_k) = eq (1), for either assignment.

    The softmax does not see what all components share, so the means are taken relative to their centre.
    That keeps the logits of features far from the origin small: their rounding error grows with the
    distance times the spread of the means rather than with the distance squared.
    """
    centre_B1C = mu_BKC.mean(dim=1, keepdim=True)
    w_BKC = (mu_BKC - centre_B1C).div_(mixture.variance)
    if mixture.assignment == "dot":
        return w_BKC, mu_BKC.new_zeros(mu_BKC.shape[:2])
    return w_BKC, -0.5 * (w_BKC * (mu_BKC + centre_B1C)).sum(dim=2)


def common_log_normalizer(mu_BKC: Tensor, total_B1C: Tensor, count_B: Tensor, variance: float) -> Tensor:
    """What `logit_factors` leaves out of the Gaussian log-normalizer, (B,).

    It is Σ_n v_n (x_n·c - |c|²/2) / σ² with c the centre of the means and v_n the weights of the positions.

    Args:
        mu_BKC: the means.
        total_B1C: Σ_n v_n x_n.
        count_B: Σ_n v_n.
        variance: σ².
    """
    centre_B1C = mu_BKC.mean(dim=1, keepdim=True)
    common_B1C = centre_B1C * (total_B1C - count_B[:, None, None] / 2 * centre_B1C)
    return common_B1C.sum(dim=(1, 2)) / variance


def weighted_total(x_BNC: Tensor, weights_BN: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return Σ_n v_n x_n, (B, 1, C), and Σ_n v_n, (B,), for weights v, 1 if None."""
    if weights_BN is None:
        count_B = torch.full_like(x_BNC[:, 0, 0], x_BNC.shape[1], dtype=dtype)
        return x_BNC.sum(dim=1, keepdim=True, dtype=dtype), count_B
    return weights_BN.unsqueeze(1) @ x_BNC.to(dtype), weights_BN.sum(dim=1)


class Passes(Protocol):
    """The passes over one batch of features x (B, N, C), in the dtype of the means (float32 or float64).

    Position n counts v_n times in all sums over positions, those of the readout and its gradient excepted;
    once where no weights v are given. Without them the equations are as below.
    """

    def sums(self, mu_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """E-step, eq (1), and the sums of eq (2): Σ_n v z x (B, K, C) and N_k = Σ_n v z (B, K)."""
        ...

    def log_normalizer(self, mu_BKC: Tensor) -> Tensor:
        """Eq (5) without what does not depend on the means: Σ_n log Σ_k exp((x·mu_k - |mu_k|²/2) / σ²), (B,).

        A `sums` at the same means right after costs no second E-step.
        """
        ...

    def readout(self, e_BKC: Tensor, mu_BKC: Tensor) -> Tensor:
        """R-step, eq (4): y_n = Σ_k z_nk mu_k with the responsibilities under e, (B, N, C)."""
        ...

    def readout_vjp(self, e_BKC: Tensor, dy_BNC: Tensor) -> Tensor:
        """Gradient of eq (4) to mu, Σ_n z_nk dy_n, (B, K, C); dy in the type of x or of the means."""
        ...

    def pull(
        self,
        mu_BKC: Tensor,
        a_BKC: Tensor,
        offset_BK: Tensor,
        readout: tuple[Tensor, Tensor] | None = None,
        *,
        to_features: bool = True,
        energy_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pull a gradient back through the E-step at mu and the sums after it.

        The gradient with respect to z is dz_nk = v_n (x_n·a_k - offset_k), plus dy_n·mu'_k for
        readout = (dy, mu'); through the softmax and 1/σ² it is dl = z∘(dz - Σ_k z∘dz) / σ².

        Args:
            mu_BKC: the means of the E-step.
            a_BKC: the gradient to the sums.
            offset_BK: as above, what `a` gives at the mean of the component.
            readout: as above, if there is one.
            to_features: note v z·a + dl·mu, this pull's part of the gradient to the features.
            energy_B: if given, the squared norm of that part is added to it, per image, noted or not.

        Returns:
            Σ_n dl_nk x_n (B, K, C) and Σ_n dl_nk (B, K).
        """
        ...

    def features_vjp(self) -> Tensor:
        """Sum of all that `pull` noted for the features, (B, N, C), zero if nothing."""
        ...


class TorchPasses:
    """Passes as matrix products, on any device. Temporaries are about 2·B·N·K numbers."""

    def __init__(self, x_BNC: Tensor, mixture: Mixture, weights_BN: Tensor | None = None) -> None:
        self._x_BNC = products.ready(x_BNC)
        self._weights_BN = weights_BN
        self._mixture = mixture
        self._dx_BNC: Tensor | None = None
        self._latest: tuple[Tensor, Tensor] | None = None
        self._factors: tuple[Tensor, tuple[Tensor, Tensor | None]] | None = None
        self._dy: tuple[Tensor, Tensor] | None = None
        self._total: tuple[Tensor, Tensor] | None = None

    def responsibilities(self, mu_BKC: Tensor) -> Tensor:
        """Eq (1), (B, N, K). The latest are remembered: all passes at the same means take one E-step."""
        if self._latest is None or self._latest[0] is not mu_BKC:
            self._latest = None
            self._latest = (mu_BKC, products.softmax_(self._logits(mu_BKC)))
        return self._latest[1]

    def know(self, mu_BKC: Tensor, z_BNK: Tensor) -> None:
        """Take the responsibilities at the means as given: those of an earlier E-step there."""
        self._latest = (mu_BKC, z_BNK)

    def sums(self, mu_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        z_BNK = weigh(self.responsibilities(mu_BKC), self._weights_BN)
        return products.gather(z_BNK, self._x_BNC), z_BNK.sum(dim=1)

    def log_normalizer(self, mu_BKC: Tensor) -> Tensor:
        """See `Passes`."""
        logits_BNK = self._logits(mu_BKC)
        lse_BN1 = logits_BNK.logsumexp(dim=2, keepdim=True)
        self._latest = (mu_BKC, logits_BNK.sub_(lse_BN1).exp_())
        if self._total is None:
            self._total = weighted_total(self._x_BNC, self._weights_BN, self._x_BNC.dtype)
        own_B = weigh(lse_BN1, self._weights_BN).sum(dim=(1, 2))
        return own_B + common_log_normalizer(mu_BKC, *self._total, self._mixture.variance)

    def readout(self, e_BKC: Tensor, mu_BKC: Tensor) -> Tensor:
        """See `Passes`."""
        y_BNC = torch.empty_like(self._x_BNC)
        products.multiply([(self.responsibilities(e_BKC), mu_BKC.mT)], y_BNC, add=False)
        return y_BNC

    def readout_vjp(self, e_BKC: Tensor, dy_BNC: Tensor) -> Tensor:
        """See `Passes`."""
        return products.gather(self.responsibilities(e_BKC), self._ready(dy_BNC))

    def pull(
        self,
        mu_BKC: Tensor,
        a_BKC: Tensor,
        offset_BK: Tensor,
        readout: tuple[Tensor, Tensor] | None = None,
        *,
        to_features: bool = True,
        energy_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        z_BNK, dl_BNK = self._with_responsibilities(mu_BKC, a_BKC, -offset_BK)
        if self._weights_BN is not None:
            dl_BNK *= self._weights_BN.unsqueeze(2)
        if readout is not None:
            dy_BNC, rows_BKC = readout
            products.multiply([(self._ready(dy_BNC), rows_BKC)], dl_BNK, add=True)
        products.softmax_vjp_(dl_BNK, z_BNK)
        w_BKC, _ = self._logit_factors(mu_BKC)
        parts = [(weigh(z_BNK, self._weights_BN), a_BKC), (dl_BNK, w_BKC)]
        if to_features:
            self._note(parts)
        if energy_B is not None:
            # |P R|² = Σ (P (R Rᵀ))∘P: no second tensor of the size of the features.
            p_BNJ, r_BJC = torch.cat([p for p, _ in parts], dim=2), torch.cat([r for _, r in parts], dim=1)
            energy_B += (p_BNJ @ (r_BJC @ r_BJC.mT)).mul_(p_BNJ).sum(dim=(1, 2))
        g_BKC, total_BK = products.gather(dl_BNK, self._x_BNC), dl_BNK.sum(dim=1)
        return g_BKC.div_(self._mixture.variance), total_BK.div_(self._mixture.variance)

    def features_vjp(self) -> Tensor:
        """See `Passes`."""
        return torch.zeros_like(self._x_BNC) if self._dx_BNC is None else self._dx_BNC

    def _ready(self, dy_BNC: Tensor) -> Tensor:
        # Its readers are two passes in a row: what has to be copied is copied once.
        if self._dy is None or self._dy[0] is not dy_BNC:
            by_channel = products.is_by_channel(self._x_BNC)
            self._dy = (dy_BNC, products.ready(dy_BNC.to(self._x_BNC.dtype), by_channel))
        return self._dy[1]

    def _note(self, parts: list[tuple[Tensor, Tensor]]) -> None:
        add = self._dx_BNC is not None
        if self._dx_BNC is None:
            self._dx_BNC = torch.empty_like(self._x_BNC)
        products.multiply([(p_BNK, r_BKC.mT) for p_BNK, r_BKC in parts], self._dx_BNC, add=add)

    def _with_responsibilities(self, mu_BKC: Tensor, a_BKC: Tensor, b_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return eq (1) and x·a + b, in one product where both have to be computed."""
        if self._latest is not None and self._latest[0] is mu_BKC:
            return self._latest[1], products.affine(self._x_BNC, (a_BKC, b_BK))[0]
        self._latest = None
        factors = self._logit_factors(mu_BKC), (a_BKC, b_BK)
        logits_BNK, other_BNK = products.affine(self._x_BNC, *factors)
        return products.softmax_(logits_BNK), other_BNK

    def _logits(self, mu_BKC: Tensor) -> Tensor:
        return products.affine(self._x_BNC, self._logit_factors(mu_BKC))[0]

    def _logit_factors(self, mu_BKC: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._factors is None or self._factors[0] is not mu_BKC:
            w_BKC, bias_BK = logit_factors(mu_BKC, self._mixture)
            self._factors = (mu_BKC, (w_BKC, None if self._mixture.assignment == "dot" else bias_BK))
        return self._factors[1]
