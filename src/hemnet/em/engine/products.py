"""The batched matrix products of the engine "recompute".

Large ones on CPU in float32 run as 1x1 convolutions of oneDNN: it takes the bias into the product and uses
the widest vectors of any processor, where a BLAS may not (on a 2-core AMD EPYC it is about twice as fast
as torch.bmm). All others are batched matrix products.

Shape suffixes: B images, N positions, C channels, J rows of a factor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

# Multiplications per image from which a convolution beats torch.bmm, by the time it takes to set up.
WORTHWHILE = 20_000_000
# Positions per convolution: enough to be fast, few enough for its result to stay in the cache.
BLOCK = 2304


def affine(x_BNC: Tensor, w_BJC: Tensor, b_BJ: Tensor) -> Tensor:
    """x·w_j + b_j, (B, N, J), contiguous."""
    if not _convolves(x_BNC, w_BJC.shape[1]):
        return torch.baddbmm(b_BJ.unsqueeze(1), x_BNC, w_BJC.mT.contiguous())
    out_BNJ = x_BNC.new_empty(*x_BNC.shape[:2], w_BJC.shape[1])
    for out_NJ, x_NC, w_JC, b_J in zip(out_BNJ, x_BNC, w_BJC, b_BJ, strict=True):
        for out_nJ, x_nC in zip(_blocks(out_NJ), _blocks(x_NC), strict=True):
            out_nJ.copy_(_positions(F.conv2d(_image(x_nC), w_JC[:, :, None, None], b_J)))
    return out_BNJ


def combine(p_BNJ: Tensor, v_BJC: Tensor, out_BNC: Tensor, *, add: bool) -> None:
    """Write Σ_j p_nj v_j to `out`, or add it there."""
    if not _convolves(p_BNJ, v_BJC.shape[2]):
        torch.baddbmm(out_BNC, p_BNJ, v_BJC, beta=1 if add else 0, out=out_BNC)
        return
    for out_NC, p_NJ, v_JC in zip(out_BNC, p_BNJ, v_BJC, strict=True):
        for out_nC, p_nJ in zip(_blocks(out_NC), _blocks(p_NJ), strict=True):
            product_nC = _positions(F.conv2d(_image(p_nJ), v_JC.T[:, :, None, None]))
            if add:
                out_nC += product_nC
            else:
                out_nC.copy_(product_nC)


def gather(p_BNJ: Tensor, x_BNC: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_n p_nj x_n, (B, J, C), and Σ_n p_nj, (B, J)."""
    # Not the bias gradient of the convolution: that adds one by one, sum() in pairs, which is more exact.
    total_BJ = p_BNJ.sum(dim=1)
    if not _convolves(x_BNC, p_BNJ.shape[2]):
        return p_BNJ.mT @ x_BNC, total_BJ
    shape = (p_BNJ.shape[2], x_BNC.shape[2], 1, 1)
    gathered = [
        conv2d_weight(_image(x_NC), shape, _image(p_NJ))[:, :, 0, 0]
        for p_NJ, x_NC in zip(p_BNJ, x_BNC, strict=True)
    ]
    return torch.stack(gathered), total_BJ


def ready(x_BNC: Tensor) -> Tensor:
    """The features as the products like them: contiguous on a CPU."""
    return x_BNC.contiguous() if x_BNC.device.type == "cpu" else x_BNC


def _convolves(x_BNC: Tensor, rows: int) -> bool:
    return (
        x_BNC.dtype == torch.float32
        and x_BNC.device.type == "cpu"
        and x_BNC.shape[1] * x_BNC.shape[2] * rows >= WORTHWHILE
        and torch.backends.mkldnn.is_available()
    )


def _blocks(x_NC: Tensor) -> tuple[Tensor, ...]:
    return x_NC.tensor_split(-(-len(x_NC) // BLOCK))


def _image(x_NC: Tensor) -> Tensor:
    # (1, C, N, 1), a view. The new dimensions must be put in before C for the strides to be channels-last.
    return x_NC[None, :, None, :].permute(0, 3, 1, 2)


def _positions(y_1CN1: Tensor) -> Tensor:
    return y_1CN1[0, :, :, 0].T
