"""HighwayEM: the layer around the functions."""

import pytest
import torch
from em_helpers import CHANNELS, COMPONENTS, expected_means, features, layer, step
from torch import nn

from hemnet.em import HighwayEM, unroll

# --- forward ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("means", ["learned", "moving_average"])
def test_forward_is_unroll_over_the_positions(means):
    em, x = layer(highway_scale=[0.3, -0.2], means=means).eval(), features()
    result = unroll(
        x.permute(0, 2, 3, 1).reshape(4, 15, CHANNELS),
        em.means[None],
        iterations=2,
        highway_scale=[0.3, -0.2],
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


def test_autocast_leaves_the_state_in_float32():
    em, convolution = layer(), nn.Conv2d(CHANNELS, CHANNELS, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = convolution(features())
        result = em.run(x)
        y = em(x)
    assert x.dtype == y.dtype == torch.bfloat16
    assert result.means.dtype == result.responsibilities().dtype == em.means.dtype == torch.float32
    y.sum().backward()
    assert convolution.weight.grad.isfinite().all()


def test_initial_means_follow_the_global_generator_and_break_symmetry():
    assert torch.equal(layer().means, layer().means)
    for normalize in ("none", "l2"):
        means = layer(normalize=normalize).means
        assert torch.pdist(means).min() > 0.1
    torch.testing.assert_close(means.norm(dim=1), torch.ones(COMPONENTS))


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
        ({"num_components": 0}, "num_components 0"),
        ({"highway_scale": [0.5]}, "1 values for 3 iterations"),
        ({"engine": "triton"}, "engine is 'triton'"),
    ],
    ids=str,
)
def test_construction_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        HighwayEM(CHANNELS, **options)


@pytest.mark.parametrize("shape", [(2, CHANNELS + 1, 5, 3), (2, CHANNELS, 15)])
def test_features_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="set channels to the width"):
        layer()(torch.zeros(shape))


def test_repr_rebuilds_the_layer():
    for em in (layer(), layer(means="learned", highway_scale=[0.1, 0.2], variance=2.0)):
        assert repr(eval(repr(em))) == repr(em)
