"""The batched matrix products of the engine "recompute", and the softmax between them.

Features are used as they lie in memory, without a copy: by position, as in channels-last images, or by
channel, as in images that are contiguous. What is computed from them, (B, N, J), lies alike. Each product is
a·bᵀ of two matrices with rows next to each other; for features by channel the two factors are swapped.

Large products in float32 on a CPU run in one of two libraries, the faster of the machine at hand: the BLAS of
torch.bmm (MKL runs near the peak of Intel's processors), or oneDNN, which uses the widest vectors of any
processor (on an AMD EPYC it is up to twice as fast as MKL).

Shape suffixes: B images, N positions, C channels, J rows of a factor.
"""

import time
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Library = Literal["torch.bmm", "oneDNN"]

# Multiplications per image from which a call for each image costs little beside the product itself.
LARGE = 2_000_000
# Channels from which oneDNN is worth it where it must first turn the factor of a sum over positions around.
TURNED = 128
# oneDNN is taken only where it is faster by this factor. Where it is faster, it is so by 1.5 and more, so a
# machine makes the same choice, and computes the same bits, in every process, however busy it is.
MARGIN = 1.25
ROUNDS = 12


def affine(x_BNC: Tensor, *factors: tuple[Tensor, Tensor | None]) -> list[Tensor]:
    """x·w_j + b_j, (B, N, J), laid out like x, for each pair of w (B, J, C) and b (B, J), or no b."""
    outs = [empty_like(x_BNC, w_BJC.shape[1]) for w_BJC, _ in factors]
    if _library(x_BNC, factors[0][0].shape[1]) != "oneDNN":
        for out_BNJ, (w_BJC, b_BJ) in zip(outs, factors, strict=True):
            if b_BJ is not None:
                out_BNJ.copy_(b_BJ.unsqueeze(1))
            multiply([(x_BNC, w_BJC)], out_BNJ, add=b_BJ is not None)
        return outs
    # One product for all of them: more rows are multiplied at a higher rate.
    by_channel, w_BJC = is_by_channel(x_BNC), torch.cat([w for w, _ in factors], dim=1)
    sizes = [out.shape[2] for out in outs]
    for image, (x_NC, w_JC) in enumerate(zip(x_BNC, w_BJC, strict=True)):
        product_NJ = _inner(w_JC, x_NC).T if by_channel else _inner(x_NC, w_JC)
        for out_BNJ, part_NJ, (_, b_BJ) in zip(outs, product_NJ.split(sizes, dim=1), factors, strict=True):
            if b_BJ is None:
                out_BNJ[image].copy_(part_NJ)
            else:
                torch.add(part_NJ, b_BJ[image], out=out_BNJ[image])
    return outs


def multiply(parts: Sequence[tuple[Tensor, Tensor]], out_BNM: Tensor, *, add: bool) -> None:
    """Write to `out` the sum over parts (p, w), (B, N, J) and (B, M, J), of Σ_j p_nj w_mj, or add it there.

    All p are laid out like `out`.
    """
    by_channel = is_by_channel(out_BNM)
    if _library(out_BNM, parts[0][0].shape[2]) != "oneDNN":
        for p_BNJ, w_BMJ in parts:
            # A BLAS is faster where the small factor is contiguous as it is multiplied.
            if by_channel:
                a, b, out = w_BMJ.contiguous(), p_BNJ.mT, out_BNM.mT
            else:
                a, b, out = p_BNJ, w_BMJ.mT.contiguous(), out_BNM
            torch.baddbmm(out, a, b, beta=1 if add else 0, out=out)
            add = True
        return
    # As one product, which reads and writes `out` once; image by image, since its factor may be a copy.
    w_BMJ = torch.cat([w for _, w in parts], dim=2)
    for image, (out_NM, w_MJ) in enumerate(zip(out_BNM, w_BMJ, strict=True)):
        p_NJ = _beside([p_BNJ[image] for p_BNJ, _ in parts], by_channel)
        a, b, out = (w_MJ, p_NJ, out_NM.T) if by_channel else (p_NJ, w_MJ, out_NM)
        if add:
            out += _inner(a, b)
        else:
            out.copy_(_inner(a, b))


def gather(p_BNJ: Tensor, x_BNC: Tensor) -> Tensor:
    """Σ_n p_nj x_n, (B, J, C), of p that is laid out like x."""
    by_channel = is_by_channel(x_BNC)
    if _library(x_BNC, p_BNJ.shape[2]) == "oneDNN":
        pairs = zip(p_BNJ, x_BNC, strict=True)
        if by_channel:
            return torch.stack([_inner(x_NC.T, p_NJ.T).T for p_NJ, x_NC in pairs])
        if x_BNC.shape[2] >= TURNED:
            return torch.stack([_inner(p_NJ.T.contiguous(), x_NC.T) for p_NJ, x_NC in pairs])
    if by_channel:
        return torch.bmm(x_BNC.mT, p_BNJ).mT.contiguous()
    return torch.bmm(p_BNJ.mT, x_BNC)


def softmax_(logits_BNJ: Tensor) -> Tensor:
    """Softmax over J, in place."""
    turned, dim = _rows_last(logits_BNJ)
    torch.softmax(turned, dim, out=turned)
    return logits_BNJ


def softmax_vjp_(dz_BNJ: Tensor, z_BNJ: Tensor) -> Tensor:
    """z∘(dz - Σ_j z∘dz), the gradient to the logits of z = softmax, in place of dz; z is laid out like it."""
    turned, dim = _rows_last(dz_BNJ)
    z = z_BNJ if dim == 2 else z_BNJ.mT
    # In place: each position needs nothing but its own row.
    torch.ops.aten._softmax_backward_data.out(turned, z, dim, z.dtype, grad_input=turned)
    return dz_BNJ


def is_by_channel(x_BNC: Tensor) -> bool:
    """Whether the features of an image lie channel after channel instead of position after position."""
    return not x_BNC.is_contiguous() and x_BNC.mT.is_contiguous()


def ready(x_BNC: Tensor, by_channel: bool | None = None) -> Tensor:
    """The features laid out in one of the two ways; as they are where they can be, if it does not matter."""
    if by_channel is None:
        by_channel = is_by_channel(x_BNC)
    return x_BNC.mT.contiguous().mT if by_channel else x_BNC.contiguous()


def empty_like(x_BNC: Tensor, rows: int) -> Tensor:
    """An empty (B, N, J) laid out like x."""
    images, positions, _ = x_BNC.shape
    if is_by_channel(x_BNC):
        return x_BNC.new_empty(images, rows, positions).mT
    return x_BNC.new_empty(images, positions, rows)


def has_onednn() -> bool:
    """Whether this PyTorch can multiply by oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def library(threads: int) -> Library:
    """Return the faster library for large float32 products on this processor, by trying both: about 10 ms.

    Args:
        threads: how many threads PyTorch uses, for which the answer holds.
    """
    if not has_onednn():
        return "torch.bmm"
    x_NC, w_JC = (torch.ones(rows, 256, dtype=torch.float32, device="cpu") for rows in (2048, 64))
    ways = {"torch.bmm": lambda: torch.mm(x_NC, w_JC.T), "oneDNN": lambda: _inner(x_NC, w_JC)}
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return "oneDNN" if MARGIN * seconds["oneDNN"] < seconds["torch.bmm"] else "torch.bmm"


def _library(x_BNC: Tensor, rows: int) -> Library:
    if x_BNC.dtype != torch.float32 or x_BNC.device.type != "cpu" or not _is_large(x_BNC, rows):
        return "torch.bmm"
    if torch.are_deterministic_algorithms_enabled():
        # A choice by timing may, if hardly ever, differ between two runs.
        return "oneDNN" if has_onednn() else "torch.bmm"
    return library(torch.get_num_threads())


def _is_large(x_BNC: Tensor, rows: int) -> bool:
    return x_BNC.shape[1] * x_BNC.shape[2] * rows >= LARGE


def _inner(a: Tensor, b: Tensor) -> Tensor:
    # a·bᵀ by oneDNN's inner product, for which F.linear has no way to ask. Both must be dense, by rows or by
    # columns: for a block cut out of a matrix by columns it has no fast code.
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _beside(parts: list[Tensor], by_channel: bool) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.T for part in parts]).T if by_channel else torch.cat(parts, dim=1)


def _rows_last(p_BNJ: Tensor) -> tuple[Tensor, int]:
    # Contiguous as torch.softmax wants it, and the dimension of the rows there.
    return (p_BNJ.mT, 1) if is_by_channel(p_BNJ) else (p_BNJ, 2)
