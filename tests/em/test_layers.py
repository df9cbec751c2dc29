"""HighwayEM: the layer around the functions, and the care of its means."""

import copy
import gc
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hemnet.em import HighwayEM, unroll
from hemnet.em.layers import _moving_averages

CHANNELS, COMPONENTS = 6, 4


def layer(**options) -> HighwayEM:
    torch.manual_seed(0)
    return HighwayEM(CHANNELS, COMPONENTS, **({"iterations": 2, "normalize": "none"} | options))


def features(images: int = 4, seed: int = 1, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, CHANNELS, 5, 3, generator=generator, requires_grad=requires_grad)


def step() -> None:
    """One step of an optimizer that knows nothing of the layer."""
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    torch.optim.SGD([weight], lr=0.1).step()


def expected_means(em: HighwayEM, *batches: Tensor) -> Tensor:
    """The documented update, computed apart: momentum·means + (1 - momentum)·average over all images."""
    finals = torch.cat([em.run(batch).means for batch in batches])
    return em.momentum * em.means + (1 - em.momentum) * finals.mean(dim=0)


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


# --- moving average -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_means_move_once_per_optimizer_step(normalize):
    em, x = layer(normalize=normalize), features()
    before, expected = em.means.clone(), expected_means(em, x)
    if normalize == "l2":
        expected = expected / expected.norm(dim=1, keepdim=True)
    em(x)
    assert torch.equal(em.means, before)
    step()
    torch.testing.assert_close(em.means, expected)
    moved = em.means.clone()
    step()
    assert torch.equal(em.means, moved)


def test_accumulated_micro_batches_equal_one_batch():
    em, x = layer(), features(6)
    expected = expected_means(em, x)
    em(x[:4])
    em(x[4:])
    step()
    torch.testing.assert_close(em.means, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_does_not_count_twice(use_reentrant):
    em, x = layer(), features(requires_grad=True)
    expected = expected_means(em, x)
    checkpoint(em, x, use_reentrant=use_reentrant).sum().backward()
    step()
    torch.testing.assert_close(em.means, expected)


def test_evaluation_and_probes_leave_the_means():
    em = layer()
    before = em.means.clone()
    em.run(features())
    em.eval()(features())
    step()
    assert torch.equal(em.means, before)


def test_learned_means_are_left_to_their_optimizer():
    em = layer(means="learned")
    before = em.means.detach().clone()
    em(features())
    step()
    assert torch.equal(em.means, before)


def test_images_that_are_not_finite_are_left_out():
    em, x = layer(), features()
    expected = expected_means(em, x[1:])
    x[0, 0, 0, 0] = torch.nan
    em(x)
    step()
    torch.testing.assert_close(em.means, expected)
    em(torch.full_like(x, torch.inf))
    step()
    torch.testing.assert_close(em.means, expected)


def test_a_step_between_forward_and_backward_does_no_harm():
    em, x = layer(), features(requires_grad=True)
    (expected,) = torch.autograd.grad(em(x).sum(), x)
    y = em(x)
    step()
    y.sum().backward()
    torch.testing.assert_close(x.grad, expected)


def pickled(em: HighwayEM) -> HighwayEM:
    return pickle.loads(pickle.dumps(em))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_lives_its_own_life(duplicate):
    em, x = layer(), features()
    before = em.means.clone()
    em(x)
    twin = duplicate(em)
    step()
    assert torch.equal(twin.means, before)  # what was pending belongs to the original
    assert not torch.equal(em.means, before)
    moved, expected = em.means.clone(), expected_means(twin, features(seed=2))
    twin(features(seed=2))
    step()
    torch.testing.assert_close(twin.means, expected)
    assert torch.equal(em.means, moved)


def test_layers_that_are_gone_are_forgotten():
    gc.collect()
    count = len(_moving_averages)
    em = layer()
    assert len(_moving_averages) == count + 1
    del em
    gc.collect()
    assert len(_moving_averages) == count


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float16)])
def test_casts_do_not_touch_the_moving_average(cast):
    em = layer()
    before = em.means.clone()
    cast(nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), em))
    assert em.means.dtype == torch.float32
    assert torch.equal(em.means, before)
    assert "means" in dict(em.named_buffers())
    x = features().bfloat16()
    expected = expected_means(em, x)
    em(x)
    em.half()  # a cast between forward and step keeps what is pending
    step()
    torch.testing.assert_close(em.means, expected)


def test_a_layer_can_start_on_the_meta_device():
    with torch.device("meta"):
        em = layer()
    assert em(torch.empty(2, CHANNELS, 5, 3, device="meta")).is_meta
    em = layer().to("meta").to_empty(device="cpu")
    em.reset_parameters()
    expected = expected_means(em, features())
    em(features())
    step()
    torch.testing.assert_close(em.means, expected)


def test_state_dict_holds_the_means_alone_and_round_trips():
    em, other = layer(), HighwayEM(CHANNELS, COMPONENTS)
    em(features())
    assert list(em.state_dict()) == ["means"]
    file = io.BytesIO()
    torch.save(em.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.means, em.means)


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
