"""What is compared: the engines of `hemnet.em`, and plain autograd compiled or checkpointed by PyTorch.

Shape suffixes: B images, N positions, C channels, K components.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hemnet.bench.problem import Problem
from hemnet.em import unroll
from hemnet.em.engine.choose import choose_engine
from hemnet.em.functional import component_means, newton_step, promote, reconstruct, responsibilities
from hemnet.em.options import Engine

HIGHWAY_SCALE = 0.5

Reconstruction = Callable[[Tensor, Tensor], Tensor]


class LeftOut(Exception):
    """A contender does not run; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One way to compute the reconstruction and its gradient.

    Attributes:
        name: one of `hemnet.bench.arguments.CONTENDERS`.
        reconstruction: from x (B, N, C) and mu (B, K, C) to y (B, N, C).
        multiplies_in: the dtype of the factors of its matrix products.
        compile_seconds: time to compile and first run both passes; None if it is not compiled. Short where
            PyTorch finds the code in its caches, which TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 disables.
    """

    name: str
    reconstruction: Reconstruction
    multiplies_in: torch.dtype
    compile_seconds: float | None = None

    @torch.no_grad()
    def forward(self, problem: Problem) -> Tensor:
        """Return the reconstruction, without a graph."""
        return self.reconstruction(problem.x_BNC, problem.mu_BKC)

    def forward_backward(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction and the gradients to x and mu."""
        y_BNC = self.reconstruction(problem.x_BNC, problem.mu_BKC)
        dx_BNC, dmu_BKC = torch.autograd.grad(y_BNC, (problem.x_BNC, problem.mu_BKC), problem.dy_BNC)
        return y_BNC.detach(), dx_BNC, dmu_BKC


def enlist(
    name: str,
    problem: Problem,
    iterations: int,
    *,
    highway_scale: float = HIGHWAY_SCALE,
    compile_up_to: int = 0,
) -> Contender:
    """Return a contender that is ready to run; compiling happens here.

    Args:
        name: one of `hemnet.bench.arguments.CONTENDERS`.
        problem: the inputs that it will run on.
        iterations: T.
        highway_scale: h; 0 is plain EM.
        compile_up_to: the largest T at which "compiled" runs.

    Raises:
        LeftOut: the contender cannot run here, or is not to run at this T.
    """
    state = torch.promote_types(problem.x_BNC.dtype, torch.float32)
    if name == "compiled":
        return _compiled(problem, iterations, highway_scale, compile_up_to)
    if name == "checkpointed":
        return Contender(name, _checkpointed(iterations, highway_scale), state)
    if name == "triton":
        try:
            choose_engine("triton", problem.x_BNC, problem.mu_BKC)
        except RuntimeError as error:
            raise LeftOut(str(error)) from error
        state = problem.x_BNC.dtype
    return Contender(name, _unrolled(name, iterations, highway_scale), state)  # type: ignore[arg-type]


def _unrolled(engine: Engine, iterations: int, highway_scale: float) -> Reconstruction:
    def reconstruction(x_BNC: Tensor, mu_BKC: Tensor) -> Tensor:
        result = unroll(x_BNC, mu_BKC, iterations=iterations, highway_scale=highway_scale, engine=engine)
        return result.reconstruction

    return reconstruction


def _compiled(problem: Problem, iterations: int, highway_scale: float, up_to: int) -> Contender:
    if iterations > up_to:
        raise LeftOut("deep unrolled graphs take minutes to compile; raise --compile-up-to")
    torch.compiler.reset()  # else earlier T count as recompilations, whose number is limited
    compiled = torch.compile(_unrolled("reference", iterations, highway_scale), fullgraph=True, dynamic=False)
    multiplies_in = torch.promote_types(problem.x_BNC.dtype, torch.float32)
    contender = Contender("compiled", compiled, multiplies_in)
    start = time.perf_counter()
    try:
        contender.forward(problem)
        contender.forward_backward(problem)
    except RuntimeError as error:
        raise LeftOut(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    return Contender("compiled", compiled, multiplies_in, time.perf_counter() - start)


def _checkpointed(iterations: int, highway_scale: float) -> Reconstruction:
    def reconstruction(x_BNC: Tensor, mu_BKC: Tensor) -> Tensor:
        variance = math.sqrt(x_BNC.shape[2])
        wide_BNC, mu_BKC = promote(x_BNC, mu_BKC)

        def iteration(wide_BNC: Tensor, mu_BKC: Tensor) -> tuple[Tensor, Tensor]:
            z_BNK = responsibilities(wide_BNC, mu_BKC, variance=variance, assignment="gaussian")
            return z_BNK, newton_step(mu_BKC, component_means(wide_BNC, z_BNK, mu_BKC), highway_scale)

        for _ in range(iterations):
            z_BNK, mu_BKC = checkpoint(
                iteration, wide_BNC, mu_BKC, use_reentrant=False, preserve_rng_state=False
            )
        return reconstruct(z_BNK, mu_BKC).to(x_BNC.dtype)

    return reconstruction
