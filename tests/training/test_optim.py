"""Schedule and parameter groups against closed forms.

Shapes: B images, K classes, H and W pixels.
"""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hemnet.nets import EMHead, FCNHead, ResNet, Segmenter
from hemnet.training.optim import Optimization, parameter_groups, poly

# --- schedule -----------------------------------------------------------------------------------------------


@given(total=st.integers(1, 10**6), power=st.floats(0.1, 3), share=st.floats(0, 1))
def test_poly_is_its_closed_form(total, power, share):
    step = round(share * total)
    # A logarithm and an exponential, some roundings each, of exponents below 3 * log(10^6) = 42.
    expected = np.exp(power * np.log1p(-step / total)) if step < total else 0.0
    assert poly(step, total, power, 0) == pytest.approx(expected, rel=1e-12)


def test_poly_starts_at_one_and_ends_at_zero():
    assert poly(0, 10, 0.9, 0) == 1
    assert poly(9, 10, 0.9, 0) == pytest.approx(0.1**0.9)
    assert poly(10, 10, 0.9, 0) == 0
    assert poly(11, 10, 0.9, 0) == 0, "a step too many must not give a complex or negative rate"


@given(warmup=st.integers(1, 50), rest=st.integers(1, 50))
def test_warm_up_is_a_share_of_the_schedule_that_rises_in_equal_steps(warmup, rest):
    factors = [poly(step, warmup + rest, 0.9, warmup) for step in range(warmup + rest)]
    decay = [poly(step, warmup + rest, 0.9, 0) for step in range(warmup + rest)]
    # The steps are 1 / (warmup + 1), the first of them from 0; ratios of numbers below 1: 1e-15 or so.
    shares = np.divide(factors[:warmup], decay[:warmup])
    np.testing.assert_allclose(np.diff([0.0, *shares, 1.0]), 1 / (warmup + 1), rtol=0, atol=1e-14)
    assert factors[warmup:] == decay[warmup:]
    assert all(0 < factor <= 1 for factor in factors)


@given(warmup=st.integers(1, 50), rest=st.integers(1, 50))
def test_the_rate_does_not_jump_where_warm_up_meets_the_decay(warmup, rest):
    before, after = (poly(step, warmup + rest, 0.9, warmup) for step in (warmup - 1, warmup))
    # One step of the rise, and less than one of the decay, which goes down.
    assert after - before <= 1 / (warmup + 1)
    assert before < after or rest < warmup


# --- parameter groups ---------------------------------------------------------------------------------------


def network(means: str = "learned", gradient: str = "unrolled") -> Segmenter:
    backbone = ResNet(18, width=2)
    head = EMHead(backbone.channels, 3, channels=4, num_components=3, means=means, gradient=gradient)
    return Segmenter(backbone, head, FCNHead(backbone.channels, 3, channels=4, stage=2))


def placed(net: nn.Module) -> dict[str, str]:
    """The group of each parameter, by name; a parameter is in at most one group."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = [(names[id(p)], group["name"]) for group in parameter_groups(net) for p in group["params"]]
    assert len(groups) == len(dict(groups)), "a parameter is in two groups"
    return dict(groups)


def test_every_parameter_is_in_the_group_of_its_kind():
    net = network()
    groups = placed(net)
    assert groups.keys() == dict(net.named_parameters()).keys()
    shapes = {name: parameter.ndim for name, parameter in net.named_parameters()}
    for name, group in groups.items():
        # Convolutions have four axes; norms and biases one; the initial means of EM two.
        expected = "backbone" if name.startswith("backbone.") else "head"
        assert group == (expected if shapes[name] == 4 else f"{expected} (no decay)"), name
    assert groups["head.context.em.means"] == "head (no decay)"
    assert groups["head.classifier.bias"] == "head (no decay)"


def test_linear_weights_decay_and_embeddings_do_not():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Embedding(3, 2), "c": nn.LayerNorm(2)})
    assert placed(net) == {
        "a.weight": "head",
        "a.bias": "head (no decay)",
        "b.weight": "head (no decay)",
        "c.weight": "head (no decay)",
        "c.bias": "head (no decay)",
    }


def test_parameter_of_the_network_itself_is_not_forgotten():
    net = nn.Linear(2, 2)
    assert placed(net) == {"weight": "head", "bias": "head (no decay)"}


def test_frozen_parameters_are_left_out():
    net = network(means="moving_average", gradient="detached")
    net.backbone.conv1.requires_grad_(False)
    left_out = dict(net.named_parameters()).keys() - placed(net).keys()
    assert left_out == {"backbone.conv1.weight", "head.context.conv1.weight", "head.context.conv1.bias"}


def test_a_frozen_backbone_leaves_no_empty_group():
    net = network()
    net.backbone.requires_grad_(False)
    assert [group["name"] for group in parameter_groups(net)] == ["head", "head (no decay)"]


# --- building -----------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_rates_and_decay_of_each_group_over_the_whole_schedule(kind):
    net = network()
    optimizer, schedule = Optimization(
        OPTIMIZERS[kind], head_lr_multiple=10, power=2.0, warmup_fraction=0.25
    ).build(net, total_steps=8)
    base = {"backbone": 0.1, "backbone (no decay)": 0.1, "head": 1.0, "head (no decay)": 1.0}
    assert {group["name"] for group in optimizer.param_groups} == base.keys()
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.0 if "no decay" in group["name"] else 0.01)
    factors = [min(1, (step + 1) / 3) * (1 - step / 8) ** 2 for step in range(9)]
    for factor in factors:
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(base[group["name"]] * factor, rel=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_decay_moves_convolution_weights_alone(kind):
    """With zero gradients, a step only decays: p <- p (1 - lr * decay) in both optimizers."""
    net = network()
    optimizer, _ = Optimization(OPTIMIZERS[kind], head_lr_multiple=10).build(net, total_steps=8)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        rate = 0.1 if name.startswith("backbone.") else 1.0
        shrink = 1 - 0.01 * rate if parameter.ndim == 4 else 1.0
        # Two float32 operations.
        torch.testing.assert_close(parameter.detach(), before[name] * shrink, rtol=1e-6, atol=0, msg=name)


def test_without_options_the_head_has_the_rate_of_the_backbone():
    optimizer, _ = Optimization(OPTIMIZERS["sgd"]).build(network(), total_steps=4)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
