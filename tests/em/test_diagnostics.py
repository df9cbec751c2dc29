"""What can be asked of a fit: diagnostics against the loops, gradient flow against plain autograd."""

import itertools
import math

import pytest
import torch
from _helpers.fits import ASSIGNMENTS, CLOSE, NORMALIZATIONS, draw, features, layer
from em import oracle

from hemnet.em import GradientFlow, unroll


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_diagnostics_agree_with_the_loops(assignment, normalize):
    x, mu, variance = draw(2, 9, 4), draw(2, 3, 4, seed=1), 0.7
    options = {"assignment": assignment, "variance": variance, "normalize": normalize}
    result = unroll(x, mu, iterations=3, highway_scale=0.2, return_trajectory=True, **options)
    _, trajectory, _ = oracle.unroll(x, mu, highway_scales=[0.2] * 3, **options)
    found = result.diagnostics()
    for t, mean in enumerate(trajectory):
        z = oracle.responsibilities(x, mean, variance=variance, assignment=assignment)
        torch.testing.assert_close(found.occupancy[t], z.sum(dim=1) / 9, **CLOSE)
        torch.testing.assert_close(found.entropy[t], -(z * z.log()).sum(dim=2).sum(dim=1) / 9, **CLOSE)
        likelihood = oracle.log_likelihood(x, mean, variance=variance)
        torch.testing.assert_close(found.log_likelihood[t], likelihood, **CLOSE)
    lengths = [(b - a).square().sum(dim=(1, 2)).sqrt() for a, b in itertools.pairwise(trajectory)]
    torch.testing.assert_close(found.step_length, torch.stack(lengths), **CLOSE)


def test_a_hard_assignment_has_no_entropy_and_a_soft_one_log_k():
    x = draw(1, 6, 2)
    hard = unroll(x, torch.tensor([[[0.0, 0.0], [1e6, 0.0]]]), iterations=0, return_trajectory=True)
    assert hard.diagnostics().entropy.item() == 0
    soft = unroll(x, torch.zeros(1, 4, 2), iterations=0, return_trajectory=True)
    assert soft.diagnostics().entropy.item() == pytest.approx(math.log(4))


def test_diagnostics_need_the_trajectory():
    with pytest.raises(ValueError, match="return_trajectory=True"):
        unroll(draw(1, 5, 2), draw(1, 2, 2), iterations=1).diagnostics()


# --- gradient flow ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("iterations", [0, 1, 4])
@pytest.mark.parametrize("gradient", ["unrolled", "one_step"])
def test_gradient_flow_is_that_of_plain_autograd(assignment, normalize, iterations, gradient):
    x, mu = draw(2, 37, 4).requires_grad_(), draw(2, 3, 4, seed=1).requires_grad_()
    options = {"iterations": iterations, "assignment": assignment, "normalize": normalize, "variance": 1.3}
    flows = []
    for engine in ("reference", "recompute"):
        result = unroll(x, mu, gradient=gradient, engine=engine, record_gradient_flow=True, **options)
        assert result.gradient_flow.features[-1].isnan().all()
        loss = (result.reconstruction * draw(2, 37, 4, seed=2)).sum()
        torch.autograd.grad(loss, (x, mu), allow_unused=True)
        flows.append(result.gradient_flow)
    expected, found = flows
    if gradient == "one_step":
        # The mean before the last step is a constant, whose gradient autograd does not visit.
        constant = max(iterations - 1, 0)
        assert (found.features[:constant] == 0).all()
        expected.means[constant] = found.means[constant]
    torch.testing.assert_close(found.means, expected.means, **CLOSE)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.share.sum(dim=0), torch.ones(2, dtype=torch.float64))


def test_the_parts_of_the_gradient_add_up():
    # One image, one channel, K = 1: every part is z·a, of one sign, so their norms are those of a sum.
    x = draw(1, 8, 1).requires_grad_()
    result = unroll(x, torch.zeros(1, 1, 1), iterations=3, highway_scale=0.5, record_gradient_flow=True)
    (dx,) = torch.autograd.grad(result.reconstruction.sum(), x)
    flow = result.gradient_flow
    # With K = 1 a step is mu <- h mu + (1-h) mean(x): iteration t injects (1-h) h^(T-1-t) of dloss/dmu^(T).
    expected = torch.tensor([0.125, 0.25, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(flow.features[:, 0] / (8 / math.sqrt(8)), expected)
    torch.testing.assert_close(flow.means[:, 0] / 8, torch.tensor([0.125, 0.25, 0.5, 1.0]).double())
    torch.testing.assert_close(flow.features.sum(), dx.norm())


def test_implicit_flow_splits_into_solve_and_reconstruction():
    centres = 3 * draw(1, 2, 3)
    x = (centres.repeat(1, 5, 1) + 0.3 * draw(1, 10, 3, seed=1)).requires_grad_()
    weight = draw(1, 10, 3, seed=2)
    result = unroll(x, centres, iterations=60, variance=1.0, gradient="implicit", record_gradient_flow=True)
    torch.autograd.grad((result.reconstruction * weight).sum(), x)
    flow = result.gradient_flow
    assert (flow.means[:-1] == 0).all()
    assert (flow.features[:-2] == 0).all()
    z = result.responsibilities()
    at_means = unroll(x, result.means.detach(), iterations=0, variance=1.0)
    (readout,) = torch.autograd.grad((at_means.reconstruction * weight).sum(), x)
    torch.testing.assert_close(flow.features[-1], readout.flatten(1).norm(dim=1), rtol=1e-6, atol=1e-9)
    assert (flow.features[-2] > 0).all()
    assert flow.means[-1].item() > 0.5 * (z.mT @ weight).norm().item()


def test_a_detached_fit_lets_no_gradient_through():
    result = unroll(
        draw(1, 5, 2).requires_grad_(), draw(1, 2, 2), iterations=2, gradient="detached",
        record_gradient_flow=True,
    )  # fmt: skip
    assert (result.gradient_flow.means == 0).all()
    assert (result.gradient_flow.features == 0).all()


def test_the_hook_of_a_layer_sees_each_backward_pass_until_removed():
    seen: list[GradientFlow] = []
    em, x = layer(iterations=3), features(requires_grad=True)
    expected = em(x)
    handle = em.register_gradient_flow_hook(seen.append)
    y = em(x)
    assert torch.equal(y, expected)
    assert not seen
    y.square().sum().backward()
    (flow,) = seen
    again = em.run(x, record_gradient_flow=True)
    again.reconstruction.square().sum().backward()
    assert flow.means.shape == (4, 4)
    torch.testing.assert_close(flow.means, again.gradient_flow.means)
    torch.testing.assert_close(flow.features, again.gradient_flow.features)
    em(x.detach())  # nothing to differentiate: not watched
    handle.remove()
    em(x).sum().backward()
    assert len(seen) == 1


def test_the_hook_leaves_the_gradient_alone():
    gradients = []
    for watched in (False, True):
        em, x = layer(iterations=3), features(requires_grad=True)
        if watched:
            em.register_gradient_flow_hook(lambda flow: None)
        em(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_recording_the_flow_changes_no_bit(assignment, dtype):
    for seed in range(8):
        em = layer(assignment=assignment, highway_scale=0.5)
        found = []
        for recorded in (False, True):
            x = features(seed=seed).to(dtype).requires_grad_()
            handle = em.register_gradient_flow_hook(lambda flow: None) if recorded else None
            y = em(x)
            y.square().sum().backward()
            found.append((y, x.grad))
            if handle is not None:
                handle.remove()
        (y, dx), (recorded_y, recorded_dx) = found
        assert torch.equal(y, recorded_y)
        assert torch.equal(dx, recorded_dx)
