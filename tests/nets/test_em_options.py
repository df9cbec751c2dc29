"""Every option of EM arrives: from a configuration to the head, to the layer, to `unroll`, to the operators.

The options are read from the signatures. One that is new fails here until it has a value in `OTHER`.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from inspect import Parameter, signature
from typing import Any

import pytest
import torch

import hemnet.em
from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.em import HighwayEM, Implicit, OneStep, unroll
from hemnet.em.gradient.choose import choose_mode
from hemnet.em.gradient.operators import FLAT, flat
from hemnet.em.options import Options
from hemnet.em.unrolling import unroll_with
from hemnet.nets import EMHead, FCNHead

# A value unlike the default for each option of the layer.
OTHER: dict[str, Any] = {
    "channels": 9,
    "num_components": 5,
    "iterations": 2,
    "highway_scale": 0.25,
    "assignment": "gaussian",
    "variance": 2.0,
    "normalize": "l2",
    "gradient": Implicit(tolerance=1e-6),
    "engine": "recompute",
    "acceleration": "anderson",
    "iterations_eval": 7,
    "tolerance": 0.01,
    "learn_scale": "per_iteration",
    "learn_variance": "per_component",
    "learn_prior": True,
    "means": "learned",
    "momentum": 0.75,
    "correct_momentum": True,
}
# The same for `unroll`, where its default is another, and for what it alone has.
OTHER_OF_UNROLL = OTHER | {
    "assignment": "dot", "return_trajectory": True, "record_gradient_flow": True,
    "weights_BN": torch.ones(1, 4), "prior": torch.ones(3),
}  # fmt: skip
# What has to be chosen beside an option for it to be accepted.
BESIDE = {
    "acceleration": {"assignment": "gaussian", "gradient": OneStep()},
    "learn_variance": {"assignment": "gaussian"},
}
# How a gradient mode is written in a configuration.
WRITTEN = {Implicit(tolerance=1e-6): "{_target_: hemnet.em.Implicit, tolerance: 1e-6}", OneStep(): "one_step"}
OF_LAYER, OF_HEAD, OF_UNROLL = (signature(call).parameters for call in (HighwayEM, EMHead, unroll))
# How a layer stands in a network of the user's; the heads are images, averaged over all ranks.
LAYER_ALONE = {"process_group", "channel_dim"}
SHARED = [name for name in OF_HEAD if name in OF_LAYER]
CHANNELS = 6


def chosen(name: str) -> dict[str, Any]:
    """One option of the layer and what it needs; channels have no default."""
    return {"channels": CHANNELS} | BESIDE.get(name, {}) | {name: OTHER[name]}


def told(layer: HighwayEM) -> dict[str, Any]:
    """The arguments that the layer says it was made with."""
    return eval(f"dict({layer.extra_repr()})", vars(hemnet.em))


def expected(parameters: Mapping[str, Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """Every option with what was given, or else its default, in the values that stand for it inside."""
    found = {name: p.default for name, p in parameters.items() if p.default is not Parameter.empty} | given
    found["gradient"] = choose_mode(found["gradient"])
    found["variance"] = found["variance"] or given.get("channels", CHANNELS) ** 0.5
    return found


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert {name: found[name] for name in wanted} == wanted


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], dict[str, Any]]:
    """A function that returns, option by option, what `unroll_with` gets in a call of another."""
    calls: list[dict[str, Any]] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(signature(unroll_with).bind(*args, **kwargs).arguments)
        return unroll_with(*args, **kwargs)

    def in_call_of(function: Callable[[], object]) -> dict[str, Any]:
        function()
        (got,) = calls
        return got | vars(got["options"]) | {"gradient": got["mode"]}

    monkeypatch.setattr("hemnet.em.layers.unroll_with", spy)
    monkeypatch.setattr("hemnet.em.unrolling.unroll_with", spy)
    return in_call_of


def test_the_head_has_every_option_of_the_layer_with_its_default() -> None:
    assert set(OF_HEAD) == set(OF_LAYER) - LAYER_ALONE | (
        set(signature(FCNHead).parameters) - {"stage"} | {"mask_padding"}
    )
    for name in set(SHARED) - {"channels"}:
        assert OF_HEAD[name].default == OF_LAYER[name].default, name


@pytest.mark.parametrize("name", SHARED)
def test_an_option_reaches_the_layer_from_the_head(name: str) -> None:
    assert OF_LAYER[name].default != OTHER[name]
    head = EMHead((4, 8), 3, **chosen(name))
    assert_same(told(head.context.em), expected(OF_LAYER, chosen(name)))


@pytest.mark.parametrize("name", SHARED)
def test_an_option_reaches_the_layer_from_the_configuration(name: str) -> None:
    given = {"num_components": 64, "highway_scale": 0.5} | chosen(name)  # which recipes have of their own
    overrides = [f"model.head.{key}={WRITTEN.get(value, value)}" for key, value in given.items()]
    config = load(["model/head=hem", "logger=csv", *overrides])
    assert set(config.model.head) - {"_target_"} == set(OF_HEAD) - {"in_channels", "num_classes"}
    (layer,) = (m for m in build_network(config, 3).modules() if isinstance(m, HighwayEM))
    assert_same(told(layer), expected(OF_LAYER, given))


@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", [name for name in OF_LAYER if name in OF_UNROLL])
def test_an_option_reaches_unroll_from_the_layer(name: str, training: bool, received: Callable) -> None:
    layer = HighwayEM(**chosen(name)).train(training)
    wanted = {key: value for key, value in expected(OF_LAYER, chosen(name)).items() if key in OF_UNROLL}
    if training:
        wanted["tolerance"] = None  # it is for evaluation alone
    assert_same(received(lambda: layer(torch.randn(1, CHANNELS, 2, 2))), wanted)


def test_what_a_layer_makes_of_its_own_options_reaches_unroll(received: Callable) -> None:
    """The rest of the layer's options: `unroll` gets what becomes of them."""
    own = {name for name in OF_LAYER if name not in OF_UNROLL} - LAYER_ALONE
    assert own == {"channels", "num_components", "iterations_eval", "learn_scale", "means", "momentum"} | {
        "correct_momentum",
        "learn_variance",
        "learn_prior",
    }
    layer = HighwayEM(
        CHANNELS, 5, iterations_eval=7, learn_scale="per_iteration", means="learned",
        learn_variance="shared", learn_prior=True, variance=2.0,
    ).eval()  # fmt: skip
    found = received(lambda: layer(torch.randn(1, CHANNELS, 2, 2)))
    assert found["iterations"] == 7
    assert (found["mu_BKC"].shape, found["mu_BKC"].requires_grad) == ((1, 5, CHANNELS), True)
    assert (found["highway_scale"].shape, found["highway_scale"].requires_grad) == ((7,), True)
    torch.testing.assert_close(found["variances"].tolist(), [2.0])
    torch.testing.assert_close(found["prior"].tolist(), [0.2] * 5)
    assert found["variances"].requires_grad
    assert found["prior"].requires_grad


@pytest.mark.filterwarnings("ignore::hemnet.em.ConvergenceWarning")
@pytest.mark.parametrize("name", [name for name, p in OF_UNROLL.items() if p.default is not Parameter.empty])
def test_an_option_of_unroll_is_what_the_fit_gets(name: str, received: Callable) -> None:
    assert OF_UNROLL[name].default != OTHER_OF_UNROLL[name]
    given = BESIDE.get(name, {}) | {name: OTHER_OF_UNROLL[name]}
    x_BNC, mu_BKC = torch.randn(1, 4, CHANNELS), torch.randn(1, 3, CHANNELS)
    found = received(lambda: unroll(x_BNC, mu_BKC, iterations=3, **given))
    assert_same(found, expected(OF_UNROLL, given | {"iterations": 3}))


def test_the_operators_get_every_option() -> None:
    names = [field.name for field in fields(Options) if not field.kw_only]
    assert {field.name for field in fields(Options)} - set(names) == {"variances", "prior"}  # tensors
    assert [word.split()[1] for word in FLAT.split(", ")] == names
    options = Options(**{name: OTHER[name] for name in names} | {"normalize": "none"})
    assert Options(*flat(options)) == options


def test_dropout_reaches_the_head_from_the_configuration() -> None:
    network = build_network(load(["model/head=hem", "logger=csv", "model.head.dropout=0.4"]), 3)
    assert [m.p for m in network.head.modules() if isinstance(m, torch.nn.Dropout2d | torch.nn.Dropout)] == [
        0.4
    ]
    default = build_network(load(["model/head=hem", "logger=csv"]), 3)
    (dropout,) = (m for m in default.head.modules() if isinstance(m, torch.nn.Dropout2d | torch.nn.Dropout))
    assert dropout.p == OF_HEAD["dropout"].default
