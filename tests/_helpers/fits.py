"""What the tests of hemnet.em share: options, tolerances, seeded inputs, and the smallest of layers."""

import torch
from torch import Tensor, nn

from hemnet.em import HighwayEM

ASSIGNMENTS = ["gaussian", "dot"]
NORMALIZATIONS = ["none", "l2"]
# The loops add with math.fsum (exact), the fast code in blocks; both stay within a few hundred roundings of
# 2^-53 of the largest term for the sizes here, and 1e-12 is 9000 of them.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
CHANNELS, COMPONENTS = 6, 4


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer(**options) -> HighwayEM:
    torch.manual_seed(0)
    return HighwayEM(CHANNELS, COMPONENTS, **({"iterations": 2, "normalize": "none"} | options))


def features(images: int = 4, seed: int = 1, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, CHANNELS, 5, 3, generator=generator, requires_grad=requires_grad)


def step() -> None:
    """One step of an optimizer that knows nothing of the layer."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    torch.optim.SGD([weight], lr=0.1).step()


def expected_means(em: HighwayEM, *batches: Tensor) -> Tensor:
    """The documented update, computed apart: momentum·means + (1 - momentum)·average over all images."""
    finals = torch.cat([em.run(batch).means for batch in batches])
    return em.momentum * em.means + (1 - em.momentum) * finals.mean(dim=0)
