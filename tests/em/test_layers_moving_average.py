"""HighwayEM: the care of its moving-average means, on one process."""

import copy
import gc
import io
import pickle

import pytest
import torch
from _helpers.fits import CHANNELS, COMPONENTS, expected_means, features, layer, step
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

from hemnet.em import HighwayEM
from hemnet.em.initial_means import PASSES_UNTIL_WARNING, _moving_averages


@pytest.mark.parametrize(("normalize", "momentum"), [("none", 0.9), ("none", 0.5), ("l2", 0.9), ("l2", 0.0)])
def test_means_move_once_per_optimizer_step(normalize, momentum):
    em, x = layer(normalize=normalize, momentum=momentum), features()
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


def mean_of_m_steps(em: HighwayEM, x_BCHW: torch.Tensor) -> torch.Tensor:
    """The results of the M-steps of each image, weighted as they are in its final means, mean over images."""
    h_T = em.highway_scale if isinstance(em.highway_scale, tuple) else [em.highway_scale] * em.iterations
    x_BNC = x_BCHW.flatten(2).mT.double()
    mu_BKC, total_BKC, weight = em.means.double().expand(len(x_BNC), -1, -1), 0.0, 0.0
    for h in h_T:
        z_BNK = torch.softmax(x_BNC @ mu_BKC.mT / em.variance, dim=2)
        m_BKC = torch.einsum("bnk,bnc->bkc", z_BNK, x_BNC) / z_BNK.sum(1)[:, :, None]
        mu_BKC = h * mu_BKC + (1 - h) * m_BKC
        total_BKC, weight = h * total_BKC + (1 - h) * m_BKC, h * weight + (1 - h)
    return (total_BKC / weight).mean(0)


SETTINGS = [(3, 0.0), (3, 0.5), (1, 0.8), (8, 0.9), (3, -0.5), (2, (0.9, 0.4))]


@pytest.mark.parametrize(("iterations", "h"), SETTINGS)
def test_a_corrected_average_goes_as_far_to_the_m_steps_at_any_h(iterations, h):
    em, x = layer(iterations=iterations, highway_scale=h, correct_momentum=True), features()
    expected_KC = (0.9 * em.means.double() + 0.1 * mean_of_m_steps(em, x)).float()
    em(x)
    step()
    # Float32, of which the correction at h = 0.9, T = 8 keeps all but a binary digit.
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(em.means, expected_KC, **close)
    plain = layer(iterations=iterations, highway_scale=h)
    plain(x)
    step()
    assert torch.allclose(plain.means, em.means, **close) == (h == 0)


@pytest.mark.parametrize(("iterations", "h", "momentum"), [(1, 0.9, 0.5), (1, 0.99, 0.9), (0, 0.5, 0.9)])
def test_a_corrected_average_never_goes_beyond_the_final_means(iterations, h, momentum):
    """Where 1 - momentum exceeds 1 - h^T, it takes these."""
    em = layer(iterations=iterations, highway_scale=h, momentum=momentum, correct_momentum=True)
    x = features()
    finals_KC = em.run(x).means.mean(0)
    em(x)
    step()
    torch.testing.assert_close(em.means, finals_KC)


def test_a_momentum_of_1_stays_1_when_it_is_corrected():
    em = layer(highway_scale=0.9, momentum=1.0, correct_momentum=True)
    before_KC = em.means.clone()
    em(features())
    step()
    assert torch.equal(em.means, before_KC)


def test_a_learned_scale_corrects_by_its_present_value():
    em, x = layer(learn_scale="per_iteration", highway_scale=(0.9, 0.6), correct_momentum=True), features()
    fixed = layer(highway_scale=(0.9, 0.6), correct_momentum=True)
    for one in (em, fixed):
        one(x)
        step()
    torch.testing.assert_close(em.means, fixed.means, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "l2"}, "needs normalize='none'"),
        ({"assignment": "gaussian", "gradient": "one_step", "acceleration": "anderson"}, "'anderson'"),
        ({"means": "learned"}, "there is no moving average"),
    ],
)
def test_what_has_no_such_average_is_not_corrected(options, message):
    with pytest.raises(ValueError, match=message):
        layer(correct_momentum=True, **options)


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


def test_update_moves_the_means_for_whoever_steps_by_hand():
    em = layer()
    expected = expected_means(em, features())
    em(features())
    em.update()
    torch.testing.assert_close(em.means, expected)
    em.update()  # nothing has passed since
    torch.testing.assert_close(em.means, expected)
    HighwayEM(CHANNELS, means="learned").update()  # has nothing to do


def test_means_that_never_move_are_told_once(caplog):
    em, x = layer(), features()
    for _ in range(2 * PASSES_UNTIL_WARNING):
        em(x)
    (record,) = caplog.records
    assert "call its update()" in record.message
    caplog.clear()
    for _ in range(2 * PASSES_UNTIL_WARNING):
        em(x)
        step()
    assert not caplog.records


def test_passes_without_gradients_are_no_training():
    """As `torch.optim.swa_utils.update_bn` makes them."""
    em, x = layer(), features()
    expected = expected_means(em, x)
    update_bn([features(seed=2)], nn.Sequential(nn.BatchNorm2d(CHANNELS), em))
    em(x)
    step()
    torch.testing.assert_close(em.means, expected)


def test_a_layer_made_on_the_meta_device_and_given_weights_trains():
    with torch.device("meta"):
        em = layer()
    source = layer()
    em.load_state_dict(source.state_dict(), assign=True)
    expected = expected_means(source, features())
    em(features())
    step()
    torch.testing.assert_close(em.means, expected)
