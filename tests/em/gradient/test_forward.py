"""Early stop and Anderson acceleration: where the means go, and what is guaranteed."""

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, CLOSE, NORMALIZATIONS, draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hemnet.em import log_likelihood, unroll


def slow_problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images of two overlapping clouds each: EM crawls, as clouds closer than σ leave it in doubt."""
    offset = torch.tensor([1.6, 0.0, 0.0], dtype=torch.float64)
    x = torch.cat([draw(2, 60, 3, seed=seed), draw(2, 60, 3, seed=seed + 1) + offset], dim=1)
    return x, 0.3 * draw(2, 2, 3, seed=seed + 2)


def steps(trajectory: Tensor) -> Tensor:
    return trajectory.diff(dim=0).flatten(2).norm(dim=2) / trajectory[:-1].flatten(2).norm(dim=2)


# --- early stop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("engine", ["reference", "recompute"])
def test_an_image_stops_where_its_next_step_would_be_short(assignment, normalize, engine):
    x, mu = slow_problem()
    options = {"assignment": assignment, "normalize": normalize, "highway_scale": 0.2, "variance": 0.6}
    options |= {"iterations": 60, "return_trajectory": True, "engine": engine}
    full, result = unroll(x, mu, **options), unroll(x, mu, tolerance=1e-3, **options)
    for image in range(2):
        short = (steps(full.trajectory)[:, image] <= 1e-3 * 0.8).nonzero()
        stop = short[0].item() if len(short) else 60
        assert result.iterations[image].item() == stop < 60
        torch.testing.assert_close(result.means[image], full.trajectory[stop, image], **CLOSE)


def test_an_image_is_the_same_in_any_batch():
    x, mu = slow_problem()
    x[1] *= 0.3  # stops at another time
    options = {"iterations": 80, "tolerance": 1e-3, "variance": 0.6}
    both = unroll(x, mu, **options)
    assert both.iterations[0] != both.iterations[1]
    for image in range(2):
        alone = unroll(x[image : image + 1], mu[image : image + 1], **options)
        assert alone.iterations[0] == both.iterations[image]
        torch.testing.assert_close(alone.reconstruction[0], both.reconstruction[image], **CLOSE)
        torch.testing.assert_close(alone.responsibilities()[0], both.responsibilities()[image], **CLOSE)


@pytest.mark.parametrize("engine", ["reference", "recompute"])
def test_gradient_of_a_stopped_fit_is_that_of_the_steps_it_took(engine):
    x, mu = (tensor[:1] for tensor in slow_problem())
    x.requires_grad_()
    options = {"variance": 0.6, "engine": engine}
    stopped = unroll(x, mu, iterations=60, tolerance=1e-3, **options)
    taken = stopped.iterations.item()
    assert 0 < taken < 60
    # The reconstruction of a stopped fit is that of its last means: one E-step more than T steps make.
    means = unroll(x, mu, iterations=taken, **options).means
    expected = unroll(x, means, iterations=0, **options)
    torch.testing.assert_close(stopped.reconstruction, expected.reconstruction, **CLOSE)
    found, exact = (torch.autograd.grad(r.reconstruction.square().sum(), x)[0] for r in (stopped, expected))
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_second_derivatives_of_a_stopped_fit_are_those_of_plain_autograd(normalize):
    options = {"iterations": 30, "tolerance": 1e-2, "variance": 0.6, "normalize": normalize}
    found = []
    for engine in ("reference", "recompute"):
        x, mu = slow_problem()
        x[1] *= 0.3  # stops at another time, or not at all
        result = unroll(x.requires_grad_(), mu, engine=engine, **options)
        assert result.iterations.min() < 30
        (dx,) = torch.autograd.grad(result.reconstruction.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(dx.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


# --- Anderson -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 5), st.integers(1, 5)),
    h=st.floats(-0.95, 0.95),
    scale=st.floats(1e-2, 1e2),
    variance=st.floats(1e-1, 1e1),
    seed=st.integers(0, 2**20),
)
def test_accelerated_likelihood_never_falls(shape, h, scale, variance, seed):
    images, positions, components, channels = shape
    x = draw(images, positions, channels, seed=seed, scale=scale)
    mu = draw(images, components, channels, seed=seed + 1, scale=scale)
    result = unroll(
        x,
        mu,
        iterations=12,
        highway_scale=h,
        variance=variance,
        gradient="detached",
        acceleration="anderson",
        return_trajectory=True,
    )
    values = torch.stack([log_likelihood(x, step, variance=variance) for step in result.trajectory])
    assert result.trajectory.isfinite().all()
    # Rounding of N terms, each a difference of products of length C over variance, as for the plain step.
    largest = (x.square().sum(-1).max() + result.trajectory.square().sum(-1).max()) / variance + channels
    slack = 8 * 2**-53 * positions * (channels + components + positions + 16) * (largest + 10)
    assert (values.diff(dim=0) >= -slack).all()


def test_anderson_gets_closer_in_as_many_iterations():
    x, mu = slow_problem()
    options = {"variance": 1.0, "highway_scale": 0.0, "gradient": "detached"}
    exact = unroll(x, mu, iterations=3000, **options).means
    error = {
        acceleration: (
            unroll(x, mu, iterations=25, acceleration=acceleration, **options).means - exact
        ).norm()
        for acceleration in ("none", "anderson")
    }
    assert error["anderson"] < 0.1 * error["none"]


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_the_last_accelerated_step_is_a_plain_one(iterations):
    x, mu = slow_problem()
    options = {"variance": 0.6, "highway_scale": 0.3, "gradient": "detached", "return_trajectory": True}
    result = unroll(x, mu, iterations=iterations, acceleration="anderson", **options)
    last = unroll(x, result.trajectory[-2], iterations=1, **options)
    assert result.trajectory.shape[0] == iterations + 1
    torch.testing.assert_close(result.means, last.means, **CLOSE)
    torch.testing.assert_close(result.reconstruction, last.reconstruction, **CLOSE)


def test_accelerated_fits_stop_too_and_keep_to_themselves():
    x, mu = slow_problem()
    x[1] *= 0.3
    options = {"iterations": 200, "tolerance": 1e-6, "variance": 0.6, "gradient": "detached"}
    options |= {"acceleration": "anderson", "return_trajectory": True}
    both = unroll(x, mu, **options)
    assert (both.iterations < 200).all()
    assert both.trajectory.shape[0] == 201
    for image in range(2):
        alone = unroll(x[image : image + 1], mu[image : image + 1], **options)
        assert alone.iterations[0] == both.iterations[image]
        torch.testing.assert_close(alone.means[0], both.means[image], rtol=1e-9, atol=1e-9)


def test_one_image_at_its_fixed_point_does_not_disturb_another():
    x, mu = slow_problem()
    x[0] = x[0, :1]  # all positions alike: converged after one plain step, nothing left to mix
    means = unroll(
        x,
        mu,
        iterations=30,
        highway_scale=0.0,
        variance=0.6,
        gradient="detached",
        acceleration="anderson",
    ).means
    torch.testing.assert_close(means[0], x[0, :1].expand(2, -1), rtol=1e-10, atol=1e-10)
    assert means.isfinite().all()


@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
@pytest.mark.parametrize("gradient", ["one_step", "implicit"])
def test_acceleration_goes_with_the_modes_that_do_not_unroll(gradient):
    x, mu = slow_problem()
    x.requires_grad_()
    result = unroll(x, mu, iterations=12, gradient=gradient, acceleration="anderson", variance=0.6)
    (dx,) = torch.autograd.grad(result.reconstruction.square().sum(), x)
    assert dx.isfinite().all()
    assert dx.norm() > 0
