"""What surrounds a call: transforms of `torch.func`, forward-mode differentiation, or an exporter.

All three need plain torch operators: they cannot look into the operators of `hemnet.em.gradient.operators`.
torch has no public way to ask for the first two, so its private names are used here and nowhere else.

Shape suffixes: B images, K components, C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

P = ParamSpec("P")
R = TypeVar("R")


def needs_plain_operators(*tensors: Tensor) -> str | None:
    """Return what is at work that takes plain torch operators only, in words, or None.

    Args:
        tensors: the inputs of the call; one with a tangent means forward-mode differentiation.
    """
    if is_exporting():
        return "an export"
    if _transforming():
        return "a transform of torch.func"
    if not torch.compiler.is_compiling() and any(map(_has_tangent, tensors)):
        return "forward-mode differentiation"
    return None


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def outside_graph(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that `torch.compile` does not compile: it breaks its graph there.

    What a backward pass writes to, or calls, would be lost inside a compiled graph.
    """
    return torch.compiler.disable(function) if torch.compiler.is_compiling() else function


@contextmanager
def no_gradient() -> Iterator[None]:
    """As `torch.no_grad`, and for forward-mode differentiation too, which that does not stop."""
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        yield


def is_exporting() -> bool:
    """Whether `torch.export`, `torch.onnx.export` or `torch.jit.trace` is recording the call."""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def _transforming() -> bool:
    return torch._C._are_functorch_transforms_active()


def is_batched(tensor: Tensor) -> bool:
    """Whether `torch.func.vmap` maps over a tensor."""
    while _transforming() and _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def outside_transforms() -> AbstractContextManager:
    """Suspend the transforms of `torch.func`, inside which a module's own tensors cannot be changed."""
    return temporarily_clear_interpreter_stack() if _transforming() else nullcontext()


def all_examples(means_BKC: Tensor) -> Tensor:
    """Return a plain tensor (B, K, C) of all images, those of every example under `torch.func.vmap`."""
    while _transforming() and _functorch.is_functorch_wrapped_tensor(means_BKC):
        batch = _functorch.maybe_get_bdim(means_BKC) if _functorch.is_batchedtensor(means_BKC) else None
        means_BKC = _functorch.get_unwrapped(means_BKC)
        if batch is not None:
            means_BKC = means_BKC.movedim(batch, 0).flatten(0, 1)
    return means_BKC
