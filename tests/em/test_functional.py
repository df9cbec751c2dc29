"""The EM functions: values against the loops, gradients against finite differences."""

import math

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, CLOSE, NORMALIZATIONS, draw
from em import oracle
from torch import Tensor

from hemnet.em import functional, log_likelihood, unroll


@pytest.fixture(params=[(1, 1, 1, 1), (2, 7, 3, 4), (3, 5, 8, 2)], ids=str)
def problem(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    images, positions, components, channels = request.param
    z = torch.softmax(draw(images, positions, components, seed=2), dim=-1)
    return draw(images, positions, channels), draw(images, components, channels, seed=1), z


# --- agreement with the loops -------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("variance", [0.05, 1.0, 30.0])
def test_responsibilities_agree_with_the_loops(problem, assignment, variance):
    x, mu, _ = problem
    options = {"variance": variance, "assignment": assignment}
    actual = functional.responsibilities(x, mu, **options)
    torch.testing.assert_close(actual, oracle.responsibilities(x, mu, **options), **CLOSE)


def test_component_means_agree_with_the_loops(problem):
    x, mu, z = problem
    z[:, :, 0] = 0  # an empty component
    expected = oracle.component_means(x, z, mu)
    torch.testing.assert_close(functional.component_means(x, z, mu), expected, **CLOSE)
    torch.testing.assert_close(expected[:, 0], mu[:, 0])


@pytest.mark.parametrize("h", [-0.7, 0.0, 0.3])
def test_newton_step_agrees_with_the_loops(problem, h):
    _, mu, _ = problem
    m = mu.flip(1) + 1
    expected = oracle.newton_step(mu, m, h)
    torch.testing.assert_close(functional.newton_step(mu, m, h), expected, **CLOSE)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_normalize_means_agrees_with_the_loops(problem, normalize):
    _, mu, _ = problem
    mu[0, 0] = 0
    expected = oracle.normalize_means(mu, normalize)
    torch.testing.assert_close(functional.normalize_means(mu, normalize), expected, **CLOSE)


def test_reconstruct_agrees_with_the_loops(problem):
    _, mu, z = problem
    torch.testing.assert_close(functional.reconstruct(z, mu), oracle.reconstruct(z, mu), **CLOSE)


@pytest.mark.parametrize("variance", [0.05, 1.0, 30.0])
def test_log_likelihood_agrees_with_the_loops_and_with_torch_distributions(problem, variance):
    x, mu, _ = problem
    actual = log_likelihood(x, mu, variance=variance)
    torch.testing.assert_close(actual, oracle.log_likelihood(x, mu, variance=variance), **CLOSE)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=torch.zeros(mu.shape[:2], dtype=mu.dtype)),
        torch.distributions.Independent(torch.distributions.Normal(mu, math.sqrt(variance)), 1),
    )
    torch.testing.assert_close(actual, mixture.log_prob(x.transpose(0, 1)).sum(dim=0), **CLOSE)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("scales", [[], [0.5], [0.9, -0.4, 0.0, 0.3]], ids=str)
def test_unroll_agrees_with_the_loops(problem, assignment, normalize, scales):
    x, mu, _ = problem
    options = {"assignment": assignment, "normalize": normalize, "variance": 0.7}
    result = unroll(
        x,
        mu,
        iterations=len(scales),
        highway_scale=scales,
        return_trajectory=True,
        engine="reference",
        **options,
    )
    y, trajectory, z = oracle.unroll(x, mu, highway_scales=scales, **options)
    torch.testing.assert_close(result.trajectory, trajectory, **CLOSE)
    torch.testing.assert_close(result.means, trajectory[-1], **CLOSE)
    torch.testing.assert_close(result.reconstruction, y, **CLOSE)
    torch.testing.assert_close(result.responsibilities(), z, **CLOSE)


@pytest.mark.parametrize(("as_tensor", "as_list"), [([0.9, -0.4, 0.2], [0.9, -0.4, 0.2]), (0.3, [0.3] * 3)])
def test_a_tensor_of_scales_means_the_same_as_numbers(as_tensor, as_list):
    x, mu = draw(2, 7, 4), draw(1, 3, 4, seed=1)
    scales = torch.tensor(as_tensor, dtype=torch.float64)
    by_tensor, by_list = (unroll(x, mu, iterations=3, highway_scale=h).means for h in (scales, as_list))
    torch.testing.assert_close(by_tensor, by_list, **CLOSE)


def test_scale_zero_is_plain_em(problem):
    x, mu, _ = problem
    result = unroll(x, mu, iterations=4, highway_scale=0.0, variance=0.5)
    for _ in range(4):
        z = oracle.responsibilities(x, mu, variance=0.5, assignment="gaussian")
        mu = oracle.component_means(x, z, mu)
    torch.testing.assert_close(result.means, mu, **CLOSE)


def test_default_variance_is_the_root_of_the_channels():
    x, mu = draw(2, 7, 9), draw(1, 3, 9, seed=1)
    default, stated = (unroll(x, mu, iterations=2, variance=v).reconstruction for v in (None, 3.0))
    assert torch.equal(default, stated)


def test_shared_means_equal_repeated_means():
    x, mu = draw(3, 7, 4), draw(1, 5, 4, seed=1)
    shared, repeated = (unroll(x, m, iterations=2).reconstruction for m in (mu, mu.repeat(3, 1, 1)))
    torch.testing.assert_close(shared, repeated, **CLOSE)


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("scale", ["float", "scalar", "per iteration"])
def test_gradients_agree_with_finite_differences(assignment, normalize, scale):
    x, mu = draw(2, 5, 3).requires_grad_(), draw(1, 2, 3, seed=1).requires_grad_()
    h = {"float": 0.4, "scalar": torch.tensor(0.4), "per iteration": torch.tensor([0.6, -0.3, 0.2])}[scale]
    h = h.double().requires_grad_() if isinstance(h, Tensor) else h

    def outputs(x: Tensor, mu: Tensor, h: float | Tensor) -> tuple[Tensor, ...]:
        result = unroll(
            x, mu, iterations=3, highway_scale=h, variance=0.6, assignment=assignment, normalize=normalize
        )
        return result.reconstruction, result.means, result.responsibilities()

    assert torch.autograd.gradcheck(outputs, (x, mu, h))


def test_detached_computes_the_same_without_a_graph():
    x, mu, h = (
        draw(2, 5, 3).requires_grad_(),
        draw(1, 2, 3, seed=1).requires_grad_(),
        draw(2).requires_grad_(),
    )
    options = {"iterations": 2, "highway_scale": h, "return_trajectory": True}
    exact, detached = (unroll(x, mu, gradient=mode, **options) for mode in ("unrolled", "detached"))
    for name in ("reconstruction", "means", "trajectory"):
        assert torch.equal(getattr(exact, name), getattr(detached, name))
        assert getattr(exact, name).requires_grad
        assert not getattr(detached, name).requires_grad
    assert not detached.responsibilities().requires_grad


def test_highway_carries_the_gradient_of_the_first_means():
    # Far, tight clusters: responsibilities are 0 or 1 to rounding and do not respond, so the direct path
    # h^T I is all there is.
    x = torch.tensor([[[-100.0], [-101.0], [100.0], [102.0]]], dtype=torch.float64)
    mu = torch.tensor([[[-90.0], [90.0]]], dtype=torch.float64, requires_grad=True)
    unroll(x, mu, iterations=5, highway_scale=0.8, variance=1.0).means.sum().backward()
    torch.testing.assert_close(mu.grad, torch.full_like(mu, 0.8**5), **CLOSE)
