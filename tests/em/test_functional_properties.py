"""The EM functions: what theory promises of them, and how they behave at the limits of their input."""

import math

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, CLOSE, NORMALIZATIONS, draw
from hypothesis import given, settings
from hypothesis import strategies as st

from hemnet.em import functional, log_likelihood, unroll

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


options = st.fixed_dictionaries(
    {
        "iterations": st.integers(0, 6),
        "highway_scale": st.floats(-0.99, 0.99),
        "assignment": st.sampled_from(ASSIGNMENTS),
        "normalize": st.sampled_from(NORMALIZATIONS),
        "variance": st.floats(0.3, 10.0),
    }
)
# Another order of summation moves a number by a few hundred roundings of 2^-53 of the largest term; each of
# up to 6 iterations passes that on, at most 10-fold (a logit is a difference of numbers over a variance of
# 0.3 or more).
REORDERED = {"rtol": 1e-7, "atol": 1e-7}


@settings(max_examples=60)
@given(shape=sizes, options=options, seed=st.integers(0, 2**20))
def test_order_of_components_and_positions_does_not_matter(shape, options, seed):
    images, positions, components, channels = shape
    x, mu = draw(images, positions, channels, seed=seed), draw(images, components, channels, seed=seed + 1)
    plain = unroll(x, mu, **options)
    order = torch.randperm(components)
    by_component = unroll(x, mu[:, order], **options)
    torch.testing.assert_close(by_component.means, plain.means[:, order], **REORDERED)
    torch.testing.assert_close(by_component.reconstruction, plain.reconstruction, **REORDERED)
    order = torch.randperm(positions)
    by_position = unroll(x[:, order], mu, **options)
    torch.testing.assert_close(by_position.means, plain.means, **REORDERED)
    torch.testing.assert_close(by_position.reconstruction, plain.reconstruction[:, order], **REORDERED)


@settings(max_examples=60)
@given(shape=sizes, options=options, distance=st.floats(-1e3, 1e3), seed=st.integers(0, 2**20))
def test_gaussian_assignment_moves_with_the_origin(shape, options, distance, seed):
    images, positions, components, channels = shape
    x, mu = draw(images, positions, channels, seed=seed), draw(images, components, channels, seed=seed + 1)
    shift = distance * draw(channels, seed=seed + 2)
    options = options | {"assignment": "gaussian", "normalize": "none"}
    plain, shifted = (unroll(x + s, mu + s, **options) for s in (0, shift))
    torch.testing.assert_close(shifted.means, plain.means + shift, **REORDERED)
    torch.testing.assert_close(shifted.reconstruction, plain.reconstruction + shift, **REORDERED)


@settings(max_examples=100)
@given(
    shape=sizes,
    options=options,
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    exponent=st.integers(-30, 14),
    seed=st.integers(0, 2**20),
)
def test_everything_is_finite_forward_and_backward(shape, options, dtype, exponent, seed):
    images, positions, components, channels = shape
    # A gradient may have the size of the features over the variance, or under "l2" of one over the features;
    # float16 ends at 65504.
    scale = 10.0 ** (max(-2, min(exponent, 2)) if dtype == torch.float16 else exponent)
    x = draw(images, positions, channels, seed=seed, scale=scale).to(dtype).requires_grad_()
    mu = draw(images, components, channels, seed=seed + 1).float().requires_grad_()
    result = unroll(x, mu, **options)
    for tensor in (result.reconstruction, result.means, result.responsibilities()):
        assert tensor.isfinite().all()
    # Where components tie, an E-step multiplies a gradient by up to 2K max|x|²/σ². Features are normal, with
    # C <= 8 and K <= 6, so that |x|² <= 5²·8·scale². There are T E-steps and the readout's.
    growth = max(1.0, 2 * 6 * 25 * 8 * scale**2 / options["variance"]) ** (options["iterations"] + 1)
    if growth < torch.finfo(dtype).max ** 0.9:
        gradients = torch.autograd.grad(result.reconstruction.sum() + result.means.sum(), (x, mu))
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [0, 5, 11, 14])
def test_large_features_that_no_components_share_have_finite_gradients(assignment, dtype, exponent):
    scale = 10.0**exponent
    mu = scale * torch.tensor([[[1.0, 0.0], [-1.0, 0.5]]])
    x = (mu.repeat(1, 5, 1) + 0.1 * scale * draw(1, 10, 2).float()).to(dtype).requires_grad_()
    mu = mu.requires_grad_()
    result = unroll(x, mu, iterations=4, highway_scale=0.5, variance=0.1, assignment=assignment)
    gradients = torch.autograd.grad(result.reconstruction.sum() + result.means.sum(), (x, mu))
    assert all(gradient.isfinite().all() for gradient in (result.reconstruction, result.means, *gradients))


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
