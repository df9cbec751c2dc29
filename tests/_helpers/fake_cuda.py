"""CUDA tensors without a GPU: fake ones, and the launches of Triton kernels noted instead of made."""

import ctypes
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hemnet.em.engine import choose
from hemnet.em.gradient import operators

MULTIPROCESSORS = 132  # of an H100
# torch's numbers of device types.
CUDA, META = 1, 14
# Operations beside views that launch nothing.
QUIET = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view",
    "device", "promote_types",
}  # fmt: skip


SOURCE = "/src/hemnet/"
# What an operation whose result depends on numbers of the device gives here.
STANDS_FOR: dict[str, Any] = {
    "_local_scalar_dense": lambda _: 1,
    "bincount": lambda values, _, least: torch.empty(least, dtype=torch.int64, device=values.device),
    "index": lambda values, masks: values.flatten(0, masks[0].ndim - 1),
}


class Launch(NamedTuple):
    """One launch of a kernel: its arguments, and its grid and number of warps."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    warps: int

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def constants(self) -> dict[str, Any]:
        """What the kernel is compiled for: its parameters in capitals of more than one letter."""
        named = zip(self.kernel.arg_names, self.arguments, strict=True)
        return {name: value for name, value in named if name.isupper() and name not in ("N", "K", "R")}


@contextmanager
def fake_cuda() -> Iterator[list[Launch]]:
    """Let tensors be made on a GPU that is not there; yield the launches of kernels in this block."""
    triton_passes = pytest.importorskip("hemnet.em.engine.triton_passes")
    launches: list[Launch] = []

    def note(kernel: Any, grid: tuple[int, ...], *arguments: Any, near: torch.Tensor, warps: int = 8) -> None:
        assert near.is_cuda
        launches.append(Launch(kernel, tuple(grid), arguments, warps))

    _lend_device_guard()
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode():
        patch.setattr(triton_passes, "launch", note)
        patch.setattr(triton_passes, "_programs", lambda _: MULTIPROCESSORS)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        patch.setattr(choose, "_trial", lambda *_: None)
        # What is inside the operators, rather than what fakes of them say.
        for name in ("_forward_operator", "_backward_operator"):
            patch.setattr(operators, name, getattr(operators, name)._init_fn)
        yield launches


def _lend_device_guard() -> None:
    """Give CUDA tensors the guard of meta tensors, which does nothing, in a build of torch that has none.

    `x[0]` and the like ask for a guard before fake tensors come into play. Builds with CUDA do it themselves.
    """
    core = ctypes.CDLL(f"{torch.__path__[0]}/lib/libc10.so")
    guards = (ctypes.c_void_p * 20).in_dll(core, "_ZN3c104impl26device_guard_impl_registryE")
    guards[CUDA] = guards[CUDA] or guards[META]


class DeviceWork(TorchDispatchMode):
    """What torch operations in a block do.

    Attributes:
        operations: the names of those that launch something: all but views and allocations.
        reads: where the host waits for a number of the device, as "training/metrics.py confusion". The block
            goes on with 1 for a number, and with all of a tensor for those that a mask chooses.
        born: where a tensor comes into being on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.reads: Counter[str] = Counter()
        self.born: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in QUIET:
            self.operations.append(name)
        try:
            found = func(*args, **(kwargs or {}))
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.reads[_place()] += 1
            return STANDS_FOR[name](*args)
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                self.born[_place()] += 1
        return found


def _place() -> str:
    """The innermost file and function of the project that is at work."""
    frames = [frame for frame in traceback.extract_stack() if SOURCE in frame.filename]
    return (
        f"{frames[-1].filename.partition(SOURCE)[2]} {frames[-1].name}"
        if frames
        else "outside of the project"
    )


@contextmanager
def autocast() -> Iterator[None]:
    """bf16-mixed precision on CUDA, which torch turns off where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        with torch.autocast("cuda", torch.bfloat16):
            yield


def to_fake_cuda(module: torch.nn.Module) -> None:
    """Put fake parameters and buffers on the GPU into a module, inside of `fake_cuda`; `to` cannot do it."""

    def twin(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                part._parameters[name] = torch.nn.Parameter(twin(tensor), tensor.requires_grad)
        for name, tensor in part._buffers.items():
            part._buffers[name] = None if tensor is None else twin(tensor)


def backward(output: torch.Tensor, gradient: torch.Tensor) -> None:
    """Do what ``output.backward(gradient)`` does, node by node: torch's own engine wants streams of a device.

    Hooks are not called.
    """
    arrived: dict[Any, list[torch.Tensor | None]] = {}

    def arrive(node: Any, index: int, value: torch.Tensor | None) -> None:
        places = arrived.setdefault(node, [None] * len(node._input_metadata))
        if value is not None:
            held = places[index]
            places[index] = value if held is None else held + value

    arrive(output.grad_fn, output.output_nr, gradient)
    with torch.no_grad():
        for node in _consumers_first(output.grad_fn):
            given = arrived.pop(node)
            if all(value is None for value in given):
                given = []
            found = getattr(node, "apply", node)(*given) if given else None
            found = found if isinstance(found, tuple) else (found,) * len(node.next_functions)
            for (following, index), value in zip(node.next_functions, found, strict=False):
                if following is not None:
                    arrive(following, index, value)


def _consumers_first(root: Any) -> list[Any]:
    """The nodes of a graph, each before those that its gradients go to."""
    order: list[Any] = []
    stack: list[tuple[Any, bool]] = [(root, False)]
    seen = set()
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return order[::-1]
