"""Which engine computes the passes.

Shape suffixes: B images, N positions, C channels, K components.
"""

import logging
from functools import cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hemnet.em.engine.passes import Passes, TorchPasses
from hemnet.em.options import Engine, Mixture
from hemnet.em.transforms import needs_plain_operators

_log = logging.getLogger("hemnet.em")


def choose_engine(
    engine: Engine, x_BNC: Tensor, mu_BKC: Tensor, *others: Tensor, weighted: bool = False
) -> Engine:
    """Resolve "auto": "triton" on CUDA where it can and pays, else "recompute", with the reason in the log.

    Every reason is logged once. Under transforms of `torch.func`, in forward-mode differentiation (of any of
    the tensors) and in an export it is "reference".

    Raises:
        RuntimeError: if an engine is asked for by name that cannot run; says why.
    """
    if engine == "reference":
        return engine
    if around := needs_plain_operators(x_BNC, mu_BKC, *others):
        if engine == "auto":
            return "reference"
        raise RuntimeError(
            f"engine={engine!r} cannot run in {around}: take engine='auto', which is 'reference' there"
        )
    if engine == "recompute":
        return engine
    if engine == "auto" and not x_BNC.is_cuda:
        return "recompute"
    reason = _why_not_triton(x_BNC, mu_BKC, weighted, asked=engine == "triton")
    if reason is None:
        return "triton"
    if engine == "triton":
        raise RuntimeError(f"engine='triton' cannot run: {reason}. engine='recompute' can")
    _say_once(f"engine='auto' takes 'recompute', not 'triton': {reason}")
    return "recompute"


def make_passes(
    engine: str, x_BNC: Tensor, weights_BN: Tensor | None, dtype: torch.dtype, mixture: Mixture
) -> Passes:
    """Build the passes over x, (B, N, C), and the weights of its positions, (B, N), for means of a type."""
    if engine == "triton":
        from hemnet.em.engine.triton_passes import TritonPasses  # here, because Triton is optional

        return TritonPasses(x_BNC, mixture, weights_BN)
    return TorchPasses(x_BNC.to(dtype), mixture, weights_BN)


def _why_not_triton(x_BNC: Tensor, mu_BKC: Tensor, weighted: bool, *, asked: bool) -> str | None:
    """Return a reason against the engine "triton": it cannot run, or if not asked for, does not pay."""
    try:
        from hemnet.em.engine import triton_limits
    except Exception as error:  # an installation may be broken in any way
        return f"Triton cannot be imported ({type(error).__name__}: {error}); pip install 'hemnet[triton]'"
    if reason := triton_limits.why_not(x_BNC, mu_BKC):
        return reason
    if asked:
        return None
    if reason := triton_limits.why_slow(x_BNC, mu_BKC):
        return reason
    components, channels = mu_BKC.shape[1:]
    return _trial(x_BNC.device, x_BNC.dtype, components, channels, weighted)


@torch.compiler.assume_constant_result
def _trial(
    device: torch.device, dtype: torch.dtype, components: int, channels: int, weighted: bool
) -> str | None:
    """`triton_limits.trial`, which `torch.compile` and fake tensors do not look into."""
    from hemnet.em.engine import triton_limits

    with unset_fake_temporarily():
        return triton_limits.trial(device, dtype, components, channels, weighted)


@cache
def _say_once(message: str) -> None:
    _log.warning(message)
