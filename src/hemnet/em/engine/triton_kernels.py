"""The two Triton kernels behind `hemnet.em.engine.triton_passes`.

`gather` sums over positions, p^T v with p = z (the E-step) or p = dl (its gradient); `scatter` goes back to
positions, z·a + dl·w. A program of `gather` owns a share of the positions of one image and writes its partial
sums apart; a sum over the shares follows. So there are no atomics, and with the one choice of blocks of
`hemnet.em.engine.triton_launch` the same features give the same bits every time.

Precision: sums are float32. bfloat16 features are multiplied on tensor cores in bfloat16, with the factors of
the logits in two parts, w = high + low, so logits are as good as with a float32 w; z and dl are rounded
before they weight features, and what they sum to is taken after rounding. All other features are multiplied
as float32, each product as three of TF32 ("tf32x3"): on tensor cores, at an error near that of float32,
where "ieee" would leave them idle and plain "tf32" keeps 10 bits. float16 goes that way for its range:
gradients divided by a mass underflow in it.

The channels of a position lie side by side.

Shape suffixes: N positions, K components, C channels, all of one block; 1 is a dimension to broadcast.
"""

import os

import triton
import triton.language as tl

# Read by Triton itself when the kernels below are defined: run them on the CPU, slowly, for tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# For bfloat16 the interpreter multiplies the bits and truncates: then the helpers say what the device does.
EMULATED = tl.constexpr(INTERPRETED)


@triton.jit
def _tile(row_R1, in_R1, first, C: tl.constexpr, COLUMNS: tl.constexpr):
    """Columns from `first` on of the rows at the given pointers; 0 outside."""
    c_1C = first + tl.arange(0, COLUMNS)[None, :]
    return tl.load(row_R1 + c_1C, mask=in_R1 & (c_1C < C), other=0.0)


@triton.jit
def _weights(v_N1, in_N1, BLOCK_N: tl.constexpr, WEIGHTED: tl.constexpr):
    """Weights of the positions at the given pointers; 1 where there are none."""
    if WEIGHTED:
        return tl.load(v_N1, mask=in_N1, other=0.0)
    return tl.full([BLOCK_N, 1], 1.0, tl.float32)


@triton.jit
def _dot(p, q, total):
    """Return total + p q."""
    if EMULATED:
        p, q = p.to(tl.float32), q.to(tl.float32)
    return tl.dot(p, q, total, input_precision="tf32x3")


@triton.jit
def round_to(p, dtype: tl.constexpr):
    """Float32 p in another type, to the nearest."""
    if EMULATED and dtype == tl.bfloat16:
        bits = p.to(tl.uint32, bitcast=True)
        p = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return p.to(dtype)


@triton.jit
def _products(v_N1, in_N1, w_K1, in_K1, p_NK, end, C: tl.constexpr, STEP: tl.constexpr):
    """Add to p what v·w_k gives over the channels before `end`."""
    for first in tl.range(0, end, STEP):
        w_KC = _tile(w_K1, in_K1, first, C, STEP)
        v_NC = _tile(v_N1, in_N1, first, C, STEP).to(w_KC.dtype)
        p_NK = _dot(v_NC, tl.trans(w_KC), p_NK)
    return p_NK


@triton.jit
def _add_channels(
    l_NK, dz_NK, x_N1, in_N1, f_K1, part, in_K1, first,
    C: tl.constexpr, STEP: tl.constexpr, PULL: tl.constexpr,
):  # fmt: skip
    """Add to logits and dz what the STEP channels from `first` on give, from one tile of features."""
    w_KC = _tile(f_K1, in_K1, first, C, STEP)
    x_NC = _tile(x_N1, in_N1, first, C, STEP).to(w_KC.dtype)
    l_NK = _dot(x_NC, tl.trans(w_KC), l_NK)
    if w_KC.dtype == tl.bfloat16:
        low_KC = _tile(f_K1 + 2 * part, in_K1, first, C, STEP)
        l_NK = _dot(x_NC, tl.trans(low_KC), l_NK)
    if PULL:
        a_KC = _tile(f_K1 + part, in_K1, first, C, STEP)
        dz_NK = _dot(x_NC, tl.trans(a_KC), dz_NK)
    return l_NK, dz_NK


@triton.jit
def _e_step(
    x_N1, in_N1, f_K1, part, bias_K, offset_K, in_K1, dy_N1, rows_K1, dy_end, v_N1,
    C: tl.constexpr, STEP: tl.constexpr, PULL: tl.constexpr, DY: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return z, its pulled gradient dl, both 0 outside the image, and the log normalizer of each position.

    The weights v of the positions count in dl alone.
    """
    l_NK = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    dz_NK = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    if C <= STEP:
        l_NK, dz_NK = _add_channels(l_NK, dz_NK, x_N1, in_N1, f_K1, part, in_K1, 0, C, STEP, PULL)
    else:
        for first in tl.range(0, C, STEP):
            l_NK, dz_NK = _add_channels(l_NK, dz_NK, x_N1, in_N1, f_K1, part, in_K1, first, C, STEP, PULL)
    l_NK += bias_K[None, :]
    top_N = tl.max(l_NK, axis=1)
    z_NK = tl.exp(l_NK - top_N[:, None])
    total_N = tl.sum(z_NK, axis=1)
    z_NK = tl.where(in_N1, z_NK / total_N[:, None], 0.0)
    if PULL:
        dz_NK = v_N1 * (dz_NK - offset_K[None, :])
        if DY:
            dz_NK = _products(dy_N1, in_N1, rows_K1, in_K1, dz_NK, dy_end, C, STEP)
        dz_NK = z_NK * (dz_NK - tl.sum(z_NK * dz_NK, axis=1)[:, None])
    return z_NK, dz_NK, top_N + tl.log(total_N)


# A form of the kernel for each special value of these numbers would be compiled, to no gain.
@triton.jit(do_not_specialize=["N", "K"])
def gather(
    x_ptr, v_ptr, dy_ptr, rows_ptr, f_ptr, bias_ptr, offset_ptr, sums_ptr, mass_ptr, lse_ptr,
    N, K, part, x_b, x_n, dy_b, dy_n,
    C: tl.constexpr, PULL: tl.constexpr, DY: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_K: tl.constexpr, OUT_C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums over a share of the positions: z^T x, or z^T dy (DY), or dl^T x (PULL), and of z or dl alone.

    For WEIGHTED positions z counts by its weight in z^T x, and so does the log normalizer.
    """
    STEP: tl.constexpr = BLOCK_C if BLOCK_C < OUT_C else OUT_C
    share, b = tl.program_id(0), tl.program_id(2)
    # A constant where it can be: the compiler then sees that one tile of features serves both products.
    block = tl.program_id(1) * OUT_C if C > OUT_C else 0
    shares, images = tl.num_programs(0), tl.num_programs(2)
    k_K = tl.arange(0, BLOCK_K)
    k_K1 = k_K[:, None]
    in_K1 = k_K1 < K
    factor = b * K * C + k_K1 * C
    bias_K = tl.load(bias_ptr + b * K + k_K, mask=k_K < K, other=float("-inf"))
    offset_K = tl.load(offset_ptr + b * K + k_K, mask=k_K < K, other=0.0)
    image = x_ptr + b.to(tl.int64) * x_b
    dy_image = dy_ptr + b.to(tl.int64) * dy_b
    sums_KC = tl.zeros([BLOCK_K, OUT_C], tl.float32)
    mass_K = tl.zeros([BLOCK_K], tl.float32)
    lse_N = tl.zeros([BLOCK_N], tl.float32)
    for first in tl.range(share * BLOCK_N, N, shares * BLOCK_N):
        n_N = first + tl.arange(0, BLOCK_N)
        n_N1 = n_N[:, None]
        in_N1 = n_N1 < N
        x_N1, dy_N1 = image + n_N1 * x_n, dy_image + n_N1 * dy_n
        v_N1 = _weights(v_ptr + b * N + n_N1, in_N1, BLOCK_N, WEIGHTED)
        p_NK, dl_NK, log_N = _e_step(
            x_N1, in_N1, f_ptr + factor, part, bias_K, offset_K, in_K1,
            dy_N1, rows_ptr + factor, C, v_N1, C, STEP, PULL, DY, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        if PULL:
            p_NK = dl_NK
        elif not DY:
            p_NK = v_N1 * p_NK
        if DY and not PULL:
            value_NC = _tile(dy_N1, in_N1, block, C, OUT_C)
        else:
            value_NC = _tile(x_N1, in_N1, block, C, OUT_C)
        # Rounded before the weights are summed, so that a mean stays a convex combination.
        q_NK = round_to(p_NK, f_ptr.dtype.element_ty)
        sums_KC = _dot(tl.trans(q_NK), value_NC.to(q_NK.dtype), sums_KC)
        mass_K += tl.sum(q_NK.to(tl.float32), axis=0)
        lse_N += tl.where(n_N < N, log_N * tl.sum(v_N1, axis=1), 0.0)
    row = share * images + b
    c_1C = block + tl.arange(0, OUT_C)[None, :]
    tl.store(sums_ptr + (row * K + k_K1) * C + c_1C, sums_KC, mask=in_K1 & (c_1C < C))
    # Every program of a share has the same of these; all write it.
    tl.store(mass_ptr + row * K + k_K, mass_K, mask=k_K < K)
    tl.store(lse_ptr + row, tl.sum(lse_N, axis=0))


@triton.jit(do_not_specialize=["N", "K", "R", "with_dy"])
def scatter(
    x_ptr, v_ptr, dy_ptr, rows_ptr, f_ptr, bias_ptr, offset_ptr, out_ptr,
    N, K, R, with_dy, part, x_b, x_n, dy_b, dy_n, out_b, out_n,
    C: tl.constexpr, PULL: tl.constexpr, DY: tl.constexpr, WEIGHTED: tl.constexpr, ADD: tl.constexpr,
    BLOCK_K: tl.constexpr, OUT_C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Block of z·a, plus dl·w for PULL, summed over R pulls, the one at `with_dy` with a readout.

    For PULL the z of WEIGHTED positions counts by its weight. With ADD the sum starts from what `out` holds.
    """
    STEP: tl.constexpr = BLOCK_C if BLOCK_C < OUT_C else OUT_C
    tile, b = tl.program_id(0), tl.program_id(2)
    block = tl.program_id(1) * OUT_C if C > OUT_C else 0
    images = tl.num_programs(2)
    k_K = tl.arange(0, BLOCK_K)
    in_K1 = k_K[:, None] < K
    n_N1 = tile * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    in_N1 = n_N1 < N
    x_N1 = x_ptr + b.to(tl.int64) * x_b + n_N1 * x_n
    dy_N1 = dy_ptr + b.to(tl.int64) * dy_b + n_N1 * dy_n
    rows_K1 = rows_ptr + (b * K + k_K[:, None]) * C
    v_N1 = _weights(v_ptr + b * N + n_N1, in_N1, BLOCK_N, WEIGHTED)
    c_1C = block + tl.arange(0, OUT_C)[None, :]
    out_NC = out_ptr + b.to(tl.int64) * out_b + n_N1 * out_n + c_1C
    in_NC = in_N1 & (c_1C < C)
    sum_NC = tl.zeros([BLOCK_N, OUT_C], tl.float32)
    if ADD:
        sum_NC += tl.load(out_NC, mask=in_NC, other=0.0).to(tl.float32)
    for r in range(R):
        k_BK = (r * images + b) * K + k_K
        factor = k_BK[:, None] * C
        bias_K = tl.load(bias_ptr + k_BK, mask=k_K < K, other=float("-inf"))
        offset_K = tl.load(offset_ptr + k_BK, mask=k_K < K, other=0.0)
        dy_end = tl.where(r == with_dy, C, 0)
        z_NK, dl_NK, _ = _e_step(
            x_N1, in_N1, f_ptr + factor, part, bias_K, offset_K, in_K1,
            dy_N1, rows_K1, dy_end, v_N1, C, STEP, PULL, DY, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        if PULL:
            z_NK = v_N1 * z_NK
        # z·a, then dl·w: in a loop, because two such products in a row take too many registers.
        for second in tl.range(0, 2 if PULL else 1, num_stages=1):
            p_NK = tl.where(second == 0, z_NK, dl_NK)
            f_KC = _tile(f_ptr + factor + (1 - second) * part, in_K1, block, C, OUT_C)
            sum_NC = _dot(round_to(p_NK, f_KC.dtype), f_KC, sum_NC)
    tl.store(out_NC, round_to(sum_NC, out_ptr.dtype.element_ty), mask=in_NC)
