"""The passes as fused Triton kernels for CUDA: responsibilities stay on the chip.

Precision and order of sums are described in `hemnet.em.engine.triton_kernels`.

Shape suffixes: B images, N positions, C channels, K components, S shares of the positions, R pulls, P parts
of a factor.
"""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hemnet.em.engine.fused import FusedSteps
from hemnet.em.engine.passes import common_log_normalizer, weighted_total
from hemnet.em.engine.triton_kernels import gather, scatter
from hemnet.em.engine.triton_launch import block, choose_blocks, factor_type, launch
from hemnet.em.engine.triton_steps import add_back, factors, newton_step
from hemnet.em.options import Mixture

# Pulls that wait for a pass to the features. Each keeps its factors meanwhile, so that many would cost as
# much memory as the features; with few iterations, all are done in one pass.
WAITING = 3


class _Pull(NamedTuple):
    """What the kernels need of an E-step and of what is weighted by it, or of its gradient.

    Parts of the factors: w, a, and for bfloat16 the rounding error of w; a strided view of `_Pulls`.
    """

    factors_PBKC: Tensor
    bias_BK: Tensor
    offset_BK: Tensor


class _Readout(NamedTuple):
    """What a readout adds to the gradient of one pull: dy·rows."""

    dy_BNC: Tensor
    rows_BKC: Tensor


class _Pulls:
    """Buffers for R pulls, of which `count` are filled, and the readout of one of them, if any."""

    def __init__(self, mu_BKC: Tensor, dtype: torch.dtype, room: int) -> None:
        parts = 3 if dtype == torch.bfloat16 else 2
        self.factors_PRBKC = mu_BKC.new_empty(parts, room, *mu_BKC.shape, dtype=dtype)
        self.bias_RBK = mu_BKC.new_empty(room, *mu_BKC.shape[:2])
        self.offset_RBK = torch.empty_like(self.bias_RBK)
        self.count = 0
        self.readout: tuple[int, _Readout] | None = None

    def next(self) -> _Pull:
        """Return the room for one pull more."""
        r = self.count
        self.count += 1
        return _Pull(self.factors_PRBKC[:, r], self.bias_RBK[r], self.offset_RBK[r])

    @property
    def full(self) -> bool:
        return self.count == len(self.bias_RBK)


class TritonPasses(FusedSteps):
    """Passes as two fused kernels, and steps with three small ones; see `Passes` and `FusedSteps`.

    `pull` only notes what it owes to the features, K·C numbers per image; a pass over the features pays for
    several at once, rounding their sum once to the type of x. Adding to a float32 gradient in every pull
    would move 8 bytes per feature each time. Features whose channels do not lie side by side (NCHW) are
    copied: kernels that read them from afar would need more registers than there are.
    """

    def __init__(self, x_BNC: Tensor, mixture: Mixture, weights_BN: Tensor | None = None) -> None:
        self._x_BNC = _rows(x_BNC)
        self._weights_BN = weights_BN
        self._mixture = mixture
        self._gaussian = mixture.assignment == "gaussian"
        self._dtype = factor_type(x_BNC.dtype)
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None
        self._total: tuple[Tensor, Tensor] | None = None
        self._waiting: _Pulls | None = None
        self._dx_BNC: Tensor | None = None

    def sums(self, mu_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        sums_SBKC, mass_SBK = self._shares(mu_BKC)
        return sums_SBKC.sum(dim=0), mass_SBK.sum(dim=0)

    def log_normalizer(self, mu_BKC: Tensor) -> Tensor:
        """See `Passes`."""
        sums_SBKC, mass_SBK, lse_SB = self._gather(self._prepare(mu_BKC))
        self._latest = (mu_BKC, sums_SBKC, mass_SBK)
        if self._total is None:
            self._total = weighted_total(self._x_BNC, self._weights_BN, torch.float32)
        return lse_SB.sum(dim=0) + common_log_normalizer(mu_BKC, *self._total, self._mixture.variance)

    def readout(self, e_BKC: Tensor, mu_BKC: Tensor) -> Tensor:
        """See `Passes`; in the type of x."""
        y_BNC = torch.empty_like(self._x_BNC)
        pulls = self._room(e_BKC)
        self._prepare(e_BKC, mu_BKC, room=pulls)
        self._scatter(pulls, y_BNC, gradient=False)
        return y_BNC

    def readout_vjp(self, e_BKC: Tensor, dy_BNC: Tensor) -> Tensor:
        """See `Passes`."""
        return self._gather(self._prepare(e_BKC), _Readout(_rows(dy_BNC), e_BKC.contiguous()))[0].sum(dim=0)

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
        pulls, part = self._note(readout, mu_BKC, to_features)
        noted = self._prepare(mu_BKC, a_BKC, offset_BK, room=pulls)
        g_SBKC, total_SBK, _ = self._gather(noted, part, gradient=True)
        self._measure(noted, part, energy_B)
        return g_SBKC.sum(dim=0) / self._mixture.variance, total_SBK.sum(dim=0) / self._mixture.variance

    def features_vjp(self) -> Tensor:
        """See `Passes`; in the type of x."""
        self._settle()
        return torch.zeros_like(self._x_BNC) if self._dx_BNC is None else self._dx_BNC

    def take_step(self, mu_BKC: Tensor, h_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `FusedSteps`."""
        sums_SBKC, mass_SBK = self._shares(mu_BKC)
        next_BKC, mass_BK = mu_BKC.new_empty(mu_BKC.shape), mu_BKC.new_empty(mu_BKC.shape[:2])
        length_BK = torch.empty_like(mass_BK)
        images, components, channels = mu_BKC.shape
        launch(
            newton_step, (components, images),
            sums_SBKC, mass_SBK, mu_BKC.contiguous(), h_B, next_BKC, mass_BK, length_BK,
            len(sums_SBKC), components, h_B.stride(0),
            channels, self._mixture.normalize == "l2", *_row(channels), near=mu_BKC, warps=4,
        )  # fmt: skip
        return next_BKC, mass_BK, length_BK

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
        """See `FusedSteps`."""
        pulls, part = self._note(readout, mu_BKC, to_features)
        back_BKC, slope_BK = mu_BKC.new_empty(mu_BKC.shape), mu_BKC.new_empty(mu_BKC.shape[:2])
        given = (*(tensor.contiguous() for tensor in (d_BKC, *step)), h_B, moving_B, back_BKC, slope_BK)
        noted = self._prepare(mu_BKC, room=pulls, step=given)
        g_SBKC, total_SBK, _ = self._gather(noted, part, gradient=True)
        self._measure(noted, part, energy_B)
        images, components, channels = mu_BKC.shape
        launch(
            add_back, (components, images),
            g_SBKC, total_SBK, mu_BKC.contiguous(), back_BKC, len(g_SBKC), components, self._mixture.variance,
            channels, self._gaussian, *_row(channels), near=mu_BKC, warps=4,
        )  # fmt: skip
        return back_BKC, slope_BK.sum(dim=1)

    def _shares(self, mu_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """What `sums` adds up; of the means whose likelihood was asked for just before, without a pass."""
        if self._latest is None or self._latest[0] is not mu_BKC:
            return self._gather(self._prepare(mu_BKC))[:2]
        return self._latest[1:]

    def _room(self, mu_BKC: Tensor, room: int = 1) -> _Pulls:
        return _Pulls(mu_BKC, self._dtype, room)

    def _note(
        self, readout: tuple[Tensor, Tensor] | None, mu_BKC: Tensor, to_features: bool
    ) -> tuple[_Pulls, _Readout | None]:
        """Return where the next pull is to be written, with those that wait if it is owed to the features."""
        part = None
        if readout is not None:
            # dl does not see what all components share; without it, less is lost in rounding the rows.
            rows_BKC = readout[1] - readout[1].mean(dim=1, keepdim=True)
            part = _Readout(_rows(readout[0]), rows_BKC.to(self._dtype).contiguous())
        if not to_features:
            return self._room(mu_BKC), part
        waiting = self._waiting
        if waiting is not None and (waiting.full or (part is not None and waiting.readout is not None)):
            self._settle()
        if self._waiting is None:
            self._waiting = self._room(mu_BKC, WAITING)
        if part is not None:
            self._waiting.readout = (self._waiting.count, part)
        return self._waiting, part

    def _settle(self) -> None:
        """Bring the pulls that wait to the features."""
        if self._waiting is None:
            return
        add = self._dx_BNC is not None
        if self._dx_BNC is None:
            self._dx_BNC = torch.empty_like(self._x_BNC)
        self._scatter(self._waiting, self._dx_BNC, add=add)
        self._waiting = None

    def _measure(self, noted: _Pull, part: _Readout | None, energy_B: Tensor | None) -> None:
        """Add to the energy the squared norm of what a pull brings to the features."""
        if energy_B is None:
            return
        alone = self._room(noted.bias_BK.new_empty(noted.factors_PBKC.shape[1:]))
        for place, value in zip(alone.next(), noted, strict=True):
            place.copy_(value)
        alone.readout = part and (0, part)
        part_BNC = torch.empty_like(self._x_BNC, dtype=torch.float32)
        self._scatter(alone, part_BNC)
        energy_B += part_BNC.square_().sum(dim=(1, 2))

    def _prepare(
        self,
        e_BKC: Tensor,
        a_BKC: Tensor | None = None,
        offset_BK: Tensor | None = None,
        *,
        room: _Pulls | None = None,
        step: tuple[Tensor, ...] | None = None,
    ) -> _Pull:
        """Write the factors of a pass; where it needs no a or no offset its kernel reads none."""
        e_BKC = e_BKC.contiguous()
        pull = (room or self._room(e_BKC)).next()
        images, components, channels = e_BKC.shape
        rows = max(1, min(8, 4096 // block(channels)))
        # The kernel reads none of those that are not given; e takes their places.
        given = [e_BKC if tensor is None else tensor.contiguous() for tensor in (a_BKC, offset_BK)]
        given += (e_BKC,) * 8 if step is None else step
        launch(
            factors, (triton.cdiv(components, rows), images),
            e_BKC, *given, *pull,
            components, pull.factors_PBKC.stride(0), 0 if step is None else step[4].stride(0),
            self._mixture.variance, channels, self._gaussian, self._mixture.normalize == "l2",
            step is not None, a_BKC is not None, offset_BK is not None, rows, block(channels),
            near=e_BKC, warps=4,
        )  # fmt: skip
        return pull

    def _gather(
        self, pull: _Pull, readout: _Readout | None = None, *, gradient: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return S shares of the sums (B, K, C), of the weights (B, K), and of the log normalizer (B,)."""
        x_BNC, (components, channels) = self._x_BNC, pull.factors_PBKC.shape[2:]
        images, positions, _ = x_BNC.shape
        blocks = choose_blocks(self._dtype, components, channels)
        across = triton.cdiv(channels, blocks.width)
        tiles = triton.cdiv(positions, blocks.positions)
        shares = max(1, min(_programs(x_BNC) // (images * across), tiles))
        sums_SBKC = x_BNC.new_empty(shares, images, components, channels, dtype=torch.float32)
        mass_SBK = x_BNC.new_empty(shares, images, components, dtype=torch.float32)
        lse_SB = x_BNC.new_empty(shares, images, dtype=torch.float32)
        dy_BNC, rows_BKC = readout or (x_BNC, pull.offset_BK)
        launch(
            gather, (shares, across, images),
            x_BNC, self._weights(), dy_BNC, rows_BKC, *pull, sums_SBKC, mass_SBK, lse_SB,
            positions, components, pull.factors_PBKC.stride(0), *x_BNC.stride()[:2], *dy_BNC.stride()[:2],
            channels, gradient, readout is not None, self._weights_BN is not None, *blocks, near=x_BNC,
        )  # fmt: skip
        return sums_SBKC, mass_SBK, lse_SB

    def _scatter(self, pulls: _Pulls, out_BNC: Tensor, *, gradient: bool = True, add: bool = False) -> None:
        """Write to `out`, or add there, the sum of z·a over the pulls, plus dl·w for a gradient."""
        x_BNC, (components, channels) = self._x_BNC, pulls.factors_PRBKC.shape[3:]
        images, positions, _ = x_BNC.shape
        blocks = choose_blocks(self._dtype, components, channels)
        with_dy, (dy_BNC, rows_BKC) = pulls.readout or (-1, (x_BNC, pulls.offset_RBK))
        launch(
            scatter, (triton.cdiv(positions, blocks.positions), triton.cdiv(channels, blocks.width), images),
            x_BNC, self._weights(), dy_BNC, rows_BKC, pulls.factors_PRBKC, pulls.bias_RBK, pulls.offset_RBK,
            out_BNC, positions, components, pulls.count, with_dy, pulls.factors_PRBKC.stride(0),
            *x_BNC.stride()[:2], *dy_BNC.stride()[:2], *out_BNC.stride()[:2],
            channels, gradient, pulls.readout is not None, self._weights_BN is not None, add, *blocks,
            near=x_BNC,
        )  # fmt: skip

    def _weights(self) -> Tensor:
        """What the kernels read as weights; nothing, where there are none."""
        return self._x_BNC if self._weights_BN is None else self._weights_BN


def _rows(x_BNC: Tensor) -> Tensor:
    """With the channels of a position side by side, as the kernels read them."""
    return x_BNC if x_BNC.stride(2) == 1 else x_BNC.contiguous()


def _row(channels: int) -> tuple[int, int]:
    """The channels of a row as one block, and of how many shares a program adds rows at a time."""
    return block(channels), max(1, min(16, 8192 // block(channels)))


def _programs(tensor: Tensor) -> int:
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count if tensor.is_cuda else 4
