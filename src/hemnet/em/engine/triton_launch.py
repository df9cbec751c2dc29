"""How the Triton kernels are launched: one choice of blocks for each problem, known before anything runs.

There is no autotuning. It would pick blocks by timing, so that two runs of one seed differ in their bits; it
needs free memory beside the features, and seconds for every new size of an image. The blocks follow from the
type, C and K alone. Their rule keeps what a thread holds within its 255 registers, up to 80 numbers
excepted, and what a
program shares within what devices have, as `tests/em/engine/test_compiled_kernels.py` reads off the kernels
that were compiled for them.

Shape suffixes: N positions, C channels, K components.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

WARPS, STAGES = 8, 2


class _Limits(NamedTuple):
    """Largest blocks for a type: `sums` and `factors` bound the numbers that 256 threads hold, the others a
    side.
    """

    sums: int  # components times channels of a block of sums
    factors: int  # components times channels of a tile of factors
    width: int
    positions: int
    channels: int


# A product of float32 takes three of TF32, whose operands take twice the room.
_LIMITS = {
    torch.bfloat16: _Limits(sums=32768, factors=8192, width=512, positions=64, channels=64),
    torch.float32: _Limits(sums=8192, factors=4096, width=256, positions=32, channels=32),
}


class Blocks(NamedTuple):
    """Sizes of the blocks of `gather` and `scatter`, in the order of their last parameters.

    Attributes:
        components: of one image, all of them, 16 or more.
        width: channels of a block of sums or results.
        positions: of a tile.
        channels: of a tile.
    """

    components: int
    width: int
    positions: int
    channels: int


def factor_type(features: torch.dtype) -> torch.dtype:
    """The type that factors and products have for features of a type."""
    return torch.bfloat16 if features == torch.bfloat16 else torch.float32


def choose_blocks(dtype: torch.dtype, components: int, channels: int) -> Blocks:
    """Return the blocks for factors of a type, bfloat16 or float32."""
    limits, rows = _LIMITS[dtype], block(components)
    width = min(block(channels), limits.width, limits.sums // rows)
    positions = min(limits.positions, max(16, 2048 // rows))
    return Blocks(rows, width, positions, min(width, limits.channels, limits.factors // rows))


def block(size: int) -> int:
    """The power of two that holds so many; a side of a matrix product has 16 rows at least."""
    return max(16, triton.next_power_of_2(size))


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, near: Tensor, warps: int = WARPS) -> None:
    """Launch a kernel on the device of the tensor `near`; every launch of the engine goes through here."""
    with torch.cuda.device_of(near):
        kernel[tuple(grid)](*arguments, num_warps=warps, num_stages=STAGES)
