"""How much the engine "triton" launches, counted on fake CUDA tensors; it also waits for nothing."""

import pytest
import torch
from _helpers.fake_cuda import DeviceWork, backward, fake_cuda

from hemnet.em import unroll

pytest.importorskip("triton")

PER_ITERATION = 10


def launches(iterations: int, weighted: bool = False, **options) -> list[str]:
    """The names of all that a forward and a backward pass launch. Reading a fake tensor raises an error."""
    with fake_cuda() as kernels:
        x = torch.empty(4, 4225, 256, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        mu = torch.empty(1, 32, 256, device="cuda", requires_grad=True)
        weights = torch.ones(4, 4225, device="cuda") if weighted else None
        with DeviceWork() as work:
            fit = unroll(x, mu, weights, iterations=iterations, **options)
            backward(fit.reconstruction, torch.empty_like(x))
    assert fit.engine == "triton"
    assert x.grad.shape == x.shape
    assert mu.grad.shape == mu.shape
    return work.operations + [kernel.name for kernel in kernels]


@pytest.mark.parametrize(
    "options",
    [{}, {"normalize": "l2", "assignment": "dot", "highway_scale": 0.0}, {"weighted": True}],
    ids=["gaussian", "l2", "weighted"],
)
def test_an_iteration_is_a_few_launches(options):
    few, many = (len(launches(iterations, **options)) for iterations in (2, 11))
    # Nine iterations, so that passes to the features, one for three iterations, are counted in whole numbers.
    assert (many - few) / 9 <= PER_ITERATION, f"{few} and {many}"
    assert few <= 2 * PER_ITERATION + 40


def test_what_an_iteration_launches():
    few, many = (launches(iterations) for iterations in (3, 6))
    for kernel, each in {
        "gather": 2,
        "newton_step": 1,
        "factors": 2,
        "add_back": 1,
        "scatter": 1 / 3,
    }.items():
        assert many.count(kernel) - few.count(kernel) == 3 * each, kernel
