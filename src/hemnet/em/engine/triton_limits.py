"""Whether the engine "triton" can run here, whether it pays, and a trial of it.

Shape suffixes: B images, N positions, C channels, K components.
"""

from functools import cache

import torch
import triton
from torch import Tensor

from hemnet.em.engine.triton_kernels import INTERPRETED
from hemnet.em.engine.triton_launch import choose_blocks, factor_type
from hemnet.em.engine.triton_passes import TritonPasses
from hemnet.em.options import Mixture

# Releases before this end the process when they compile products of bfloat16 for compute capability 9.0.
OLDEST = (3, 4)
MAX_CHANNELS, MAX_COMPONENTS = 1024, 256
# How often a pass may take the E-step of one position: once for each block of channels.
MAX_REPEATS = 2
# As many or more do not go with so few channels that one tile holds all of them.
MANY_COMPONENTS = 128


def why_not(x_BNC: Tensor, mu_BKC: Tensor) -> str | None:
    """Return a reason why `TritonPasses` cannot run for these features and means, or None."""
    positions, channels = x_BNC.shape[1:]
    checks = {
        f"Triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}": _version() >= OLDEST,
        f"the features are on {x_BNC.device.type}, not cuda": x_BNC.is_cuda or INTERPRETED,
        "there are no features": x_BNC.numel() > 0,
        f"the features are {x_BNC.dtype}, not float32, bfloat16 or float16": x_BNC.dtype
        in (torch.float32, torch.bfloat16, torch.float16),
        f"the means are {mu_BKC.dtype}, not float32": mu_BKC.dtype == torch.float32,
        f"{channels} channels are more than {MAX_CHANNELS}": channels <= MAX_CHANNELS,
        f"{mu_BKC.shape[1]} components are more than {MAX_COMPONENTS}": mu_BKC.shape[1] <= MAX_COMPONENTS,
        "an image spans 2^31 numbers or more": (positions - 1) * x_BNC.stride(1)
        + (channels - 1) * x_BNC.stride(2)
        < 2**31,
        "the compute capability of the device is below 8.0": not x_BNC.is_cuda
        or torch.cuda.get_device_capability(x_BNC.device) >= (8, 0),
    }
    return next((reason for reason, fine in checks.items() if not fine), None)


def why_slow(x_BNC: Tensor, mu_BKC: Tensor) -> str | None:
    """Return a reason why other engines are likely faster, by the work that each does, or None."""
    components, channels = mu_BKC.shape[1:]
    blocks = choose_blocks(factor_type(x_BNC.dtype), components, channels)
    problem = f"with {channels} channels, {components} components and features of {x_BNC.dtype}"
    if channels > MAX_REPEATS * blocks.width:
        times = -(-channels // blocks.width)
        return f"{problem} a pass would take each E-step {times} times, for blocks of {blocks.width} channels"
    # The compiler then keeps all factors in registers, and compute capability 8 has not enough of them.
    if blocks.components >= MANY_COMPONENTS and channels <= blocks.channels:
        return f"{problem} the factors would not fit into the registers"
    return None


@cache
def trial(
    device: torch.device, dtype: torch.dtype, components: int, channels: int, weighted: bool
) -> str | None:
    """Launch every kernel once on a few positions; return what failed, or None. Once for each problem.

    A kernel may fail where nothing says so beforehand: without a C compiler, with a cache that cannot be
    written, or on a device that shares less memory than it needs.

    Args:
        device: of the features.
        dtype: of the features.
        components: K.
        channels: C.
        weighted: whether positions have weights.
    """
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            _try(device, dtype, components, channels, weighted)
    except Exception as error:
        said = (str(error).strip() or "no message").splitlines()[0][:200]
        return f"a trial of it failed with {type(error).__name__}: {said}"
    return None


def _try(device: torch.device, dtype: torch.dtype, components: int, channels: int, weighted: bool) -> None:
    positions = 33  # of two tiles, the second not full
    x_BNC = torch.zeros(1, positions, channels, dtype=dtype, device=device)
    mu_BKC, one_B = torch.zeros(1, components, channels, device=device), torch.ones(1, device=device)
    weights_BN = torch.ones(1, positions, device=device) if weighted else None
    passes = TritonPasses(x_BNC, Mixture(1.0, "gaussian", "none"), weights_BN)
    step = passes.take_step(mu_BKC, one_B / 2)
    passes.readout(mu_BKC, step[0])
    passes.readout_vjp(mu_BKC, x_BNC)
    for readout in ((x_BNC, mu_BKC), None, (x_BNC, mu_BKC)):
        passes.pull_step(mu_BKC, one_B / 2, one_B > 0, step, mu_BKC, readout, to_features=True, energy_B=None)
    if passes.features_vjp().isnan().any():
        raise ArithmeticError("the gradient of zeros is not a number")


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in triton.__version__.split(".")[:2])
