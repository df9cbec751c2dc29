"""The autograd Function behind gradient mode `Unrolled`: exact, in bounded memory.

The forward pass keeps the features, K·C numbers per iteration and, within a budget, the responsibilities
of the last iterations; the backward pass recomputes the rest, one iteration at a time. Where even the means
would exceed the budget (many iterations on few positions), only every √T-th is kept, and the backward pass
recomputes those between.

Shape suffixes: B images, N positions, C channels, K components, T iterations, R rows of a trajectory's
tail, S kept means, U iterations whose responsibilities are kept, Q the two quantities of `GradientFlow`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hemnet.em.engine.reference import plain_unroll, zero_length_where_stopped
from hemnet.em.gradient.backward import History
from hemnet.em.gradient.operators import em_backward, em_forward
from hemnet.em.options import Options


class UnrolledFunction(torch.autograd.Function):
    """`em_forward` with `em_backward` as its gradient.

    Under create_graph the backward pass differentiates the engine "reference" instead, so second
    derivatives are right, at its price in memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BNC: Tensor,
        mu_BKC: Tensor,
        scale_TB: Tensor,
        weights_BN: Tensor | None,
        options: Options,
        rows: int,
        keep: float,
        flow_QTB: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, the last `rows` means, and the iterations each image took."""
        kept = what_is_kept(x_BNC, mu_BKC, len(scale_TB), options, keep)
        y_BNC, tail_RBKC, kept_SBKC, mass_TBK, length_TBK, z_UBNK, count_B = em_forward(
            x_BNC, weights_BN, mu_BKC, scale_TB, options,
            rows=rows, stride=kept.stride, kept_steps=kept.steps,
        )  # fmt: skip
        ctx.save_for_backward(
            x_BNC, weights_BN, mu_BKC,
            kept_SBKC, mass_TBK, length_TBK, scale_TB, count_B, tail_RBKC[-1], *z_UBNK,
        )  # fmt: skip
        ctx.options, ctx.rows, ctx.stride, ctx.flow_QTB = options, rows, kept.stride, flow_QTB
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(count_B)
        return y_BNC, tail_RBKC, count_B

    @staticmethod
    def backward(
        ctx: Any, dy_BNC: Tensor | None, dtail_RBKC: Tensor | None, _: None = None
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients to x, mu and the scale."""
        x_BNC, weights_BN, mu_BKC, *kept = ctx.saved_tensors
        history = History._make((*kept[:6], kept[6:], ctx.stride))
        nothing = (None,) * 5
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            return *_plain_vjp(ctx, x_BNC, weights_BN, mu_BKC, history, dy_BNC, dtail_RBKC), *nothing
        dx_BNC, dmu_BKC, dscale_TB, flow_QTB = em_backward(
            x_BNC,
            weights_BN,
            history,
            ctx.options,
            dy_BNC,
            dtail_RBKC,
            to_features=ctx.needs_input_grad[0],
            to_scale=ctx.needs_input_grad[2],
            record=ctx.flow_QTB is not None,
        )
        if ctx.flow_QTB is not None:
            ctx.flow_QTB.copy_(flow_QTB)
        return dx_BNC if ctx.needs_input_grad[0] else None, dmu_BKC, dscale_TB, *nothing


def _plain_vjp(
    ctx: Any,
    x_BNC: Tensor,
    weights_BN: Tensor | None,
    mu_BKC: Tensor,
    history: History,
    dy_BNC: Tensor | None,
    dtail_RBKC: Tensor | None,
) -> list[Tensor | None]:
    inputs = x_BNC, mu_BKC, history.scale_TB
    scale_TB = zero_length_where_stopped(history.scale_TB, history.count_B)
    y_BNC, means = plain_unroll(x_BNC.to(mu_BKC.dtype), weights_BN, mu_BKC, scale_TB, ctx.options)
    outputs = [(y_BNC.to(x_BNC.dtype), dy_BNC), (torch.stack(means[-ctx.rows :]), dtail_RBKC)]
    given = [(out, grad) for out, grad in outputs if grad is not None]
    wanted = [tensor for tensor, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in given],
            wanted,
            [grad for _, grad in given],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


class Kept(NamedTuple):
    """What a forward pass keeps: every `stride`-th of the means, the responsibilities of the last `steps`."""

    stride: int
    steps: int


def what_is_kept(x_BNC: Tensor, mu_BKC: Tensor, iterations: int, options: Options, keep: float) -> Kept:
    """How much fits into `keep` times the bytes of the features: all means first, then responsibilities.

    The engine "triton" never has any responsibilities to keep; and where images stop early, the last
    iterations are not known beforehand.
    """
    positions, channels = x_BNC.shape[1:]
    row = mu_BKC.shape[1] * mu_BKC.element_size()  # bytes of the responsibilities of a position
    budget = keep * positions * channels * x_BNC.element_size() - iterations * row * channels
    if iterations > 1 and budget < 0:
        return Kept(math.isqrt(iterations - 1) + 1, 0)
    steps = 0
    if options.engine == "recompute" and options.tolerance is None:
        # Counted up, not divided: under torch.compile a range of sizes then has one graph.
        while steps < iterations and (steps + 1) * row * positions <= budget:
            steps += 1
    return Kept(1, steps)
