"""The engine "triton" against the others in float64; without a GPU, small shapes in Triton's interpreter."""

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, NORMALIZATIONS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hemnet.em import Implicit, unroll

pytest.importorskip("triton")

from hemnet.em.engine import triton_launch, triton_passes
from hemnet.em.engine.passes import TorchPasses
from hemnet.em.options import Mixture

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Relative to the norm of the result. float32: a few hundred roundings. float16: features and sums are exact
# to float32, what is returned in float16 is rounded to 2^-11. bfloat16: weights, factors of the gradient and
# results are rounded to 2^-9, each entry on its own.
FORWARD = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}
BACKWARD = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 2e-2}


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float, floor: float = 0.0) -> None:
    """By norm; `floor` is the size of the terms where they cancel to nothing."""
    error = (actual.double() - expected.double()).norm()
    assert error <= tolerance * max(expected.double().norm().item(), floor), (
        f"{error} of {expected.norm()} in {tuple(actual.shape)}"
    )


def check_passes(x: Tensor, components: int, mixture: Mixture, *, weighted: bool = False) -> None:
    """Every pass of the engine against `TorchPasses` in float64."""
    images, positions, channels = x.shape
    mu, rows, a = (draw(images, components, channels, seed=seed) for seed in (1, 2, 3))
    offset = draw(images, components, seed=4)
    dy = draw(images, positions, channels, seed=5).to(x.dtype)
    weights = draw(images, positions, seed=6).relu() if weighted else None  # half of them 0
    exact = TorchPasses(x.double(), mixture, weights.double() if weighted else None)
    fused = triton_passes.TritonPasses(x, mixture, weights)
    forward, backward = FORWARD[x.dtype], BACKWARD[x.dtype]
    for actual, expected in zip(fused.sums(mu), exact.sums(mu.double()), strict=True):
        assert_near(actual, expected, forward)
    terms = x.double().abs().sum() * mu.double().abs().max() / mixture.variance
    assert_near(fused.log_normalizer(mu), exact.log_normalizer(mu.double()), 1e-6, terms)
    assert_near(fused.readout(mu, rows), exact.readout(mu.double(), rows.double()), forward)
    assert_near(fused.readout_vjp(mu, dy), exact.readout_vjp(mu.double(), dy.double()), backward)
    energy, exact_energy = x.new_zeros(images, dtype=torch.float32), x.new_zeros(images, dtype=torch.float64)
    for readout in (None, (dy, rows)):
        wide = None if readout is None else (dy.double(), rows.double())
        actual = fused.pull(mu, a, offset, readout, energy_B=energy)
        expected = exact.pull(mu.double(), a.double(), offset.double(), wide, energy_B=exact_energy)
        for part, exact_part in zip(actual, expected, strict=True):
            assert_near(part, exact_part, backward, floor=x.double().norm() / mixture.variance)
    assert_near(energy, exact_energy, backward)
    dx, exact_dx = fused.features_vjp(), exact.features_vjp()
    assert_near(dx, exact_dx, backward)


@settings(max_examples=8, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 40), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    assignment=st.sampled_from(ASSIGNMENTS),
    planar=st.booleans(),
    weighted=st.booleans(),
)
@example((1, 1, 1, 1), torch.float32, "gaussian", False, False)
@example((2, 67, 33, 1), torch.bfloat16, "gaussian", True, False)
@example((2, 67, 33, 5), torch.bfloat16, "dot", False, True)
@example((2, 67, 33, 5), torch.float32, "gaussian", True, True)
def test_passes(shape, dtype, assignment, planar, weighted):
    images, positions, channels, components = shape
    x = draw(images, channels, positions).mT if planar else draw(images, positions, channels)
    check_passes(x.to(dtype), components, Mixture(channels**0.5, assignment, "none"), weighted=weighted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_passes_over_several_blocks_of_channels(dtype, monkeypatch):
    narrow = triton_launch._LIMITS[dtype]._replace(width=32)
    monkeypatch.setitem(triton_launch._LIMITS, dtype, narrow)
    check_passes(draw(1, 35, 70).to(dtype), 67, Mixture(8.0, "gaussian", "none"))


def run(x: Tensor, mu: Tensor, engine: str, wide: bool = False, **options) -> list[Tensor]:
    """Reconstruction, means and the gradients to features, means and highway scale of a fixed loss."""
    iterations = options["iterations"]
    state = torch.float64 if wide else torch.float32
    x = x.to(state if wide else x.dtype).detach().requires_grad_()
    mu = mu.to(state).detach().clone().requires_grad_()
    scale = torch.linspace(0.2, 0.6, iterations, dtype=state, device=DEVICE).requires_grad_()
    result = unroll(x, mu, highway_scale=scale, engine=engine, **options)
    # Weights that every type holds exactly, so that the engines differentiate the same loss.
    weights = draw(*x.shape, seed=7).bfloat16().to(x.dtype)
    loss = (result.reconstruction * weights).to(state).sum() + (result.means * draw(*mu.shape, seed=8)).sum()
    loss.backward()
    grads = [x.grad, mu.grad] + ([scale.grad] if iterations else [])
    return [result.reconstruction.detach(), result.means.detach(), *grads]


def check_unroll(x: Tensor, mu: Tensor, slack: float = 1.0, **options) -> None:
    actual = run(x, mu, "triton", **options)
    expected = run(x, mu, "reference", wide=True, **options)
    assert actual[0].stride() == x.stride()
    assert actual[2].stride() == x.stride()
    for index, (part, exact) in enumerate(zip(actual, expected, strict=True)):
        # The gradient to h is a sum over K·C of products with the gradient to the means; it may cancel.
        floor = expected[3].norm().item() if index == 4 else 0.0
        assert_near(part, exact, slack * (FORWARD if index < 2 else BACKWARD)[x.dtype], floor)


@pytest.mark.parametrize("iterations", [0, 1, 3, 7])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_unroll_equals_the_reference(assignment, normalize, iterations):
    options = {"assignment": assignment, "normalize": normalize, "iterations": iterations}
    check_unroll(draw(2, 37, 12), draw(2, 5, 12, seed=1), **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_unroll_in_half_precision(dtype):
    x = draw(2, 12, 37).mT.to(dtype)
    check_unroll(x, draw(2, 5, 12, seed=1), iterations=3)


def test_a_component_far_from_all_features_stays():
    x, mu = draw(1, 37, 12), draw(1, 4, 12, seed=1)
    mu[:, 2] = 30.0
    # Its distance is in the rounding of all logits, of any engine: 30² times 2^-24.
    check_unroll(x, mu, slack=10, iterations=2, variance=1.0)
    result = unroll(x, mu, iterations=2, variance=1.0, engine="triton")
    assert torch.equal(result.means[:, 2], mu[:, 2])


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_extreme_scales(scale):
    x, mu = draw(1, 37, 12, scale=scale), draw(1, 4, 12, seed=1, scale=scale)
    exact = unroll(x.double(), mu.double(), iterations=2, variance=scale**2, engine="reference")
    result = unroll(x, mu, iterations=2, variance=scale**2, engine="triton")
    assert_near(result.reconstruction, exact.reconstruction, 1e-5)


def test_offset_features_in_bfloat16():
    # Far from the origin, where factors of one bfloat16 each would lose the logits.
    x = (draw(1, 70, 12) + 20).bfloat16()
    mu = x[:, ::16].float()
    check_unroll(x, mu, iterations=2)


@pytest.mark.parametrize(
    "options",
    [
        {"gradient": "one_step"},
        # Each engine solves to this tolerance, of which the solution's error is a few times as much.
        {"gradient": Implicit(tolerance=1e-6), "acceleration": "anderson"},
        {"record_gradient_flow": True},
        {"tolerance": 1e-2},
    ],
    ids=lambda options: "-".join(options),
)
def test_other_modes_agree_with_recompute(options):
    x, mu = draw(2, 40, 6), draw(2, 3, 6, seed=1)
    options = {"iterations": 12 if "acceleration" in options else 3, "variance": 4.0} | options
    found = []
    for engine in ("triton", "recompute"):
        features = x.clone().requires_grad_()
        result = unroll(features, mu, engine=engine, **options)
        result.reconstruction.square().sum().backward()
        flow = result.gradient_flow
        found.append([result.means, features.grad, *([flow.means, flow.features] if flow else [])])
    for actual, expected in zip(*found, strict=True):
        assert_near(actual, expected, 1e-4)


def test_the_same_bits_every_time():
    x, mu = draw(2, 70, 12), draw(2, 5, 12, seed=1)
    first, second = (run(x, mu, "triton", iterations=2) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "components"), [(512, 64), (1024, 64), (512, 256), (300, 21)])
def test_passes_at_full_size(channels, components, dtype):
    x = draw(4, channels, 4225).mT.to(dtype)
    check_passes(x, components, Mixture(channels**0.5, "gaussian", "none"))
