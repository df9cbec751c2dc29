"""The passes as fused Triton kernels for CUDA: responsibilities stay on the chip.

Precision and order of sums are described in `hemnet.em.engine.triton_kernels`.

Shape suffixes: B images, N positions, C channels, K components, S shares of the positions, R pulls, P parts
of a factor.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hemnet.em.engine.passes import common_log_normalizer, logit_factors, weighted_total
from hemnet.em.engine.triton_kernels import INTERPRETED, gather, scatter
from hemnet.em.options import Mixture

MAX_CHANNELS, MAX_COMPONENTS = 1024, 256
# Channels of a block of sums for K <= 64, fewer for more: 64 times 512 float32 are half of the registers of a
# multiprocessor, and a tile of 64 positions of them leaves its shared memory room for the factors.
MAX_WIDTH = {torch.bfloat16: 512, torch.float32: 256}


def why_not(x_BNC: Tensor, mu_BKC: Tensor) -> str | None:
    """Return a reason why `TritonPasses` cannot run for these features and means, or None."""
    positions, channels = x_BNC.shape[1:]
    checks = {
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


# Pulls that wait for a pass to the features. Each keeps its factors meanwhile, so that many would cost as
# much memory as the features; with few iterations, all are done in one pass.
WAITING = 3


class _Pull(NamedTuple):
    """What the kernels need of an E-step and of what is weighted by it, or of its gradient.

    The parts of the factors: w and a, for bfloat16 also what rounding w left.
    """

    factors_PBKC: Tensor
    bias_BK: Tensor
    offset_BK: Tensor


class _Readout(NamedTuple):
    """What a readout adds to the gradient of one pull: dy·rows."""

    dy_BNC: Tensor
    rows_BKC: Tensor


class TritonPasses:
    """Passes as two fused kernels; see `Passes` for what each method computes.

    `pull` only notes what it owes to the features, K·C numbers per image; a pass over the features pays for
    several at once, rounding their sum once to the type of x. Adding to a float32 gradient in every pull
    would move 8 bytes per feature each time.
    """

    def __init__(self, x_BNC: Tensor, mixture: Mixture, weights_BN: Tensor | None = None) -> None:
        self._x_BNC = x_BNC
        self._weights_BN = weights_BN
        self._mixture = mixture
        self._dtype = torch.bfloat16 if x_BNC.dtype == torch.bfloat16 else torch.float32
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None
        self._total: tuple[Tensor, Tensor] | None = None
        self._pulls: list[_Pull] = []
        self._readout: tuple[int, _Readout] | None = None
        self._dx_BNC: Tensor | None = None

    def sums(self, mu_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        if self._latest is None or self._latest[0] is not mu_BKC:
            return self._gather(self._prepare(mu_BKC))[:2]
        return self._latest[1:]

    def log_normalizer(self, mu_BKC: Tensor) -> Tensor:
        """See `Passes`."""
        sums_BKC, mass_BK, lse_B = self._gather(self._prepare(mu_BKC))
        self._latest = (mu_BKC, sums_BKC, mass_BK)
        if self._total is None:
            self._total = weighted_total(self._x_BNC, self._weights_BN, torch.float32)
        return lse_B + common_log_normalizer(mu_BKC, *self._total, self._mixture.variance)

    def readout(self, e_BKC: Tensor, mu_BKC: Tensor) -> Tensor:
        """See `Passes`; in the type of x."""
        y_BNC = torch.empty_like(self._x_BNC)
        self._scatter([self._prepare(e_BKC, mu_BKC)], None, y_BNC, gradient=False)
        return y_BNC

    def readout_vjp(self, e_BKC: Tensor, dy_BNC: Tensor) -> Tensor:
        """See `Passes`."""
        return self._gather(self._prepare(e_BKC), _Readout(dy_BNC, e_BKC))[0]

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
        noted = self._prepare(mu_BKC, a_BKC, offset_BK)
        part = None
        if readout is not None:
            # dl does not see what all components share; without it, less is lost in rounding the rows.
            rows_BKC = readout[1] - readout[1].mean(dim=1, keepdim=True)
            part = _Readout(readout[0], rows_BKC.to(self._dtype).contiguous())
        g_BKC, total_BK, _ = self._gather(noted, part, gradient=True)
        if to_features:
            if len(self._pulls) == WAITING or (part is not None and self._readout is not None):
                self._settle()
            if part is not None:
                self._readout = (len(self._pulls), part)
            self._pulls.append(noted)
        if energy_B is not None:
            part_BNC = torch.empty_like(self._x_BNC, dtype=torch.float32)
            self._scatter([noted], part and (0, part), part_BNC)
            energy_B += part_BNC.square_().sum(dim=(1, 2))
        return g_BKC.div_(self._mixture.variance), total_BK.div_(self._mixture.variance)

    def features_vjp(self) -> Tensor:
        """See `Passes`; in the type of x."""
        if self._pulls:
            self._settle()
        return torch.zeros_like(self._x_BNC) if self._dx_BNC is None else self._dx_BNC

    def _settle(self) -> None:
        """Bring the pulls that wait to the features."""
        add = self._dx_BNC is not None
        if self._dx_BNC is None:
            self._dx_BNC = torch.empty_like(self._x_BNC)
        self._scatter(self._pulls, self._readout, self._dx_BNC, add=add)
        self._pulls, self._readout = [], None

    def _prepare(self, e_BKC: Tensor, a_BKC: Tensor | None = None, offset_BK: Tensor | None = None) -> _Pull:
        """Gather factors; where a pass needs no a or no offset its kernel reads none."""
        w_BKC, bias_BK = logit_factors(e_BKC, self._mixture)
        parts = [w_BKC.to(self._dtype), (w_BKC if a_BKC is None else a_BKC).to(self._dtype)]
        if a_BKC is not None and offset_BK is not None:
            # With this the rounding of a costs dz in proportion to |x - mu| rather than to |x|.
            offset_BK = offset_BK + ((parts[1] - a_BKC) * e_BKC).sum(dim=2)
        if self._dtype == torch.bfloat16:
            parts.append((w_BKC - parts[0]).to(self._dtype))
        bias_BK = bias_BK.contiguous()
        return _Pull(torch.stack(parts), bias_BK, bias_BK if offset_BK is None else offset_BK.contiguous())

    def _gather(
        self, pull: _Pull, readout: _Readout | None = None, *, gradient: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return sums (B, K, C), what the weights sum to (B, K), and the log normalizer (B,)."""
        x_BNC, (components, channels) = self._x_BNC, pull.factors_PBKC.shape[2:]
        images, positions, _ = x_BNC.shape
        width = self._width(components, channels)
        blocks = triton.cdiv(channels, width)
        shares = max(1, min(_programs(x_BNC) // (images * blocks), triton.cdiv(positions, 64)))
        sums_SBKC = x_BNC.new_empty(shares, images, components, channels, dtype=torch.float32)
        mass_SBK = x_BNC.new_empty(shares, images, components, dtype=torch.float32)
        lse_SB = x_BNC.new_empty(shares, images, dtype=torch.float32)
        dy_BNC, rows_BKC = readout or (x_BNC, pull.offset_BK)
        with torch.cuda.device_of(x_BNC):
            gather[(shares, blocks, images)](
                x_BNC, self._weights(), dy_BNC, rows_BKC, *pull, sums_SBKC, mass_SBK, lse_SB,
                positions, components, triton.next_power_of_2(positions), pull.factors_PBKC[0].numel(),
                *x_BNC.stride(), *dy_BNC.stride(),
                channels, gradient, readout is not None, self._weights_BN is not None, _block(components),
                width,
            )  # fmt: skip
        return sums_SBKC.sum(dim=0), mass_SBK.sum(dim=0), lse_SB.sum(dim=0)

    def _scatter(
        self,
        pulls: list[_Pull],
        readout: tuple[int, _Readout] | None,
        out_BNC: Tensor,
        *,
        gradient: bool = True,
        add: bool = False,
    ) -> None:
        """Write to `out`, or add there, the sum of z·a over the pulls, plus dl·w for a gradient."""
        x_BNC, (components, channels) = self._x_BNC, pulls[0].factors_PBKC.shape[2:]
        images, positions, _ = x_BNC.shape
        width = self._width(components, channels)
        factors_PRBKC = torch.stack([pull.factors_PBKC for pull in pulls], dim=1)
        bias_RBK = torch.stack([pull.bias_BK for pull in pulls])
        offset_RBK = torch.stack([pull.offset_BK for pull in pulls])
        with_dy, (dy_BNC, rows_BKC) = readout or (-1, (x_BNC, offset_RBK))
        blocks = triton.cdiv(channels, width)
        with torch.cuda.device_of(x_BNC):
            scatter[lambda meta: (triton.cdiv(positions, meta["BLOCK_N"]), blocks, images)](
                x_BNC, self._weights(), dy_BNC, rows_BKC, factors_PRBKC, bias_RBK, offset_RBK, out_BNC,
                positions, components, len(pulls), with_dy, triton.next_power_of_2(positions),
                factors_PRBKC[0].numel(), *x_BNC.stride(), *dy_BNC.stride(), *out_BNC.stride(),
                channels, gradient, readout is not None, self._weights_BN is not None, add,
                _block(components), width,
            )  # fmt: skip

    def _weights(self) -> Tensor:
        """What the kernels read as weights; nothing, where there are none."""
        return self._x_BNC if self._weights_BN is None else self._weights_BN

    def _width(self, components: int, channels: int) -> int:
        """Channels of a block of sums; twice the bytes per feature, half the width."""
        widest = MAX_WIDTH[self._dtype]
        return min(_block(channels), widest, widest * 64 // _block(components))


def _block(size: int) -> int:
    # A side of a matrix product has 16 rows at least.
    return max(16, triton.next_power_of_2(size))


def _programs(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 4
