"""The Triton kernels as compiled for GPUs that are not there, and what each takes of registers and memory.

A program, run without TRITON_INTERPRET: ``python -m _helpers.compiled_kernels 80,90 'bfloat16 512 64' ...``.
It makes the launches of a forward and a backward pass on fake CUDA tensors, compiles every different one for
each compute capability, and prints one JSON object per kernel. A problem is ``dtype C K`` and any of these
words: weighted (positions have weights), l2 (unit means), wide (blocks twice as wide as the rule has them),
pulls (the kernels of the backward pass alone, which take most).
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from _helpers.fake_cuda import Launch, fake_cuda
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from hemnet.em.engine import triton_launch
from hemnet.em.engine.triton_passes import TritonPasses
from hemnet.em.options import Mixture

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class NoDriver:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        # The cache of a kernel's compiled forms goes by the device.
        return self._target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def launches(problem: str) -> list[Launch]:
    """All launches of a problem, with and without a readout."""
    dtype, channels, components, *flags = problem.split()
    images, positions = 2, 4225
    mixture = Mixture(1.0, "gaussian", "l2" if "l2" in flags else "none")
    with pytest.MonkeyPatch.context() as patch, fake_cuda() as found:
        if "wide" in flags:
            kind = triton_launch.factor_type(getattr(torch, dtype))
            limits = triton_launch._LIMITS[kind]
            patch.setitem(
                triton_launch._LIMITS, kind, limits._replace(sums=2 * limits.sums, width=2 * limits.width)
            )
        shape = (images, positions, int(channels))
        x = torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")
        mu = torch.empty(images, int(components), int(channels), device="cuda")
        h, moving = torch.empty(images, device="cuda"), torch.ones(images, dtype=torch.bool, device="cuda")
        weights = torch.empty(images, positions, device="cuda") if "weighted" in flags else None
        passes = TritonPasses(x, mixture, weights)
        step = passes.take_step(mu, h)
        passes.readout(mu, mu)
        passes.readout_vjp(mu, x)
        for readout in (None, (x, mu), None, None, (x, mu)):
            passes.pull_step(mu, h, moving, step, mu, readout, to_features=True, energy_B=None)
        passes.features_vjp()
    return [launch for launch in found if "pulls" not in flags or launch.constants.get("PULL")]


def compiled(found: list[Launch], capability: int) -> Iterator[dict[str, Any]]:
    """What each different kernel among the launches takes: registers, bytes of stack and of shared memory."""
    driver.set_active(NoDriver(capability))
    seen = set()
    for launch in found:
        arguments = [a.dtype if isinstance(a, torch.Tensor) else a for a in launch.arguments]
        kernel = launch.kernel.warmup(
            *arguments, grid=launch.grid, num_warps=launch.warps, num_stages=triton_launch.STAGES
        )
        if kernel.hash in seen:
            continue
        seen.add(kernel.hash)
        yield {
            "kernel": launch.name, "capability": capability, **launch.constants, **usage(kernel.asm["cubin"]),
            "shared": kernel.metadata.shared,
        }  # fmt: skip


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and the bytes of its stack: what did not fit into them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.check_output([BIN / "cuobjdump", "--dump-resource-usage", file.name], text=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said).groups()
    return {"registers": int(registers), "stack": int(stack)}


if __name__ == "__main__":
    for problem in sys.argv[2:]:
        found = launches(problem)
        for capability in sys.argv[1].split(","):
            for numbers in compiled(found, int(capability)):
                print(json.dumps({"problem": problem, **numbers}), flush=True)
