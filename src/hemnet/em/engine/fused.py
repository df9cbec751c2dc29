"""What an engine may offer beyond `Passes`: whole steps, fused with the work on K·C numbers around a pass.

Shape suffixes: B images, N positions, C channels, K components.
"""

from abc import ABC, abstractmethod

from torch import Tensor


class FusedSteps(ABC):
    """An engine that takes the steps of `hemnet.em.gradient.step` itself, which has their equations."""

    @abstractmethod
    def take_step(self, mu_BKC: Tensor, h_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fields of the `Step` from mu."""

    @abstractmethod
    def pull_step(
        self,
        mu_BKC: Tensor,
        h_B: Tensor,
        moving_B: Tensor,
        step: tuple[Tensor, Tensor, Tensor],
        d_BKC: Tensor,
        readout: tuple[Tensor, Tensor] | None,
        *,
        to_features: bool,
        energy_B: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Pull the gradient d of the means after a step back to the means before it, and to h."""
