"""Activation checkpointing of blocks with batch normalisation: less memory, the same numbers.

Shapes: those of the blocks.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def stage_maps(stages: Iterable[nn.Module], x: Tensor, recomputed: bool) -> tuple[Tensor, ...]:
    """Run stages in sequence and return the output of each; with ``recomputed``, run them by `recompute`."""
    maps: list[Tensor] = []
    for stage in stages:
        x = recompute(stage, x) if recomputed and torch.is_grad_enabled() else stage(x)
        maps.append(x)
    return tuple(maps)


def recompute(stage: nn.Module, x: Tensor) -> Tensor:
    """Run the blocks of a stage and keep only their inputs; the backward pass runs each block again.

    Output, gradients, running statistics and random numbers equal those of ``stage(x)``. In a compiled
    network the blocks run uncompiled.
    """
    for block in stage.children():
        x = _keep_input(block, x)
    return x


# torch.compile cannot trace the context of the second run, so the blocks stay uncompiled.
@torch.compiler.disable
def _keep_input(block: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _NotCounted(block)))


class _NotCounted(AbstractContextManager[None]):
    """Replaces the running statistics of a block's batch norms by copies, which the second run updates.

    Removing them instead would change which tensors a norm saves for backward, an error in checkpointing.
    """

    def __init__(self, block: nn.Module) -> None:
        self._norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        self._own: list[dict[str, Tensor]] = []

    def __enter__(self) -> None:
        self._own = [dict(norm.named_buffers()) for norm in self._norms]
        self._give([{name: buffer.clone() for name, buffer in own.items()} for own in self._own])

    def __exit__(self, *_: object) -> None:
        self._give(self._own)

    def _give(self, buffers: list[dict[str, Tensor]]) -> None:
        for norm, given in zip(self._norms, buffers, strict=True):
            for name, buffer in given.items():
                setattr(norm, name, buffer)
