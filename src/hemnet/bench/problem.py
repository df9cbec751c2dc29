"""The inputs of every contender: features, means and the gradient to the reconstruction, from a fixed seed.

Shape suffixes: B images, N positions, C channels, K components, D hidden directions.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SEED = 0
NOISE = 0.3
# Variance of the features along a hidden direction, in units of the layer's σ² = sqrt(C).
SPREAD = 4


class Shape(NamedTuple):
    """B, N, C and K."""

    images: int
    positions: int
    channels: int
    components: int


@dataclass(frozen=True)
class Problem:
    """Features and initial means that require grad, and the gradient to the reconstruction."""

    x_BNC: Tensor
    mu_BKC: Tensor
    dy_BNC: Tensor

    @property
    def shape(self) -> Shape:
        """B, N, C and K."""
        images, positions, channels = self.x_BNC.shape
        return Shape(images, positions, channels, self.mu_BKC.shape[1])

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.x_BNC.device

    def image(self, index: int) -> "Problem":
        """Return one image of the problem in float64; EM treats every image by itself."""
        x_BNC, mu_BKC, dy_BNC = (
            tensor[index : index + 1].detach().double() for tensor in (self.x_BNC, self.mu_BKC, self.dy_BNC)
        )
        return Problem(x_BNC.requires_grad_(), mu_BKC.requires_grad_(), dy_BNC)


def draw(shape: Shape, dtype: torch.dtype, device: torch.device) -> Problem:
    """Draw features of about unit variance near a subspace of sqrt(C)/4 directions, and means among them.

    On white noise all means would collapse to one, and the gradient to them would vanish in rounding within a
    few iterations. Spread along few directions, as the features of a network are, the means stay apart and
    their gradients measurable at T = 64.

    Args:
        shape: the sizes.
        dtype: of the features and the gradient to the reconstruction; the means are float32, as in a layer.
        device: of the tensors. They are drawn on the CPU, so they are the same for every device.
    """
    images, positions, channels, components = shape
    directions = max(1, round(math.sqrt(channels) / SPREAD))
    generator = torch.Generator().manual_seed(SEED)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    basis_BDC = normal(images, directions, channels) / math.sqrt(directions)
    x_BNC = normal(images, positions, directions) @ basis_BDC + NOISE * normal(images, positions, channels)
    mu_BKC = normal(images, components, directions) @ basis_BDC + NOISE * normal(images, components, channels)
    dy_BNC = normal(images, positions, channels)
    return Problem(
        x_BNC.to(device, dtype).requires_grad_(),
        mu_BKC.to(device).requires_grad_(),
        dy_BNC.to(device, dtype),
    )
