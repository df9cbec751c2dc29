"""The Triton kernels as compiled for GPUs: what their threads and programs take is what those have."""

import json
import os
import subprocess
import sys

import pytest
import torch
from _helpers.waiting import CEILING

pytest.importorskip("triton")

from hemnet.em.engine.triton_limits import why_slow

# Bytes that a program may share, by compute capability: A100, A10 and RTX 30, RTX 40, H100. NVIDIA, CUDA C++
# Programming Guide, table of technical specifications.
SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
# Bytes of a thread's stack: 80 numbers that did not fit into its 255 registers. Of the blocks before this
# rule, some had 9 to 24 KB.
STACK = 320


def compiled(*problems: str, capabilities: tuple[int, ...]) -> list[dict]:
    """What each kernel of the problems takes. In a process of its own: this one interprets kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "_helpers.compiled_kernels", ",".join(map(str, capabilities)), *problems]
    path = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        command,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=5 * CEILING,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def too_much(kernel: dict) -> bool:
    return kernel["stack"] > STACK or kernel["shared"] > SHARED[kernel["capability"]]


@pytest.mark.slow
def test_the_largest_kernels_fit():
    found = compiled("bfloat16 512 64 pulls", capabilities=(90,))
    found += compiled("float32 256 32 weighted pulls", capabilities=(80,))
    assert {kernel["kernel"] for kernel in found} == {"gather", "scatter"}
    assert not [kernel for kernel in found if too_much(kernel)]


@pytest.mark.long
@pytest.mark.parametrize("problem", ["bfloat16 512 64 weighted", "float32 256 64 l2", "float16 304 21"])
def test_every_kernel_fits(problem):
    found = compiled(problem, capabilities=tuple(SHARED))
    kinds = {kernel["kernel"] for kernel in found}
    assert kinds == {"gather", "scatter", "newton_step", "factors", "add_back"}
    assert not [kernel for kernel in found if too_much(kernel)]


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("components", [1, 21, 64, 128, 256])
def test_the_largest_kernels_of_every_size_fit(dtype, components):
    """Of those that engine="auto" takes."""
    taken = []
    for channels in (16, 64, 256, 512, 1024):
        x = torch.empty(1, 1, channels, dtype=getattr(torch, dtype), device="meta")
        if why_slow(x, torch.empty(1, components, channels, device="meta")) is None:
            taken.append(channels)
    assert taken
    problems = [f"{dtype} {channels} {components} pulls" for channels in {taken[0], taken[-1]}]
    assert not [kernel for kernel in compiled(*problems, capabilities=(80, 90)) if too_much(kernel)]


@pytest.mark.long
@pytest.mark.parametrize("problem", ["bfloat16 1024 64", "float32 256 64"])
def test_blocks_twice_as_wide_would_not_fit(problem):
    assert any(map(too_much, compiled(f"{problem} wide pulls", capabilities=(80, 90))))
