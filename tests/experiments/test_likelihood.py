"""What docs/method.md says of the dot product of Eq. 8 (Song, Kim and Shim, AAAI 2021) and the likelihood.

Shape suffixes: B images, N positions, C channels, K components.
"""

import math

import likelihood
import pytest
import torch
import torch.nn.functional as F
from _helpers.fits import ASSIGNMENTS, draw
from _helpers.tiny import PLAIN
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from hemnet.config.compose import load
from hemnet.em import log_likelihood, unroll
from hemnet.em.functional import responsibilities
from hemnet.train import train

# Three positions, two channels and components: σ² is sqrt(2) by default.
POINTS = torch.tensor([[[7.0, 8.0], [1.0, 4.0], [-3.0, 10.0]]], dtype=torch.float64)
START = torch.tensor([[[-5.0, 8.0], [6.0, 6.0]]], dtype=torch.float64)


def tilted(mu_KC, variance: float) -> MixtureSameFamily:
    """The mixture of the dot product, by torch.distributions: weights in proportion to exp(|mu_k|²/2σ²)."""
    weights = Categorical(logits=mu_KC.square().sum(1) / (2 * variance))
    return MixtureSameFamily(weights, Independent(Normal(mu_KC, torch.full_like(mu_KC, variance**0.5)), 1))


def test_the_dot_product_is_the_posterior_of_tilted_weights() -> None:
    x_NC, mu_KC, variance = draw(40, 6, seed=1), draw(5, 6, seed=2, scale=2.0), 1.7
    mixture = tilted(mu_KC, variance)
    joint_NK = mixture.component_distribution.log_prob(x_NC[:, None]) + mixture.mixture_distribution.logits
    z_BNK = responsibilities(x_NC[None], mu_KC[None], variance=variance, assignment="dot")
    torch.testing.assert_close(z_BNK[0], torch.softmax(joint_NK, dim=1), rtol=1e-12, atol=1e-12)
    found_B = likelihood.tilted_log_likelihood(x_NC[None], mu_KC[None], variance)
    torch.testing.assert_close(found_B[0], mixture.log_prob(x_NC).sum(), rtol=1e-12, atol=0)
    # A position that counts twice is as two.
    twice_N = torch.tensor([0, *range(40)])
    course = likelihood.follow(x_NC[None, twice_N], mu_KC[None, None], variance)
    weighted = likelihood.follow(
        x_NC[None], mu_KC[None, None], variance, torch.ones(1, 40).index_fill(1, torch.tensor(0), 2)
    )
    torch.testing.assert_close(weighted, course, rtol=1e-12, atol=0)


def test_its_fixed_points_are_not_stationary_for_either_likelihood() -> None:
    x_BNC = draw(1, 30, 4, seed=3, scale=3.0)
    fit = unroll(
        x_BNC, draw(1, 3, 4, seed=4, scale=3.0), iterations=3000, highway_scale=0.5, assignment="dot"
    )
    mu_BKC = fit.means.requires_grad_()
    after_BKC = unroll(x_BNC, mu_BKC, iterations=1, highway_scale=0.0, assignment="dot").means
    torch.testing.assert_close(after_BKC, mu_BKC, rtol=1e-9, atol=1e-9)
    for value_B in (
        log_likelihood(x_BNC, mu_BKC, variance=2.0),
        likelihood.tilted_log_likelihood(x_BNC, mu_BKC, 2.0),
    ):
        assert torch.autograd.grad(value_B.sum(), mu_BKC)[0].abs().max() > 0.1


@pytest.mark.parametrize("h", [0.0, 0.5])
def test_its_steps_may_go_to_and_fro_for_ever(h: float) -> None:
    """So no function of the means rises at every step that moves them, and neither likelihood does."""
    fit = unroll(POINTS, START, iterations=402, highway_scale=h, assignment="dot", return_trajectory=True)
    before, there, back = fit.trajectory[400:]
    torch.testing.assert_close(back, before, rtol=1e-12, atol=1e-12)
    assert (there - before).abs().max() > 0.3
    course = likelihood.follow(POINTS, fit.trajectory[400:], math.sqrt(2))
    assert course.equal.diff().min() < 0
    assert course.tilted.diff().min() < 0
    if h == 0.5:  # as quoted
        torch.testing.assert_close(
            course.equal.diff().abs(), torch.full((1, 2), 0.22).double(), atol=5e-3, rtol=0
        )
        torch.testing.assert_close(
            course.tilted.diff().abs(), torch.full((1, 2), 0.98).double(), atol=5e-3, rtol=0
        )


@pytest.mark.parametrize("h", [-0.5, 0.0, 0.5, 0.9])
def test_the_gaussian_from_the_same_start_never_falls(h: float) -> None:
    fit = unroll(
        POINTS, START, iterations=402, highway_scale=h, assignment="gaussian", return_trajectory=True
    )
    # Sums of three terms below 100.
    assert likelihood.follow(POINTS, fit.trajectory, math.sqrt(2)).equal.diff().min() > -1e-13


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("h", [-0.5, 0.0, 0.5, 0.9])
def test_means_merge_by_the_factor_that_the_layer_states(assignment: str, h: float) -> None:
    """Near the state of all means in the image's mean, wherever that is: h + (1 - h)·λ/variance."""
    variances_C, variance = torch.tensor([0.2, 1.0, 3.0, 9.0], dtype=torch.float64), 3.0
    raw_NC = draw(50, 4, seed=5)
    q_NC = torch.linalg.qr(raw_NC - raw_NC.mean(0)).Q * math.sqrt(50)
    x_NC = q_NC * variances_C.sqrt() + 2.0
    apart_KC = 1e-6 * draw(3, 4, seed=6)
    mu_BKC = (x_NC.mean(0) + apart_KC)[None]
    after_KC = unroll(
        x_NC[None], mu_BKC, iterations=1, highway_scale=h, assignment=assignment, variance=variance
    ).means[0]
    factor_C = h + (1 - h) * variances_C / variance
    # The next order is of the size of apart², 1e-12.
    expected_KC = (apart_KC - apart_KC.mean(0)) * factor_C
    torch.testing.assert_close(after_KC - after_KC.mean(0), expected_KC, rtol=0, atol=1e-10)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("h", [0.0, 0.5, 0.9])
def test_with_unit_means_eq_5_does_not_fall_for_h_from_0(assignment: str, h: float) -> None:
    """Both E-steps are then one, and normalising keeps the part of Q that a step of 0 <= h < 1 has won."""
    x_BNC, mu_BKC = draw(6, 40, 5, seed=7, scale=3.0), F.normalize(draw(6, 4, 5, seed=8), dim=2)
    fit = unroll(
        x_BNC, mu_BKC, iterations=16, highway_scale=h, assignment=assignment, normalize="l2", variance=0.5,
        return_trajectory=True,
    )  # fmt: skip
    # Likelihoods of the size of 100 nats per position: 2^-53 of that, a few times.
    assert likelihood.follow(x_BNC, fit.trajectory, 0.5).equal.diff(dim=1).min() > -1e-12


def test_a_run_is_fitted_as_it_was_trained(make_camvid, tmp_path) -> None:
    overrides = [
        *PLAIN,
        "experiment=camvid_hem_cpu",
        f"data.root={make_camvid()}",
        f"run_dir={tmp_path / 'run'}",
    ]
    train(load([*overrides, "trainer.max_epochs=1", "model.head.iterations=2"]))
    found = likelihood.of_run(str(tmp_path / "run"), None, images=2)
    [(setting, (course, spread_T))] = found.items()
    assert setting == f"dot, σ² = {math.sqrt(8):g}, h = 0.5, T = 2"
    assert course.equal.shape == course.tilted.shape == (2, 3)
    assert course.equal.isfinite().all()
    assert spread_T > 0
    [(_, (longer, _))] = likelihood.of_run(str(tmp_path / "run"), 5, images=1).items()
    torch.testing.assert_close(longer.equal[:, :3], course.equal[:1], rtol=1e-12, atol=0)


def test_steps_that_fell_are_counted() -> None:
    assert likelihood.step_cells(torch.tensor([[0.0, 1.0, 0.5, 0.2], [0.0, 0.0, 1.0, 1.0]])) == (
        "2 of 6 | -0.4 | -0.5 | +0.6"
    )
