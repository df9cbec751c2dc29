"""HighwayEM: the layer around the functions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from _helpers.fits import CHANNELS, COMPONENTS, expected_means, features, layer, step
from torch import nn

import hemnet.em
from hemnet.em import HighwayEM, Implicit, OneStep, unroll
from hemnet.em.highway import LARGEST_SCALE

# --- forward ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("means", ["learned", "moving_average"])
def test_forward_is_unroll_over_the_positions(means):
    em, x = layer(highway_scale=[0.3, -0.2], means=means).eval(), features()
    result = unroll(
        x.permute(0, 2, 3, 1).reshape(4, 15, CHANNELS),
        em.means[None],
        iterations=2,
        highway_scale=[0.3, -0.2],
        assignment="dot",
    )
    torch.testing.assert_close(em(x), result.reconstruction.reshape(4, 5, 3, CHANNELS).permute(0, 3, 1, 2))
    torch.testing.assert_close(em.run(x).means, result.means)


def test_learned_means_and_features_get_the_gradient():
    em, x = layer(means="learned"), features(requires_grad=True)
    em(x).square().sum().backward()
    assert em.means.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_memory_format_are_kept(memory_format, dtype):
    x = features().to(dtype).contiguous(memory_format=memory_format)
    y = layer()(x)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_state_in_float32(dtype):
    em, convolution = layer(), nn.Conv2d(CHANNELS, CHANNELS, 1)
    with torch.autocast("cpu", dtype=dtype):
        x = convolution(features())
        result = em.run(x)
        y = em(x)
    assert x.dtype == y.dtype == dtype
    assert result.means.dtype == result.responsibilities().dtype == em.means.dtype == torch.float32
    y.sum().backward()
    assert convolution.weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_half_precision_are_iterated_on_in_float32(dtype):
    em, x = layer(), features().to(dtype)
    halves, floats = em.run(x), em.run(x.float())
    assert halves.means.dtype == halves.responsibilities().dtype == torch.float32
    # Bit for bit: nothing but the features has been rounded.
    assert torch.equal(halves.means, floats.means)


def test_initial_means_follow_the_global_generator_and_break_symmetry():
    assert torch.equal(layer().means, layer().means)
    for normalize in ("none", "l2"):
        means = layer(normalize=normalize).means
        assert torch.pdist(means).min() > 0.1
    torch.testing.assert_close(means.norm(dim=1), torch.ones(COMPONENTS))


# --- the highway scale and the iterations of evaluation -----------------------------------------------------


@pytest.mark.parametrize("learn_scale", ["shared", "per_iteration"])
def test_a_learned_scale_starts_where_it_is_told_trains_and_stays_in_range(learn_scale):
    em, x = layer(iterations=3, highway_scale=-0.4, learn_scale=learn_scale), features()
    fixed = layer(iterations=3, highway_scale=-0.4)
    torch.testing.assert_close(em(x), fixed(x))
    assert em.scale_logit.shape == ((1,) if learn_scale == "shared" else (3,))
    (-em(x).square().sum()).backward()
    assert em.scale_logit.grad.abs().min() > 0
    for extreme in (1e4, -1e4):
        with torch.no_grad():
            em.scale_logit.fill_(extreme)
        assert em.scale(3).abs().max() <= LARGEST_SCALE < 1
        assert em(x).isfinite().all()


def test_a_learned_schedule_starts_from_a_schedule():
    em = layer(iterations=2, highway_scale=[0.1, -0.2], learn_scale="per_iteration")
    torch.testing.assert_close(em.scale(2).detach(), torch.tensor([0.1, -0.2]))
    assert "scale_logit" in em.state_dict()


def test_evaluation_may_take_other_iterations():
    em, x = layer(iterations=2, highway_scale=[0.3, -0.2], iterations_eval=4), features()
    options = {"assignment": "dot", "variance": em.options.variance, "engine": "reference"}
    positions, start = x.flatten(2).mT, em.means[None]
    training = unroll(positions, start, iterations=2, highway_scale=[0.3, -0.2], **options)
    torch.testing.assert_close(em.run(x).means, training.means)
    longer = unroll(positions, start, iterations=4, highway_scale=[0.3, -0.2, -0.2, -0.2], **options)
    torch.testing.assert_close(em.eval().run(x).means, longer.means)
    em.iterations_eval = 1
    shorter = unroll(positions, start, iterations=1, highway_scale=[0.3], **options)
    torch.testing.assert_close(em.run(x).means, shorter.means)
    learned = layer(iterations=2, highway_scale=[0.3, -0.2], learn_scale="per_iteration", iterations_eval=4)
    torch.testing.assert_close(learned.eval().run(x).means, longer.means)


def test_tolerance_is_for_evaluation_alone():
    em, x = layer(iterations=30, tolerance=1e-2), features()
    assert em.run(x).iterations.tolist() == [30] * 4
    assert em.eval().run(x).iterations.min() < 30


# --- compilation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)], ids=str)
def test_compiles_to_one_graph_and_still_updates(backend):
    em, x = layer(), features(requires_grad=True)
    expected, expected_step = em.run(x).reconstruction.mT.reshape(x.shape), expected_means(em, x)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    torch.compiler.reset()
    y = torch.compile(em, fullgraph=True, backend=backend)(x)
    y.square().sum().backward()
    step()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, expected_gradient, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(em.means, expected_step)


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"means": "learned", "gradient": "detached"}, "moving_average"),
        ({"means": "buffer"}, "means is 'buffer'"),
        ({"momentum": 1.5}, r"momentum is 1\.5"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"num_components": 0}, "num_components is 0"),
        ({"highway_scale": [0.5]}, "1 values for 3 iterations"),
        ({"highway_scale": torch.tensor(0.5)}, "give numbers, or let the layer learn"),
        ({"highway_scale": nn.Parameter(torch.tensor(0.5))}, "give numbers, or let the layer learn"),
        ({"channel_dim": 2}, "channel_dim is 2"),
        ({"process_group": "all"}, "process_group is 'all'"),
        ({"engine": "cuda"}, "engine is 'cuda'"),
        ({"means": "learned", "gradient": "implicit"}, "moving_average"),
        ({"iterations_eval": -1}, "iterations_eval is -1"),
        ({"tolerance": -1.0}, r"tolerance is -1\.0"),
        ({"learn_scale": "yes"}, "learn_scale is 'yes'"),
        ({"learn_scale": "shared", "gradient": "detached"}, "no gradient reaches the highway scale"),
        ({"learn_scale": "shared", "highway_scale": [0.1, 0.2], "iterations": 2}, "give one number"),
        ({"learn_scale": "shared", "highway_scale": 0.995}, "must start inside"),
        ({"learn_scale": "per_iteration", "iterations": 0}, "no step to scale"),
    ],
    ids=str,
)
def test_construction_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        HighwayEM(CHANNELS, **options)


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((2, CHANNELS + 1, 5, 3), f"set channels={CHANNELS + 1}"),
        ((2, 5, 3, CHANNELS), "set channel_dim=-1"),
        ((2, 15, CHANNELS), "set channel_dim=-1"),
        ((2, CHANNELS), "with positions as"),
    ],
)
def test_features_of_the_wrong_shape_are_refused(shape, remedy):
    with pytest.raises(ValueError, match=remedy):
        layer()(torch.zeros(shape))
    if len(shape) > 2:
        turned = [shape[0], shape[-1], *shape[1:-1]] if shape[1] != CHANNELS + 1 else shape
        with pytest.raises(ValueError, match=f"set channel_dim=1|set channels={CHANNELS + 1}|set channels=3"):
            layer(channel_dim=-1)(torch.zeros(turned))


@pytest.mark.parametrize("positions", [(15,), (5, 3), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("channel_dim", [1, -1])
def test_positions_may_have_any_number_of_dimensions(positions, channel_dim):
    """Tokens, sequences, images and volumes with the same positions are the same fit."""
    x_BNC = torch.randn(4, math.prod(positions), CHANNELS, generator=torch.Generator().manual_seed(1))
    em = layer(channel_dim=channel_dim)
    expected = unroll(x_BNC, em.means[None], iterations=2, assignment="dot").reconstruction
    x = x_BNC.unflatten(1, positions)
    y = em(x if channel_dim == -1 else x.movedim(-1, 1))
    torch.testing.assert_close(y if channel_dim == -1 else y.movedim(1, -1), expected.unflatten(1, positions))


def test_volumes_keep_their_memory_format():
    x = torch.randn(2, CHANNELS, 2, 4, 3).contiguous(memory_format=torch.channels_last_3d)
    assert layer()(x).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("sets", [1, 4])
def test_initial_means_may_be_given_and_leave_those_of_the_layer(sets):
    em, x = layer(), features(requires_grad=True)
    before, given = em.means.clone(), torch.randn(sets, 7, CHANNELS, requires_grad=True)
    expected = unroll(x.flatten(2).mT, given, iterations=2, assignment="dot").reconstruction
    y = em(x, given)
    torch.testing.assert_close(y.flatten(2).mT, expected)
    y.sum().backward()
    assert given.grad.abs().sum() > 0
    step()
    assert torch.equal(em.means, before)
    with pytest.raises(ValueError, match="mu has shape"):
        em(x, torch.randn(3, 7, CHANNELS))


@pytest.mark.parametrize("name", ["channels", "num_components", "iterations", "iterations_eval"])
def test_counts_are_whole_numbers_of_python_or_numpy(name):
    options = {"channels": CHANNELS, "num_components": 4, "iterations": 2, "iterations_eval": 2}
    assert HighwayEM(**options | {name: np.int64(options[name])})(features()).shape == features().shape
    for wrong in (float(options[name]), True, np.float32(options[name]), "3", -1):
        with pytest.raises(ValueError, match=f"{name} is "):
            HighwayEM(**options | {name: wrong})


def test_a_shared_scale_of_an_old_checkpoint_is_read():
    em = layer(learn_scale="shared")
    old = em.state_dict() | {"scale_logit": torch.tensor(0.25)}
    em.load_state_dict(old)
    torch.testing.assert_close(em.scale_logit.detach(), torch.tensor([0.25]))
    assert old["scale_logit"].ndim == 0


def test_repr_rebuilds_the_layer():
    for options in (
        {},
        {"means": "learned", "highway_scale": [0.1, 0.2]},
        {"gradient": Implicit(tolerance=0.1)},
    ):
        em = layer(**options)
        assert repr(eval(repr(em), vars(hemnet.em))) == repr(em)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("assignment", "gaussian"),
        ("variance", 2.5),
        ("normalize", "l2"),
        ("engine", "reference"),
        ("tolerance", 1e-3),
    ],
)
def test_an_option_that_is_assigned_is_an_option_of_the_layer(name: str, value: object) -> None:
    made = HighwayEM(CHANNELS, COMPONENTS)
    assert getattr(made, name) == getattr(made.options, name) != value
    setattr(made, name, value)
    assert getattr(made, name) == getattr(made.options, name) == value
    with pytest.raises(ValueError, match=name):
        setattr(made, name, "none of these")


def test_normalize_has_one_value_wherever_it_is_assigned():
    for assign in (
        lambda em: setattr(em, "normalize", "l2"),
        lambda em: setattr(em, "options", replace(em.options, normalize="l2")),
    ):
        em, x = layer(normalize="none"), features()
        assign(em)
        assert "normalize='l2'" in repr(em)
        expected = layer(normalize="l2")
        with torch.no_grad():
            expected.means.copy_(em.means)  # of no length in particular: the start makes them unit vectors
        torch.testing.assert_close(em(x), expected(x))
        torch.testing.assert_close(em.start().norm(dim=2), torch.ones(1, COMPONENTS))


def test_learned_unit_means_start_at_unit_length_after_any_step():
    em = layer(means="learned", normalize="l2")
    with torch.no_grad():
        em.means.mul_(3.0)
    torch.testing.assert_close(em.start().norm(dim=2), torch.ones(1, COMPONENTS))


def test_a_gradient_mode_may_be_assigned_by_its_name():
    em, x = layer(), features(requires_grad=True)
    em.gradient = "one_step"
    assert em.gradient == OneStep()
    (found,) = torch.autograd.grad(em(x).sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(layer(gradient="one_step")(x).sum(), x)[0])
    with pytest.raises(ValueError, match="gradient is 'exact'"):
        em.gradient = "exact"
