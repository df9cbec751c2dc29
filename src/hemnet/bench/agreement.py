"""Every contender is compared with plain autograd in float64 before anything is timed.

The error of a tensor is |found - true| / |true|, in norms over all its entries. Limits:

- float32, reconstruction: 1e-5 at any T. A product over C channels rounds by about sqrt(C)·2^-24, 1e-6 at
  C = 256; logits are small differences of such products, hence ten times that. EM contracts, so errors
  of early iterations do not add up.
- float32, gradients: (T+1)·1e-5. The gradient passes back through T iterations and the readout, each of
  which multiplies it by factors with the error above, and relative errors of factors add up.
- bfloat16 features: 5e-3 for the reconstruction, which is itself rounded to 2^-9, and 2e-2 for the
  gradients: a responsibility may enter a product rounded to 2^-9, and a gradient is made of differences
  of such products, hence ten times that. Engines that compute in float32 stay far below.

Shape suffixes: B images, N positions, C channels, K components.
"""

import numpy as np
import torch
from torch import Tensor

from hemnet.bench.arguments import Disagreement
from hemnet.bench.contenders import Contender, enlist
from hemnet.bench.problem import Problem

QUANTITIES = ("reconstruction", "gradient to x", "gradient to mu")


def limits(dtype: torch.dtype, iterations: int) -> dict[str, float]:
    """Return the largest accepted error of each quantity for features of this dtype (module head)."""
    if dtype == torch.float32:
        reconstruction, gradient = 1e-5, 1e-5 * (iterations + 1)
    else:
        reconstruction, gradient = 5e-3, 2e-2
    return dict(zip(QUANTITIES, (reconstruction, gradient, gradient), strict=True))


def truth(problem: Problem, iterations: int, highway_scale: float) -> list[Tensor]:
    """Return each quantity by plain autograd in float64, one image at a time to save memory."""
    images = [problem.image(index) for index in range(problem.shape.images)]
    found = [
        enlist("reference", image, iterations, highway_scale=highway_scale).forward_backward(image)
        for image in images
    ]
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def check(contender: Contender, problem: Problem, iterations: int, true: list[Tensor]) -> dict[str, float]:
    """Return the error of each quantity; the reconstruction is checked with and without a graph.

    Raises:
        Disagreement: an error is above its limit, or NaN.
    """
    found = contender.forward_backward(problem)
    errors = {
        name: _error(tensor, target) for name, tensor, target in zip(QUANTITIES, found, true, strict=True)
    }
    # The pass without a graph may run other code, and it is timed too. np.maximum keeps NaN.
    without_graph = _error(contender.forward(problem), true[0])
    errors["reconstruction"] = float(np.maximum(errors["reconstruction"], without_graph))
    for name, limit in limits(problem.x_BNC.dtype, iterations).items():
        if not errors[name] <= limit:  # also true for NaN
            raise Disagreement(
                f"{contender.name}, T={iterations}, {str(problem.x_BNC.dtype).removeprefix('torch.')}: the "
                f"{name} is off by {errors[name]:.1e} of its norm from float64 autograd, limit {limit:.1e}. "
                "Nothing is reported: fix the engine, or leave it out with --engines"
            )
    return errors


def _error(found: Tensor, true: Tensor) -> float:
    return ((found.double() - true).norm() / true.norm()).item()
