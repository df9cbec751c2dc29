"""Triton kernels for what lies between two passes over the features: K·C numbers per image.

As torch operations, an iteration would be some eighty launches of a few microseconds each, more time than its
passes take. `newton_step` ends an iteration; `factors` prepares a pass, and for one of the backward pass also
differentiates the end of the iteration; `add_back` ends an iteration of the backward pass.

The sums of a pass arrive in shares, see `hemnet.em.engine.triton_kernels`, and are added up here, always in
one order. The equations are those of `hemnet.em.gradient.step` and `hemnet.em.engine.passes.logit_factors`.

Shape suffixes: K components, C channels, S shares of the positions, R components of one program, all of one
block; 1 is a dimension to broadcast. A row is one component of one image.
"""

import triton
import triton.language as tl

from hemnet.em.engine.triton_kernels import round_to
from hemnet.em.functional import EMPTY_MASS, SHORTEST_MEAN

EMPTY = tl.constexpr(EMPTY_MASS)
SHORTEST = tl.constexpr(SHORTEST_MEAN)


@triton.jit
def _sum_of_rows(sums_ptr, row, rows, shares, C: tl.constexpr, ROW_C: tl.constexpr, BLOCK_S: tl.constexpr):
    """Sum of a row of C numbers over the shares."""
    c_1C = tl.arange(0, ROW_C)[None, :]
    total_C = tl.zeros([ROW_C], tl.float32)
    for first in tl.range(0, shares, BLOCK_S):
        s_S1 = first + tl.arange(0, BLOCK_S)[:, None]
        place_SC = (s_S1.to(tl.int64) * rows + row) * C + c_1C
        total_C += tl.sum(tl.load(sums_ptr + place_SC, mask=(s_S1 < shares) & (c_1C < C), other=0.0), axis=0)
    return total_C


@triton.jit
def _sum_of_numbers(mass_ptr, row, rows, shares, BLOCK_S: tl.constexpr):
    """Sum of one number over the shares."""
    total_S = tl.zeros([BLOCK_S], tl.float32)
    for first in tl.range(0, shares, BLOCK_S):
        s_S = first + tl.arange(0, BLOCK_S)
        total_S += tl.load(mass_ptr + s_S * rows + row, mask=s_S < shares, other=0.0)
    return tl.sum(total_S, axis=0)


@triton.jit(do_not_specialize=["shares", "K", "h_b"])
def newton_step(
    sums_ptr, mass_ptr, mu_ptr, h_ptr, next_ptr, total_ptr, length_ptr, shares, K, h_b,
    C: tl.constexpr, UNIT: tl.constexpr, ROW_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Eqs (2) and (3), and normalisation for UNIT: the means after an iteration, N_k and their divisors."""
    b, rows = tl.program_id(1), tl.num_programs(1) * K
    row = b * K + tl.program_id(0)
    c_C = tl.arange(0, ROW_C)
    mass = _sum_of_numbers(mass_ptr, row, rows, shares, BLOCK_S)
    sums_C = _sum_of_rows(sums_ptr, row, rows, shares, C, ROW_C, BLOCK_S)
    h = tl.load(h_ptr + b * h_b)
    mu_C = tl.load(mu_ptr + row * C + c_C, mask=c_C < C, other=0.0)
    # Not the negation of ">": a NaN mass must reach the result, not pass for an empty component.
    empty = mass <= EMPTY
    m_C = sums_C / tl.where(empty, 1.0, mass)
    next_C = tl.where(empty, mu_C, h * mu_C + (1 - h) * m_C)
    length = tl.full([], 1.0, tl.float32)
    if UNIT:
        length = tl.sqrt(tl.sum(next_C * next_C, axis=0))
        length = tl.where(length < SHORTEST, SHORTEST, length)
        next_C = next_C / length
    tl.store(next_ptr + row * C + c_C, next_C, mask=c_C < C)
    tl.store(total_ptr + row, mass)
    tl.store(length_ptr + row, length)


@triton.jit
def _pull_step(
    mu_RC, row_R, in_R, in_RC, place_RC, b,
    d_ptr, next_ptr, mass_ptr, length_ptr, h_ptr, moving_ptr, back_ptr, slope_ptr, h_b, UNIT: tl.constexpr,
):  # fmt: skip
    """The gradient to the sums, a and its offset; also what reaches the means and h without the E-step."""
    moving = tl.load(moving_ptr + b) != 0
    h = tl.where(moving, tl.load(h_ptr + b * h_b), 1.0)
    d_RC = tl.load(d_ptr + place_RC, mask=in_RC, other=0.0)
    next_RC = tl.load(next_ptr + place_RC, mask=in_RC, other=0.0)
    mass_R = tl.load(mass_ptr + row_R, mask=in_R, other=1.0)
    if UNIT:
        length_R1 = tl.load(length_ptr + row_R, mask=in_R, other=1.0)[:, None]
        along_RC = tl.where(length_R1 > SHORTEST, next_RC, 0.0)
        tangent_RC = d_RC - along_RC * tl.sum(along_RC * d_RC, axis=1)[:, None]
        d_RC = tl.where(moving, tangent_RC / length_R1, d_RC)
        next_RC = next_RC * length_R1
    still_R = (mass_R <= EMPTY) | (moving == 0)
    inverse_R = tl.where(still_R, 0.0, 1 / tl.where(still_R, 1.0, mass_R))
    a_RC = (1 - h) * d_RC * inverse_R[:, None]
    offset_R = tl.sum(d_RC * (next_RC - h * mu_RC), axis=1) * inverse_R
    slope_R = tl.sum(d_RC * (mu_RC - next_RC), axis=1) / tl.where(h == 1, 1.0, 1 - h)
    tl.store(back_ptr + place_RC, tl.where(still_R[:, None], d_RC, h * d_RC), mask=in_RC)
    tl.store(slope_ptr + row_R, tl.where(still_R, 0.0, slope_R), mask=in_R)
    return a_RC, offset_R


@triton.jit(do_not_specialize=["K", "h_b"])
def factors(
    mu_ptr, a_ptr, offset_ptr, d_ptr, next_ptr, mass_ptr, length_ptr, h_ptr, moving_ptr, back_ptr, slope_ptr,
    f_ptr, bias_ptr, out_ptr, K, part, h_b, variance,
    C: tl.constexpr, GAUSSIAN: tl.constexpr, UNIT: tl.constexpr, STEP: tl.constexpr, A: tl.constexpr,
    OFFSET: tl.constexpr, ROWS: tl.constexpr, ROW_C: tl.constexpr,
):  # fmt: skip
    """Write the factors of a pass: w and its bias, for A or STEP also a, for OFFSET or STEP also its offset.

    Those of a are given, or for STEP made from the gradient d to the means after an iteration.
    """
    b = tl.program_id(1)
    k_R = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c_1C = tl.arange(0, ROW_C)[None, :]
    row_R, in_R = b * K + k_R, k_R < K
    place_RC, in_RC = row_R[:, None] * C + c_1C, in_R[:, None] & (c_1C < C)
    centre_C = tl.zeros([ROW_C], tl.float32)
    for first in tl.range(0, K, ROWS):
        k_R1 = first + tl.arange(0, ROWS)[:, None]
        these_RC = tl.load(mu_ptr + (b * K + k_R1) * C + c_1C, mask=(k_R1 < K) & (c_1C < C), other=0.0)
        centre_C += tl.sum(these_RC, axis=0)
    centre_1C = centre_C[None, :] / K
    mu_RC = tl.load(mu_ptr + place_RC, mask=in_RC, other=0.0)
    w_RC = (mu_RC - centre_1C) / variance
    high_RC = round_to(w_RC, f_ptr.dtype.element_ty)
    tl.store(f_ptr + place_RC, high_RC, mask=in_RC)
    if f_ptr.dtype.element_ty == tl.bfloat16:
        low_RC = round_to(w_RC - high_RC.to(tl.float32), tl.bfloat16)
        tl.store(f_ptr + 2 * part + place_RC, low_RC, mask=in_RC)
    bias_R = tl.zeros([ROWS], tl.float32)
    if GAUSSIAN:
        bias_R = -0.5 * tl.sum(tl.where(in_RC, w_RC * (mu_RC + centre_1C), 0.0), axis=1)
    tl.store(bias_ptr + row_R, bias_R, mask=in_R)
    if STEP:
        a_RC, offset_R = _pull_step(
            mu_RC, row_R, in_R, in_RC, place_RC, b,
            d_ptr, next_ptr, mass_ptr, length_ptr, h_ptr, moving_ptr, back_ptr, slope_ptr, h_b, UNIT,
        )  # fmt: skip
    elif A:
        a_RC = tl.load(a_ptr + place_RC, mask=in_RC, other=0.0)
        if OFFSET:
            offset_R = tl.load(offset_ptr + row_R, mask=in_R, other=0.0)
    if STEP or A:
        near_RC = round_to(a_RC, f_ptr.dtype.element_ty)
        tl.store(f_ptr + part + place_RC, near_RC, mask=in_RC)
        if STEP or OFFSET:
            # With this the rounding of a costs dz in proportion to |x - mu| rather than to |x|.
            offset_R += tl.sum((near_RC.to(tl.float32) - a_RC) * mu_RC, axis=1)
            tl.store(out_ptr + row_R, offset_R, mask=in_R)


@triton.jit(do_not_specialize=["shares", "K"])
def add_back(
    sums_ptr, mass_ptr, mu_ptr, back_ptr, shares, K, variance,
    C: tl.constexpr, GAUSSIAN: tl.constexpr, ROW_C: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Add to the gradient of the means what a pass brought back through the E-step."""
    b, rows = tl.program_id(1), tl.num_programs(1) * K
    row = b * K + tl.program_id(0)
    c_C = tl.arange(0, ROW_C)
    back_C = tl.load(back_ptr + row * C + c_C, mask=c_C < C, other=0.0)
    back_C += _sum_of_rows(sums_ptr, row, rows, shares, C, ROW_C, BLOCK_S) / variance
    if GAUSSIAN:
        mu_C = tl.load(mu_ptr + row * C + c_C, mask=c_C < C, other=0.0)
        back_C -= _sum_of_numbers(mass_ptr, row, rows, shares, BLOCK_S) / variance * mu_C
    tl.store(back_ptr + row * C + c_C, back_C, mask=c_C < C)
