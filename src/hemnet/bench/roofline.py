"""A lower bound on the time of unrolled EM on a device: its roofline.

A pass moves bytes at the device's bandwidth while it multiplies at its rate, so its time is at least
max(bytes / bandwidth, flops / rate), counting what exact EM cannot avoid:

    forward             bytes  T times read x, then read x and write y: (T+2)·BNC numbers
                        flops  per iteration logits and sums, 4·BNCK; the readout, 2·BNCK
    forward + backward  bytes  and per iteration read x, then read dy and write dx: (2T+4)·BNC numbers
                        flops  and per iteration four products, 8·BNCK

Moving responsibilities and means is counted as free, so only fused code can reach the bound. Two things are
not in the bound: the fifth product per iteration that recomputes the logits, and the products of the
readout's gradient, which can be shared with the last iteration. Features that fit into a cache can be read
faster than the bandwidth measured here, which is that of the main memory.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hemnet.bench.problem import Shape
from hemnet.bench.timing import seconds

REPEATS = 7
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**32}
MATRIX_SIZE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Work:
    """Bytes to move and floating-point operations to do."""

    bytes: int
    flops: int

    def bound(self, bandwidth: float, rate: float) -> float:
        """Return the least seconds, at ``bandwidth`` bytes and ``rate`` operations per second."""
        return max(self.bytes / bandwidth, self.flops / rate)


def forward_work(shape: Shape, iterations: int, itemsize: int) -> Work:
    """Return the work of a forward pass over features of `itemsize` bytes per number."""
    numbers = shape.images * shape.positions * shape.channels
    return Work((iterations + 2) * numbers * itemsize, (4 * iterations + 2) * numbers * shape.components)


def forward_backward_work(shape: Shape, iterations: int, itemsize: int) -> Work:
    """Return the work of a forward and a backward pass."""
    numbers = shape.images * shape.positions * shape.channels
    return Work((2 * iterations + 4) * numbers * itemsize, (12 * iterations + 2) * numbers * shape.components)


def measure_bandwidth(device: torch.device) -> float:
    """Return bytes per second of the device's memory: the better of a large copy and a large sum."""
    source = torch.ones(COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return max(
        2 * source.nbytes / _best(lambda: target.copy_(source), device),
        source.nbytes / _best(source.sum, device),
    )


def measure_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return multiplications and additions per second of large products with factors of this dtype.

    On CPU the better of a square product and a 1x1 convolution: the engines use both libraries.
    """
    size = MATRIX_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    rates = [2 * size**3 / _best(lambda: a @ b, device)]
    if device.type == "cpu":
        image = torch.randn(1, 512, 2304, 1).to(dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(512, 512, 1, 1).to(dtype)
        rates.append(2 * 512 * 512 * 2304 / _best(lambda: F.conv2d(image, weight), device))
    return max(rates)


@torch.no_grad()
def _best(run: Callable[[], object], device: torch.device) -> float:
    run()
    return min(seconds(run, device) for _ in range(REPEATS))
