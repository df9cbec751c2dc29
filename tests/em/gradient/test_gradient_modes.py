"""The gradient modes: one forward pass, and what each mode says of its derivative."""

import math
import re
import warnings
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from _helpers.fake_cuda import fake_cuda
from _helpers.fits import CLOSE, draw
from torch import Tensor

import hemnet.em
from hemnet.em import ConvergenceError, ConvergenceWarning, Detached, Implicit, OneStep, Unrolled, unroll
from hemnet.em.gradient.choose import MODES, Gradient, choose_mode
from hemnet.em.gradient.solvers import gmres

GRADIENTS = list(MODES)
ASSIGNMENTS_WITH_FIXED_POINTS = [("gaussian", "none"), ("gaussian", "l2"), ("dot", "none"), ("dot", "l2")]
# Enough iterations of plain EM that float64 features of this size sit at their fixed point to rounding.
CONVERGED = {"iterations": 400, "highway_scale": 0.0, "variance": 1.5}


def problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features around three points, means near them, a weight per entry of the reconstruction."""
    centres = 2 * draw(2, 3, 4, seed=seed)
    x = centres.repeat(1, 6, 1) + 0.7 * draw(2, 18, 4, seed=seed + 1)
    return x.requires_grad_(), centres + 0.1 * draw(2, 3, 4, seed=seed + 2), draw(2, 18, 4, seed=seed + 3)


def gradient(x: Tensor, mu: Tensor, weight: Tensor, **options) -> Tensor:
    (dx,) = torch.autograd.grad((unroll(x, mu, **options).reconstruction * weight).sum(), x)
    return dx


@pytest.mark.parametrize("mode", GRADIENTS)
@pytest.mark.parametrize("engine", ["reference", "recompute"])
@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
def test_all_modes_have_one_forward_pass(mode, engine):
    if (mode, engine) == ("implicit", "reference"):
        pytest.skip("refused; see test_options.py")
    x, mu, _ = problem()
    options = {"iterations": 4, "highway_scale": [0.1, 0.2, 0.3, -0.4], "return_trajectory": True}
    expected = unroll(x, mu, engine="reference", **options)
    result = unroll(x, mu, gradient=mode, engine=engine, **options)
    torch.testing.assert_close(result.reconstruction, expected.reconstruction, **CLOSE)
    torch.testing.assert_close(result.trajectory, expected.trajectory, **CLOSE)
    torch.testing.assert_close(result.responsibilities(), expected.responsibilities(), **CLOSE)
    assert result.iterations.tolist() == [4, 4]
    assert result.reconstruction.requires_grad == (mode != "detached")
    assert result.engine == engine


def test_a_name_is_the_mode_with_default_options():
    assert [choose_mode(name) for name in GRADIENTS] == [Unrolled(), Detached(), OneStep(), Implicit()]
    assert choose_mode(Implicit(solver="neumann")) == Implicit(solver="neumann")
    x, mu, weight = problem()
    for name in ("unrolled", "one_step", "implicit"):
        found = [gradient(x, mu, weight, gradient=mode, **CONVERGED) for mode in (name, choose_mode(name))]
        assert torch.equal(*found)


@pytest.mark.parametrize("mode", GRADIENTS)
@pytest.mark.parametrize("engine", ["reference", "recompute"])
@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
def test_a_mode_reaches_what_it_says(mode, engine):
    if (mode, engine) == ("implicit", "reference"):
        pytest.skip("refused; see test_options.py")
    x, mu, weight = problem()
    h = torch.full((3,), 0.2, dtype=torch.float64, requires_grad=True)
    mu.requires_grad_()
    prior = None
    if engine == "reference":  # which alone takes a model of tensors
        prior = torch.ones(mu.shape[1], dtype=torch.float64, requires_grad=True)
    inputs = {"features": x, "means": mu, "scale": h} | ({} if prior is None else {"model": prior})
    result = unroll(
        x,
        mu,
        iterations=3,
        highway_scale=h,
        prior=prior,
        gradient=mode,
        engine=engine,
        record_gradient_flow=True,
    )
    reached = set()
    if result.reconstruction.requires_grad:
        loss = (result.reconstruction * weight).sum()
        grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
        reached = {name for name, grad in zip(inputs, grads, strict=True) if grad is not None}
    assert reached == MODES[mode].reaches & inputs.keys()
    rows = (result.gradient_flow.features > 0).all(dim=1).sum().item()
    assert rows == MODES[mode]().flow_rows(3)


# --- one_step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["reference", "recompute"])
def test_one_step_is_the_last_iteration_from_constant_means(engine):
    x, mu, weight = problem()
    h = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    mu.requires_grad_()
    result = unroll(x, mu, iterations=3, highway_scale=h, gradient="one_step", engine=engine)
    dx, dmu, dh = torch.autograd.grad((result.reconstruction * weight).sum(), (x, mu, h), allow_unused=True)
    before = unroll(x, mu, iterations=2, highway_scale=h[:2]).means.detach()
    last = h[2:].detach().requires_grad_()
    one = unroll(x, before, iterations=1, highway_scale=last, engine="reference")
    expected = torch.autograd.grad((one.reconstruction * weight).sum(), (x, last))
    torch.testing.assert_close(dx, expected[0], **CLOSE)
    torch.testing.assert_close(dh, torch.cat([torch.zeros(2, dtype=torch.float64), expected[1]]), **CLOSE)
    assert dmu is None


def test_one_step_of_no_iteration_leaves_the_reconstruction():
    x, mu, weight = problem()
    options = {"iterations": 0, "engine": "recompute"}
    torch.testing.assert_close(
        gradient(x, mu, weight, gradient="one_step", **options), gradient(x, mu, weight, **options), **CLOSE
    )


# --- implicit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("assignment", "normalize"), ASSIGNMENTS_WITH_FIXED_POINTS)
@pytest.mark.parametrize("solver", ["gmres", "neumann"])
def test_at_a_fixed_point_implicit_is_the_exact_gradient(assignment, normalize, solver):
    x, mu, weight = problem()
    options = CONVERGED | {"assignment": assignment, "normalize": normalize}
    how = Implicit(solver=solver, tolerance=1e-11, max_iterations=2000, forward_tolerance=1e-9)
    expected = gradient(x, mu, weight, **options)
    found = gradient(x, mu, weight, gradient=how, **options)
    # A residual of 1e-11 grows by at most |(I - J)^-1|, under 1e3 as `expected` of 400 iterations agrees.
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_implicit_gradient_is_that_of_finite_differences():
    x, mu, weight = problem()
    how = Implicit(tolerance=1e-12, max_iterations=100)
    dx = gradient(x, mu, weight, gradient=how, **CONVERGED)
    direction = draw(*x.shape, seed=9)
    with torch.no_grad():
        above, below = (
            (unroll(x + step * direction, mu, **CONVERGED).reconstruction * weight).sum()
            for step in (1e-5, -1e-5)
        )
    # Central differences: error of order step² times the third derivative, and rounding 1e-16 / step.
    assert ((above - below) / 2e-5).item() == pytest.approx((dx * direction).sum().item(), rel=1e-6)


def test_implicit_gradient_does_not_depend_on_the_highway():
    x, mu, weight = problem()
    how = Implicit(tolerance=1e-11, max_iterations=100)
    found = [
        gradient(
            x,
            mu,
            weight,
            gradient=how,
            **(CONVERGED | {"highway_scale": h, "iterations": T}),
        )
        for h, T in ((0.0, 400), (0.5, 800), (-0.5, 400))
    ]
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found[2], found[0], rtol=1e-7, atol=1e-8)


def test_the_residual_is_reported_and_is_the_one_that_was_left():
    x, mu, weight = problem()
    how = Implicit(tolerance=1e-3)
    result = unroll(x, mu, gradient=how, **CONVERGED)
    assert result.implicit_residual.isnan().all()
    (result.reconstruction * weight).sum().backward()
    assert (result.implicit_residual <= 2e-3).all()
    assert (result.implicit_residual > 1e-12).any()
    assert unroll(x, mu, iterations=1).implicit_residual is None


def test_means_that_have_not_converged_are_not_passed_over():
    x, mu, _ = problem()
    with pytest.warns(ConvergenceWarning, match="means have not converged"):
        unroll(x, mu, iterations=1, gradient="implicit")
    with pytest.raises(ConvergenceError, match=r"forward_tolerance|Raise iterations"):
        unroll(x, mu, iterations=1, gradient=Implicit(on_failure="raise"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        unroll(x, mu, iterations=1, gradient="implicit")  # no gradient, nothing to be wrong


@pytest.mark.parametrize("solver", ["gmres", "neumann"])
def test_a_solve_that_stops_short_is_not_passed_over(solver):
    x, mu, weight = problem()
    short = {"solver": solver, "tolerance": 1e-10, "max_iterations": 1}
    with pytest.warns(ConvergenceWarning, match=f"linear solve.*{solver}"):
        gradient(x, mu, weight, gradient=Implicit(**short), **CONVERGED)
    with pytest.raises(ConvergenceError, match="max_iterations"):
        gradient(x, mu, weight, gradient=Implicit(**short, on_failure="raise"), **CONVERGED)


def test_an_image_without_a_gradient_solves_to_zero():
    x, mu, weight = problem()
    weight[0] = 0
    dx = gradient(x, mu, weight, gradient="implicit", **CONVERGED)
    assert torch.equal(dx[0], torch.zeros_like(dx[0]))
    assert dx[1].isfinite().all()
    assert dx[1].norm() > 0


@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
def test_second_derivatives_of_implicit_are_refused():
    x, mu, weight = problem()
    loss = (unroll(x, mu, iterations=5, gradient="implicit").reconstruction * weight).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_every_mode_can_be_called_by_its_name() -> None:
    names, _ = get_args(Gradient)
    assert set(get_args(names)) == set(MODES)
    assert {mode.__name__ for mode in MODES.values()} <= set(hemnet.em.__all__)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "cg"}, "solver is 'cg'"),
        ({"on_failure": "ignore"}, "on_failure 'ignore'"),
        ({"tolerance": "1e-4"}, "tolerance is '1e-4'"),
        ({"tolerance": True}, "tolerance is True"),
        ({"tolerance": None}, "tolerance is None"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"forward_tolerance": 0.0}, "forward_tolerance is 0.0"),
        ({"forward_tolerance": math.nan}, "forward_tolerance is nan"),
        ({"max_iterations": 2.5}, "max_iterations is 2.5"),
        ({"max_iterations": True}, "max_iterations is True"),
        ({"max_iterations": 0}, "max_iterations is 0"),
    ],
    ids=str,
)
def test_an_option_of_implicit_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Implicit(**options)


def test_the_forward_tolerance_decides_whether_means_have_converged():
    x, mu = draw(1, 20, 4).requires_grad_(), draw(1, 3, 4, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unroll(x, mu, iterations=2, gradient=Implicit(forward_tolerance=10.0))
    with pytest.raises(ConvergenceError, match=r"tolerance 1\.0e-12"):
        unroll(x, mu, iterations=2, gradient=Implicit(forward_tolerance=1e-12, on_failure="raise"))


@dataclass(frozen=True)
class Noted(Implicit):
    """A mode of a user's own, with a field more."""

    note: str = "none"


def test_a_mode_derived_from_implicit_may_have_fields_of_its_own():
    x, mu = draw(1, 20, 4).requires_grad_(), draw(1, 3, 4, seed=1)
    found = []
    for mode in (Implicit(forward_tolerance=10.0), Noted(forward_tolerance=10.0, note="mine")):
        y = unroll(x, mu, iterations=8, gradient=mode).reconstruction
        found.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert torch.equal(*found)


def test_the_small_solve_of_gmres_is_on_the_cpu(monkeypatch):
    devices = []

    def note(h_BJJ):
        devices.append(h_BJJ.device.type)
        raise StopIteration

    monkeypatch.setattr(torch.linalg, "pinv", note)
    with fake_cuda():
        d_BKC = torch.empty(2, 3, 4, device="cuda")
        with pytest.raises(StopIteration):
            gmres(lambda w_BKC: w_BKC / 2, d_BKC, 1e-4, 5)
    assert devices == ["cpu"]
