"""The EM functions: against the loops, against finite differences, and against what theory promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hemnet.em import functional, log_likelihood, reference, unroll

# The loops add with math.fsum (exact), the fast code in blocks; both stay within a few hundred roundings of
# 2^-53 of the largest term for the sizes here, and 1e-12 is 9000 of them.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
ASSIGNMENTS = ["gaussian", "dot"]
NORMALIZATIONS = ["none", "l2"]


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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
    torch.testing.assert_close(actual, reference.responsibilities(x, mu, **options), **CLOSE)


def test_component_means_agree_with_the_loops(problem):
    x, mu, z = problem
    z[:, :, 0] = 0  # an empty component
    expected = reference.component_means(x, z, mu)
    torch.testing.assert_close(functional.component_means(x, z, mu), expected, **CLOSE)
    torch.testing.assert_close(expected[:, 0], mu[:, 0])


@pytest.mark.parametrize("h", [-0.7, 0.0, 0.3])
def test_newton_step_agrees_with_the_loops(problem, h):
    _, mu, _ = problem
    m = mu.flip(1) + 1
    expected = reference.newton_step(mu, m, h)
    torch.testing.assert_close(functional.newton_step(mu, m, h), expected, **CLOSE)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_normalize_means_agrees_with_the_loops(problem, normalize):
    _, mu, _ = problem
    mu[0, 0] = 0
    expected = reference.normalize_means(mu, normalize)
    torch.testing.assert_close(functional.normalize_means(mu, normalize), expected, **CLOSE)


def test_reconstruct_agrees_with_the_loops(problem):
    _, mu, z = problem
    torch.testing.assert_close(functional.reconstruct(z, mu), reference.reconstruct(z, mu), **CLOSE)


@pytest.mark.parametrize("variance", [0.05, 1.0, 30.0])
def test_log_likelihood_agrees_with_the_loops_and_with_torch_distributions(problem, variance):
    x, mu, _ = problem
    actual = log_likelihood(x, mu, variance=variance)
    torch.testing.assert_close(actual, reference.log_likelihood(x, mu, variance=variance), **CLOSE)
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
    y, trajectory, z = reference.unroll(x, mu, highway_scales=scales, **options)
    torch.testing.assert_close(result.trajectory, trajectory, **CLOSE)
    torch.testing.assert_close(result.means, trajectory[-1], **CLOSE)
    torch.testing.assert_close(result.reconstruction, y, **CLOSE)
    torch.testing.assert_close(result.responsibilities(), z, **CLOSE)


def test_scale_zero_is_plain_em(problem):
    x, mu, _ = problem
    result = unroll(x, mu, iterations=4, highway_scale=0.0, variance=0.5)
    for _ in range(4):
        z = reference.responsibilities(x, mu, variance=0.5, assignment="gaussian")
        mu = reference.component_means(x, z, mu)
    torch.testing.assert_close(result.means, mu, **CLOSE)


def test_default_variance_is_the_root_of_the_channels():
    x, mu = draw(2, 7, 9), draw(1, 3, 9, seed=1)
    default, stated = (unroll(x, mu, iterations=2, variance=v).reconstruction for v in (None, 3.0))
    assert torch.equal(default, stated)


def test_shared_means_equal_repeated_means():
    x, mu = draw(3, 7, 4), draw(1, 5, 4, seed=1)
    shared, repeated = (unroll(x, m, iterations=2).reconstruction for m in (mu, mu.repeat(3, 1, 1)))
    assert torch.equal(shared, repeated)


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


# --- what theory promises -----------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 6), st.integers(1, 8))


@settings(deadline=None, max_examples=100)
@given(
    shape=sizes,
    h=st.floats(-0.999, 0.999),
    scale=st.floats(1e-2, 1e2),
    variance=st.floats(1e-2, 1e2),
    seed=st.integers(0, 2**20),
)
def test_log_likelihood_never_falls(shape, h, scale, variance, seed):
    images, positions, components, channels = shape
    x = draw(images, positions, channels, seed=seed, scale=scale)
    mu = draw(images, components, channels, seed=seed + 1, scale=scale)
    result = unroll(x, mu, iterations=6, highway_scale=h, variance=variance, return_trajectory=True)
    values = torch.stack([log_likelihood(x, step, variance=variance) for step in result.trajectory])
    # Each of the N terms of L is a difference of dot products of length C over variance, whose rounding is
    # below (C + a few) units of the largest magnitude met; adding N of them adds N more units; the rounding
    # of the step itself enters L through a gradient of the same size. 8 covers the constants.
    largest = (x.square().sum(-1).max() + result.trajectory.square().sum(-1).max()) / variance
    largest = largest + channels * abs(math.log(2 * math.pi * variance)) + math.log(components)
    slack = 8 * 2**-53 * positions * (channels + components + positions + 8) * largest
    assert (values.diff(dim=0) >= -slack).all()


def test_over_relaxation_beyond_the_guarantee_can_lower_the_likelihood():
    # The guarantee is sharp: at h < -1 the same property fails, so the test above can fail.
    x, mu = draw(1, 20, 3), draw(1, 1, 3, seed=1)
    step = functional.newton_step(mu, x.mean(dim=1, keepdim=True), -1.5)
    assert (log_likelihood(x, step, variance=1.0) < log_likelihood(x, mu, variance=1.0)).all()


def test_gradient_of_q_is_the_gap_to_the_m_step_and_equals_the_gradient_of_l():
    x, mu, variance = draw(2, 7, 4), draw(2, 3, 4, seed=1).requires_grad_(), 0.8
    z = functional.responsibilities(x, mu, variance=variance, assignment="gaussian").detach()
    q = -(z * torch.cdist(x, mu).square()).sum() / (2 * variance)
    (q_gradient,) = torch.autograd.grad(q, mu)
    mass = z.sum(dim=1).unsqueeze(-1)
    expected = mass / variance * (functional.component_means(x, z, mu) - mu)
    torch.testing.assert_close(q_gradient, expected, **CLOSE)
    (l_gradient,) = torch.autograd.grad(log_likelihood(x, mu, variance=variance).sum(), mu)
    torch.testing.assert_close(l_gradient, expected, **CLOSE)


@pytest.mark.parametrize(("h", "data_variance"), [(0.0, 0.5), (0.6, 0.5), (0.0, 2.0), (0.6, 2.0)])
def test_means_merge_or_part_by_the_stated_factor(h, data_variance):
    # Two means 1e-4 apart, near the mean of data of variance λ: one iteration scales their distance by
    # h + (1-h) λ/σ², up to terms of relative order 1e-4² · kurtosis.
    x = draw(1, 400, 1)
    x = (x - x.mean()) / x.std(correction=0) * math.sqrt(data_variance)
    mu = torch.tensor([[[-5e-5], [5e-5]]], dtype=torch.float64)
    means = unroll(x, mu, iterations=1, highway_scale=h, variance=1.0).means
    factor = (means[0, 1] - means[0, 0]) / 1e-4
    assert factor.item() == pytest.approx(h + (1 - h) * data_variance, rel=1e-6)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_order_of_components_and_positions_does_not_matter(assignment, normalize):
    x, mu = draw(2, 9, 4), draw(2, 5, 4, seed=1)
    options = {"iterations": 3, "assignment": assignment, "normalize": normalize}
    plain = unroll(x, mu, **options)
    components, positions = torch.tensor([3, 0, 4, 1, 2]), torch.randperm(9)
    by_component = unroll(x, mu[:, components], **options)
    torch.testing.assert_close(by_component.means, plain.means[:, components], **CLOSE)
    torch.testing.assert_close(by_component.reconstruction, plain.reconstruction, **CLOSE)
    by_position = unroll(x[:, positions], mu, **options)
    torch.testing.assert_close(by_position.means, plain.means, **CLOSE)
    torch.testing.assert_close(by_position.reconstruction, plain.reconstruction[:, positions], **CLOSE)


def test_gaussian_assignment_moves_with_the_origin():
    x, mu, shift = draw(2, 9, 4), draw(2, 5, 4, seed=1), draw(4, seed=2, scale=3.0)
    plain, shifted = (unroll(x + s, mu + s, iterations=3) for s in (0, shift))
    torch.testing.assert_close(shifted.means, plain.means + shift, **CLOSE)
    torch.testing.assert_close(shifted.reconstruction, plain.reconstruction + shift, **CLOSE)


# --- limits -------------------------------------------------------------------------------------------------


def test_an_empty_component_keeps_its_mean_and_passes_finite_gradients():
    x = draw(1, 6, 2).float().requires_grad_()
    far = torch.tensor([[[0.0, 0.0], [1e4, 1e4]]], requires_grad=True)
    result = unroll(x, far, iterations=2, highway_scale=0.0, variance=1.0)
    assert result.responsibilities()[..., 1].max() == 0
    assert torch.equal(result.means[0, 1], far[0, 1])
    gradients = torch.autograd.grad(result.means.sum() + result.reconstruction.sum(), (x, far))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert torch.equal(gradients[1][0, 1], torch.ones(2))


def test_a_component_with_little_mass_still_moves_to_the_data():
    # z is about exp(-(8² )/2) = 1e-14 here: tiny, yet well above EMPTY_MASS, and EM must use it.
    x = torch.tensor([[[0.0], [0.1]]])
    means = unroll(x, torch.tensor([[[0.0], [8.0]]]), iterations=1, highway_scale=0.0, variance=1.0).means
    assert 0.0 <= means[0, 1].item() <= 0.1


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e6, 1e12])
def test_extreme_features_stay_finite_forward_and_backward(assignment, normalize, scale):
    x = draw(2, 30, 8, scale=scale).float().requires_grad_()
    mu = draw(2, 5, 8, seed=1).float().requires_grad_()
    result = unroll(x, mu, iterations=4, assignment=assignment, normalize=normalize, variance=1.0)
    result.reconstruction.sum().backward()
    assert result.reconstruction.isfinite().all()
    assert x.grad.isfinite().all()
    assert mu.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_state_is_at_least_float32_and_the_reconstruction_keeps_its_type(dtype):
    x, mu = draw(2, 9, 4).to(dtype), draw(2, 5, 4, seed=1).float()
    result = unroll(x, mu, iterations=2)
    state = torch.promote_types(dtype, torch.float32)
    assert (result.reconstruction.dtype, result.means.dtype) == (dtype, state)
    assert result.responsibilities().dtype == log_likelihood(x, mu, variance=1.0).dtype == state


def test_autocast_changes_nothing():
    x, mu = draw(2, 9, 4).float(), draw(2, 5, 4, seed=1).float()
    plain = unroll(x, mu, iterations=2), log_likelihood(x, mu, variance=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = unroll(x, mu, iterations=2), log_likelihood(x, mu, variance=1.0)
        z = cast[0].responsibilities()
    assert torch.equal(cast[0].means, plain[0].means)
    assert torch.equal(cast[0].reconstruction, plain[0].reconstruction)
    assert torch.equal(z, plain[0].responsibilities())
    assert torch.equal(cast[1], plain[1])


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_shows_in_its_image_and_nowhere_else(assignment, value):
    x, mu = draw(2, 9, 4), draw(1, 5, 4, seed=1)
    clean = unroll(x, mu, iterations=2, assignment=assignment)
    x[0, 3, 1] = value
    result = unroll(x, mu, iterations=2, assignment=assignment)
    assert result.means[0].isnan().any()
    torch.testing.assert_close(result.means[1], clean.means[1], **CLOSE)


def test_no_positions_leave_the_means():
    mu = draw(1, 3, 4)
    result = unroll(torch.empty(1, 0, 4, dtype=torch.float64), mu, iterations=2, highway_scale=0.0)
    assert torch.equal(result.means, mu)
    assert result.reconstruction.shape == (1, 0, 4)
