"""Weights of positions: in no engine and no gradient do positions without weight count in a fit."""

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, CHANNELS, CLOSE, NORMALIZATIONS, draw, layer, step
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hemnet.em import Implicit, OneStep, Unrolled, log_likelihood, unroll
from hemnet.em.engine.passes import TorchPasses
from hemnet.em.options import Mixture

MU_BKC = draw(1, 3, 4, seed=1)
SCALE_T = torch.tensor([0.5, 0.1, -0.3]).double()


def everything(x_BNC: Tensor, weights_BN: Tensor | None, kept: Tensor, **options) -> dict[str, Tensor]:
    """Results of a fit and its gradients, at the positions `kept` (N,), of a loss that reads those alone."""
    x, mu, h = (tensor.detach().requires_grad_() for tensor in (x_BNC, MU_BKC, SCALE_T))
    options = {"return_trajectory": True, "record_gradient_flow": True} | options
    fit = unroll(x, mu, weights_BN, iterations=3, highway_scale=h, **options)
    y = fit.reconstruction[:, kept]
    loss = (y * draw(*y.shape, seed=2)).sum() + (fit.means * draw(*fit.means.shape, seed=3)).sum()
    gradients = torch.autograd.grad(loss, (x, mu, h), allow_unused=True)
    found = {"y": y, "means": fit.trajectory, "x": gradients[0][:, kept]}
    found |= vars(fit.diagnostics())
    if isinstance(options["gradient"], Unrolled):
        found |= {"mu": gradients[1], "scale": gradients[2], **vars(fit.gradient_flow)}
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
@pytest.mark.parametrize(
    ("engine", "gradient"),
    [
        ("auto", Unrolled()),
        ("reference", Unrolled()),
        ("auto", OneStep()),
        ("reference", OneStep()),
        ("auto", Implicit(tolerance=1e-12)),
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_a_padded_image_is_fitted_as_without_its_padding(assignment, normalize, engine, gradient):
    x = draw(2, 11, 4)
    inside = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1]).bool()
    options = {"assignment": assignment, "normalize": normalize, "engine": engine, "gradient": gradient}
    found = everything(x, inside[None], inside, **options)
    expected = everything(x[:, inside], None, torch.ones(8).bool(), **options)
    assert_same(found, expected)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_a_position_of_weight_two_counts_as_two_positions(assignment, engine):
    x = draw(2, 7, 4)
    counts = torch.tensor([[2, 1, 0, 3, 1, 1, 2], [1, 1, 1, 4, 0, 2, 1]])
    repeated = torch.stack([row.repeat_interleave(n, dim=0) for row, n in zip(x, counts, strict=True)])
    options = {"iterations": 3, "highway_scale": 0.3, "assignment": assignment, "engine": engine}
    found = unroll(x, MU_BKC, counts, **options).means
    torch.testing.assert_close(found, unroll(repeated, MU_BKC, **options).means, **CLOSE)


def test_gradients_under_any_weights_equal_finite_differences():
    x, weights = draw(1, 4, 4).requires_grad_(), torch.tensor([[0.0, 0.3, 2.0, 1.5]])
    mu, h = MU_BKC.clone().requires_grad_(), SCALE_T.clone().requires_grad_()

    def fit(x: Tensor, mu: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        result = unroll(x, mu, weights, iterations=3, highway_scale=h)
        return result.reconstruction, result.means

    assert torch.autograd.gradcheck(fit, (x, mu, h))
    assert torch.autograd.gradgradcheck(fit, (x, mu, h))


@given(st.integers(0, 2**31 - 1), st.floats(-0.9, 0.9), st.sampled_from(["unit", "sparse", "wide"]))
def test_the_weighted_likelihood_never_falls(seed, h, kind):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, 9, generator=generator)
    weights = {"unit": weights, "sparse": weights.round(), "wide": 10 ** (4 * weights - 2)}[kind]
    fit = unroll(
        draw(2, 9, 4, seed=seed), MU_BKC, weights, iterations=6, highway_scale=h, return_trajectory=True
    )
    likelihood = fit.diagnostics().log_likelihood
    assert (likelihood.diff(dim=0) >= -1e-9 * likelihood.abs().max()).all()


def test_the_weighted_likelihood_is_a_sum_over_weighted_positions():
    x, weights = draw(2, 5, 4), draw(2, 5, seed=4).abs()
    each = torch.stack([log_likelihood(x[:, n : n + 1], MU_BKC, variance=2.0) for n in range(5)], dim=1)
    found = log_likelihood(x, MU_BKC, variance=2.0, weights_BN=weights)
    torch.testing.assert_close(found, (weights * each).sum(dim=1), **CLOSE)
    passes = TorchPasses(x, Mixture(2.0, "gaussian", "none"), weights)
    other = draw(2, 3, 4, seed=5)
    of_passes = passes.log_normalizer(MU_BKC.expand(2, -1, -1)) - passes.log_normalizer(other)
    torch.testing.assert_close(
        of_passes, found - log_likelihood(x, other, variance=2.0, weights_BN=weights), **CLOSE
    )


def test_accelerated_steps_see_the_weights():
    x = draw(2, 30, 4)
    inside = (torch.arange(30) % 3 > 0)[None]
    options = {"iterations": 8, "acceleration": "anderson", "gradient": "detached", "variance": 0.5}
    found = unroll(x, MU_BKC, inside, **options).means
    torch.testing.assert_close(found, unroll(x[:, inside[0]], MU_BKC, **options).means, rtol=1e-9, atol=1e-9)


# --- through the layer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_padding_is_in_no_moving_average_and_is_reconstructed(channel_dim):
    x = torch.randn(3, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 5, 4).bool()
    mask[:, :3] = True
    whole, part = layer(channel_dim=channel_dim), layer(channel_dim=channel_dim)
    turn = (lambda t: t.movedim(1, -1)) if channel_dim == -1 else (lambda t: t)
    y = whole(turn(x), weights_BP=mask)
    assert y.shape == turn(x).shape
    expected = part(turn(x[:, :, :3]))
    cut = y[:, :3] if channel_dim == -1 else y[:, :, :3]
    torch.testing.assert_close(cut, expected)
    step()
    torch.testing.assert_close(whole.means, part.means)


def test_an_image_without_weight_keeps_its_means_and_moves_no_average():
    em, x = layer(), torch.randn(2, CHANNELS, 4, 4)
    alone, before = layer(), em.means.clone()
    mask = torch.ones(2, 4, 4)
    mask[0] = 0
    assert torch.equal(em.run(x, weights_BP=mask).means[0], before)
    em(x, weights_BP=mask)
    alone(x[1:])
    step()
    torch.testing.assert_close(em.means, alone.means)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=str)
def test_weights_compile_to_one_graph(backend):
    em, mask = layer().eval(), torch.rand(2, 4, 4) > 0.3
    x = torch.randn(2, CHANNELS, 4, 4, requires_grad=True)
    torch.compiler.reset()
    y = torch.compile(em, fullgraph=True, backend=backend)(x, weights_BP=mask)
    torch.testing.assert_close(y, em(x, weights_BP=mask))
    compiled, eager = (torch.autograd.grad(out.square().sum(), x)[0] for out in (y, em(x, weights_BP=mask)))
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 10), "10 weights for 11 positions"),
        (torch.ones(3, 11), r"\(3, 11\)"),
        (torch.ones(2, 11, 1), r"\(2, 11, 1\)"),
        (torch.ones(2, 11, requires_grad=True), "give weights.detach"),
        (torch.ones(2, 11, dtype=torch.complex64), "complex64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        unroll(draw(2, 11, 4), MU_BKC, weights, iterations=1)
    with pytest.raises(ValueError, match="they must be"):
        layer()(torch.randn(2, CHANNELS, 4, 4), weights_BP=torch.ones(2, 16))
