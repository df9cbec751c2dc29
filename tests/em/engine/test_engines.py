"""The engine "recompute" against plain autograd in float64: values, gradients, limits, types, memory."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, NORMALIZATIONS, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hemnet.bench.timing import peak_extra_memory
from hemnet.em import Unrolled, unroll
from hemnet.em.engine import products
from hemnet.em.gradient.choose import Gradient
from hemnet.em.gradient.unrolled import what_is_kept
from hemnet.em.options import Options

# Both engines do the same sums in another order: 1e-11 is 45000 roundings of 2^-53 relative to the norm of
# the whole tensor, and each number passes through fewer than that in the shapes here.
EXACT = 1e-11


def relative(actual: Tensor, expected: Tensor, floor: float) -> float:
    assert actual.shape == expected.shape
    return (actual.double() - expected.double()).norm().item() / max(expected.double().norm().item(), floor)


def outputs_and_gradients(engine: str, x: Tensor, mu: Tensor, h: Tensor, **options) -> dict[str, Tensor]:
    x, mu, h = (tensor.detach().requires_grad_() for tensor in (x, mu, h))
    result = unroll(
        x,
        mu,
        iterations=len(h),
        highway_scale=h,
        engine=engine,
        return_trajectory=True,
        **options,
    )
    y_weight = draw(*result.reconstruction.shape, seed=11).to(x.device)
    t_weight = draw(*result.trajectory.shape, seed=12).to(x.device)
    loss = (result.reconstruction.double() * y_weight).sum() + (result.trajectory.double() * t_weight).sum()
    grads = torch.autograd.grad(loss, (x, mu, h), allow_unused=True)
    names = ("dx", "dmu", "dh")
    found = {name: torch.zeros(()) if g is None else g for name, g in zip(names, grads, strict=True)}
    return {"y": result.reconstruction.detach(), "trajectory": result.trajectory.detach()} | found


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    # The loss weighs numbers of order 1, so a gradient far below 1 is a difference of such: where theory says
    # it vanishes (one channel under "l2"), only its rounding is left to compare.
    errors = {
        name: relative(actual[name], value, floor=1.0 if name.startswith("d") else 1e-12)
        for name, value in expected.items()
        if value.numel() and actual[name].numel()
    }
    assert max(errors.values()) <= limit, errors


# --- exactness ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize(("iterations", "components"), list(itertools.product((0, 1, 2, 5), (1, 4))))
def test_gradients_are_those_of_plain_autograd(assignment, normalize, iterations, components):
    x, mu = draw(3, 37, 6), draw(3, components, 6, seed=1)
    h = draw(iterations, seed=2).tanh()
    options = {"assignment": assignment, "normalize": normalize, "variance": 2.0}
    plain = outputs_and_gradients("reference", x, mu, h, **options)
    assert_agree(outputs_and_gradients("recompute", x, mu, h, **options), plain, EXACT)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 7), st.integers(1, 9)),
    scales=st.lists(st.floats(-0.99, 0.99), max_size=9),
    scale=st.floats(1e-3, 10.0),
    assignment=st.sampled_from(ASSIGNMENTS),
    normalize=st.sampled_from(NORMALIZATIONS),
    shared=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_engines_agree_for_any_shape_scale_and_highway(
    shape, scales, scale, assignment, normalize, shared, seed
):
    images, positions, components, channels = shape
    x = draw(images, positions, channels, seed=seed, scale=scale)
    # Means of length 1 or more, as "l2" divides by their length, and ever smaller ones lose digits.
    mu = draw(1 if shared else images, components, channels, seed=seed + 1)
    h = torch.tensor(scales, dtype=torch.float64)
    options = {"assignment": assignment, "normalize": normalize, "variance": 0.7}
    plain = outputs_and_gradients("reference", x, mu, h, **options)
    for value in plain.values():
        assert value.isfinite().all()
    # 1/(1-h) and 1/|v| magnify roundings, here by up to 1e2 each.
    assert_agree(outputs_and_gradients("recompute", x, mu, h, **options), plain, 1e-9)


def test_a_step_that_nearly_cancels_is_rounded_as_by_the_reference():
    # One component: m is the mean of the features, of length L, and mu = m/L, so h = -L/(1 - L) leaves
    # nothing; here L is a quarter.
    x, mu = draw(1, 23, 6), draw(1, 1, 6, seed=1)
    x = x - x.mean(dim=1, keepdim=True) + 0.25 * mu / mu.norm()
    h = torch.tensor([0.0, 0.0, -1 / 3 + 1e-5], dtype=torch.float64)
    plain = outputs_and_gradients("reference", x, mu, h, normalize="l2", variance=0.7)
    assert_agree(outputs_and_gradients("recompute", x, mu, h, normalize="l2", variance=0.7), plain, 1e-9)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_gradients_are_those_of_finite_differences(normalize):
    def loss(x: Tensor, mu: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        result = unroll(x, mu, iterations=3, highway_scale=h, normalize=normalize, engine="recompute")
        return result.reconstruction, result.means

    inputs = (draw(2, 5, 3), draw(2, 2, 3, seed=1), draw(3, seed=2).tanh())
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in inputs])


def test_second_derivatives_are_those_of_finite_differences():
    def loss(x: Tensor, mu: Tensor) -> Tensor:
        return unroll(x, mu, iterations=2, engine="recompute").reconstruction

    inputs = (draw(1, 4, 2).requires_grad_(), draw(1, 2, 2, seed=1).requires_grad_())
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_only_the_gradients_that_are_wanted():
    x, mu = draw(2, 9, 4), draw(2, 3, 4, seed=1).requires_grad_()
    result = unroll(x, mu, iterations=2, engine="recompute")
    (alone,) = torch.autograd.grad(result.reconstruction.square().sum(), mu)  # no gradient to x is computed
    both = unroll(x.requires_grad_(), mu, iterations=2, engine="recompute")
    torch.testing.assert_close(
        alone, torch.autograd.grad(both.reconstruction.square().sum(), mu, retain_graph=True)[0]
    )
    (of_means,) = torch.autograd.grad(both.means.sum(), x)
    plain = unroll(x, mu, iterations=2, engine="reference")
    torch.testing.assert_close(of_means, torch.autograd.grad(plain.means.sum(), x)[0])


def test_few_means_are_kept_where_they_would_outweigh_the_features():
    x, mu = torch.empty(1, 64, 2), torch.empty(1, 4, 2)
    options = Options(1.0, "dot", "none", "recompute", "none", None)
    strides = [
        what_is_kept(x, mu, iterations, options, 0.25).stride for iterations in (0, 1, 4, 5, 9, 10, 64)
    ]
    assert strides == [1, 1, 1, 3, 3, 4, 8]


@pytest.mark.parametrize(
    ("keep", "iterations", "dtype", "kept"),
    [
        # Per position 32 channels and 4 components; all means of T iterations are T·4/64 of the features.
        (0.0, 3, torch.float32, (2, 0)),
        (0.3, 1, torch.float32, (1, 1)),
        (0.3, 3, torch.float32, (1, 0)),
        (0.45, 3, torch.float32, (1, 2)),
        (100.0, 3, torch.float32, (1, 3)),
        (0.45, 64, torch.float32, (8, 0)),
        (0.45, 2, torch.bfloat16, (1, 0)),
        (0.5, 2, torch.bfloat16, (1, 1)),
    ],
    ids=str,
)
def test_what_is_kept_fits_the_budget(keep, iterations, dtype, kept):
    x, mu = torch.empty(1, 64, 32, dtype=dtype), torch.empty(1, 4, 32)
    options = Options(1.0, "dot", "none", "recompute", "none", None)
    assert what_is_kept(x, mu, iterations, options, keep) == kept
    for other in (replace(options, engine="triton"), replace(options, tolerance=1e-3)):
        assert what_is_kept(x, mu, iterations, other, keep) == (kept[0], 0)


# --- types, layouts, limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_input_stays_near_float64(assignment, dtype):
    # The bars of the project for bfloat16, whose result alone is rounded to 2^-9; float32 to 1000 roundings.
    forward, backward = (6e-5, 6e-5) if dtype == torch.float32 else (5e-3, 2e-2)
    x, mu, h = draw(2, 300, 16).to(dtype), draw(2, 8, 16, seed=1).float(), torch.full((3,), 0.5)
    options = {"assignment": assignment, "variance": 4.0}
    exact = outputs_and_gradients("reference", x.double(), mu.double(), h.double(), **options)
    found = outputs_and_gradients("recompute", x, mu, h, **options)
    assert found["dx"].dtype == dtype
    assert_agree({"y": found["y"]}, {"y": exact["y"]}, forward)
    assert_agree(found, exact, backward)


def test_means_far_from_the_origin_keep_their_digits():
    # Relative to their centre the logits round to about 2^-24 |x| |spread of mu|; as written in eq (1) it
    # would be 2^-24 |x|², here 60 times the spread of the logits.
    x, mu = draw(1, 200, 8), draw(1, 4, 8, seed=1)
    x, mu = (x + 1e4).float(), (mu + 1e4).float()
    exact = unroll(x.double(), mu.double(), iterations=3, variance=1.0).means - 1e4
    found = unroll(x, mu, iterations=3, variance=1.0).means.double() - 1e4
    assert (found - exact).abs().max() < 0.05


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_results_are_laid_out_like_the_features(layout):
    x_BCHW = draw(2, 6, 5, 7).float().contiguous(memory_format=layout).requires_grad_()
    x = x_BCHW.flatten(2).mT
    result = unroll(x, draw(1, 3, 6, seed=1).float(), iterations=2, engine="recompute")
    assert result.reconstruction.stride() == x.stride()
    result.reconstruction.sum().backward()
    assert x_BCHW.grad.is_contiguous(memory_format=layout)
    expected = unroll(
        x.detach().contiguous(), draw(1, 3, 6, seed=1).float(), iterations=2, engine="reference"
    )
    torch.testing.assert_close(result.reconstruction, expected.reconstruction)


@pytest.mark.parametrize("components", [1, 5])
@pytest.mark.parametrize("iterations", [0, 1, 7])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e15])
def test_anything_finite_gives_finite_gradients(components, iterations, scale):
    # Far features that belong to a mean, wholly. Where means are much nearer to each other than float32 tells
    # at that distance, rounding decides what belongs to them, and may share it: the gradient is then up to
    # |x|² = 1e30 for each iteration, which is finite for one alone.
    spread = max(scale, 1.0) if iterations > 1 else 1.0
    x = draw(1, 13, 8, scale=scale).float()
    mu = draw(1, components, 8, seed=1, scale=spread).float()
    mu[0, -1] += max(1e8, 100 * spread)  # a component that no position belongs to
    found = outputs_and_gradients("recompute", x, mu, torch.full((iterations,), 0.3), variance=1.0)
    assert all(value.isfinite().all() for value in found.values())


def test_no_images_and_no_positions():
    for shape in ((0, 5, 4), (2, 0, 4)):
        x = torch.empty(shape, requires_grad=True)
        result = unroll(x, torch.zeros(1, 3, 4), iterations=2, engine="recompute")
        (dx,) = torch.autograd.grad(result.reconstruction.sum(), x)
        assert dx.shape == x.shape


# --- torch.compile ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"gradient": "one_step"}, {"gradient": "implicit", "iterations": 60}, {"tolerance": 1e-2}],
    ids=str,
)
def test_every_mode_compiles_without_a_graph_break(options):
    mu, variants = draw(1, 3, 6, seed=1).float(), []

    def run(x: Tensor, h: Tensor) -> Tensor:
        return unroll(
            x, mu, **({"iterations": 4, "highway_scale": h, "variance": 0.5} | options)
        ).reconstruction

    torch.compiler.reset()
    for call in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        x, h = draw(2, 20, 6).float().requires_grad_(), torch.tensor(0.3, requires_grad=True)
        y = call(x, h)
        variants.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    for eager, compiled in zip(*variants, strict=True):
        torch.testing.assert_close(compiled, eager)


# --- products -----------------------------------------------------------------------------------------------

LIBRARIES = ["torch.bmm", "oneDNN"]


def force(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even small products run in a library, as large ones do on a processor that it suits."""
    if library == "oneDNN" and not products.has_onednn():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "library", lambda threads: library)
    monkeypatch.setattr(products, "LARGE", 0)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("channels", [1, 24, 160])
@pytest.mark.parametrize("components", [1, 5])
@pytest.mark.parametrize("by_channel", [False, True])
def test_products_are_those_of_float64_in_either_layout(
    library, channels, components, by_channel, monkeypatch
):
    force(library, monkeypatch)

    def laid_out(tensor: Tensor) -> Tensor:
        return products.ready(tensor.float(), by_channel)

    x, w, b = draw(3, 37, channels), draw(3, components, channels, seed=1), draw(3, components, seed=2)
    p, q = (laid_out(draw(3, 37, components, seed=seed)) for seed in (3, 4))
    close = {"rtol": 1e-5, "atol": 1e-5 * math.sqrt(max(37, channels))}
    v = draw(3, 2, channels, seed=6)
    for factors in ([(w, b)], [(w, None)], [(w, b), (v, None)], [(v, None), (w, b)]):
        found = products.affine(
            laid_out(x), *((rows.float(), None if to is None else to.float()) for rows, to in factors)
        )
        for product, (rows, to) in zip(found, factors, strict=True):
            exact = x @ rows.mT + (0 if to is None else to.unsqueeze(1))
            torch.testing.assert_close(product.double(), exact, **close)
            assert product.stride() == products.empty_like(laid_out(x), len(rows[0])).stride()
    out, parts = laid_out(x), [(p, w.mT.float()), (q, -2 * w.mT.float())]
    products.multiply(parts, out, add=True)
    expected = (p.double() - 2 * q.double()) @ w
    torch.testing.assert_close(out.double(), x + expected, **close)
    products.multiply(parts, out, add=False)
    torch.testing.assert_close(out.double(), expected, **close)
    torch.testing.assert_close(products.gather(p, laid_out(x)).double(), p.double().mT @ x, **close)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("dy_by_channel", [False, True])
def test_features_by_channel_have_the_fit_and_gradient_of_features_by_position(
    library, weighted, assignment, dy_by_channel, monkeypatch
):
    force(library, monkeypatch)
    weights = draw(2, 40, seed=5).abs().float() if weighted else None
    mu = draw(2, 3, 8, seed=1)
    dy = products.ready(draw(2, 40, 8, seed=2), dy_by_channel)
    options = {"iterations": 3, "assignment": assignment, "variance": 2.0}
    x = draw(2, 40, 8).requires_grad_()
    exact = unroll(x, mu, weights, engine="reference", **options).reconstruction
    (dx,) = torch.autograd.grad(exact, x, dy)
    for by_channel in (False, True):
        x = products.ready(draw(2, 40, 8).float(), by_channel).requires_grad_()
        y = unroll(x, mu.float(), weights, engine="recompute", **options).reconstruction
        (found,) = torch.autograd.grad(y, x, dy.float())
        assert (y.stride(), found.stride()) == (x.stride(), x.stride())
        assert relative(y, exact, 1e-12) < 1e-5
        assert relative(found, dx, 1e-12) < 1e-5


def test_features_are_not_copied_in_either_layout():
    x = draw(2, 40, 8).float()
    for laid_out in (x, x.mT.contiguous().mT):
        assert products.ready(laid_out).data_ptr() == laid_out.data_ptr()
    assert products.ready(x[:, :, ::2]).is_contiguous()  # but those with gaps between them are


def test_the_library_of_large_products_is_the_faster_one(monkeypatch):
    if not products.has_onednn():
        pytest.skip("this PyTorch has no oneDNN")

    def late(function: Callable, *args: Tensor) -> Tensor:
        time.sleep(0.02)
        return function(*args)

    for module, name, chosen in ((products, "_inner", "torch.bmm"), (torch, "mm", "oneDNN")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, partial(late, getattr(module, name)))
            assert products.library.__wrapped__(1) == chosen


def test_small_products_and_other_types_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(products, "library", lambda threads: "oneDNN")
    large, small = torch.empty(1, products.LARGE // 16, 16), torch.empty(1, products.LARGE // 16 - 1, 16)
    assert products._library(large, 1) == "oneDNN"
    assert products._library(small, 1) == products._library(large.double(), 1) == "torch.bmm"


def test_deterministic_algorithms_take_no_library_by_its_speed(monkeypatch):
    monkeypatch.setattr(products, "library", lambda threads: pytest.fail("timed"))
    torch.use_deterministic_algorithms(True)
    try:
        found = products._library(torch.empty(1, products.LARGE, 1), 1)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found == ("oneDNN" if products.has_onednn() else "torch.bmm")


# --- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_does_not_depend_on_what_is_kept(assignment, normalize, weighted):
    weights = draw(2, 30, seed=5).abs() if weighted else None
    mu, dy, found = draw(2, 4, 8, seed=1), draw(2, 30, 8, seed=2), []
    for keep in (0.0, 0.8, 2.0, 100.0):
        x = draw(2, 30, 8).requires_grad_()
        fit = unroll(
            x, mu, weights, iterations=5, assignment=assignment, normalize=normalize, variance=2.0,
            gradient=Unrolled(keep), record_gradient_flow=True,
        )  # fmt: skip
        first, second = (torch.autograd.grad(fit.reconstruction, x, dy, retain_graph=True)[0] for _ in "12")
        assert torch.equal(first, second)  # what is kept is left as it is
        found.append((first, fit.gradient_flow.means, fit.gradient_flow.features))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, found[0], strict=True))


@pytest.mark.parametrize("keep", [-0.1, math.nan, math.inf, True, "1"], ids=str)
def test_what_is_kept_is_a_number_of_0_or_more(keep):
    with pytest.raises(ValueError, match="keep is"):
        Unrolled(keep)


def test_what_is_kept_is_within_its_budget():
    features = 1024 * 64 * 4
    least, some, all_of_them = (peak_bytes("recompute", 8, Unrolled(keep)) for keep in (0.0, 0.7, 100.0))
    assert 0.25 * features < some - least <= 0.7 * features
    assert all_of_them - least > 1.5 * features  # so the measure can tell


# --- memory -------------------------------------------------------------------------------------------------


def peak_bytes(engine: str, iterations: int, gradient: Gradient = "unrolled") -> int:
    """The most that forward and backward hold at once, beyond their inputs."""
    x, mu = draw(1, 1024, 64).float().requires_grad_(), draw(1, 16, 64, seed=1).float().requires_grad_()
    dy = draw(1, 1024, 64, seed=2).float()

    def work() -> None:
        y = unroll(x, mu, iterations=iterations, engine=engine, gradient=gradient).reconstruction
        torch.autograd.grad(y, (x, mu), dy)

    work()
    return peak_extra_memory(work, torch.device("cpu"))


def test_memory_does_not_grow_with_the_iterations():
    first = peak_bytes("recompute", 1)
    for iterations in (2, 3, 8, 16, 64):
        assert peak_bytes("recompute", iterations) <= 1.15 * first
    assert peak_bytes("reference", 64) > 3 * peak_bytes("reference", 1)  # so the measure can tell


def test_l2_keeps_unit_length_under_any_engine():
    mu = unroll(draw(2, 9, 4), draw(2, 3, 4, seed=1), iterations=2, normalize="l2", engine="recompute").means
    torch.testing.assert_close(mu.norm(dim=2), torch.ones(2, 3, dtype=torch.float64))
    assert math.isclose(mu.norm().item(), math.sqrt(6))
