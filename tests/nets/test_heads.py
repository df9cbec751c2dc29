"""Heads: one signature, the EM unit against plain loops, and where the gradient goes.

Shapes: B images, N positions, C channels, K components, H and W positions of a feature map.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemnet.nets import EMHead, EMUnit, FCNHead

IN_CHANNELS = (4, 6, 8, 10)
CHANNELS, COMPONENTS, CLASSES = 12, 5, 3
EM_HEADS = {
    "hem": {},
    "em": {"highway_scale": 0.0},
    "emanet": {
        "highway_scale": 0.0,
        "assignment": "dot",
        "variance": 1.0,
        "normalize": "l2",
        "gradient": "detached",
    },
}


def head(name: str, **options) -> FCNHead:
    torch.manual_seed(0)
    if name == "fcn":
        return FCNHead(IN_CHANNELS, CLASSES, channels=CHANNELS, **options)
    sizes = {"channels": CHANNELS, "num_components": COMPONENTS}
    return EMHead(IN_CHANNELS, CLASSES, **(sizes | EM_HEADS[name] | options))


def maps(requires_grad: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, *size, generator=generator, requires_grad=requires_grad)
        for channels, size in zip(IN_CHANNELS, ((16, 12), (8, 6), (5, 3), (4, 3)), strict=True)
    ]


def unit(name: str) -> EMUnit:
    """The unit alone, in eval mode and float64, with norm statistics that are not those of a new layer."""
    unit = head(name).context.double().eval()
    for tensor in (unit.bn.running_mean, unit.bn.bias.data, unit.conv1.bias.data):
        tensor.normal_()
    return unit


def unit_input(requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x_BCHW = torch.randn(2, CHANNELS, 4, 3, dtype=torch.float64, generator=generator)
    return x_BCHW.requires_grad_(requires_grad)


# --- shapes and structure -----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["fcn", *EM_HEADS])
def test_every_head_maps_the_last_map_to_logits_of_its_size(name, training):
    features = maps()
    copies = [feature.clone() for feature in features]
    logits = head(name).train(training)(features)
    assert (logits.shape, logits.dtype) == ((2, CLASSES, 4, 3), torch.float32)
    assert logits.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(features, copies, strict=True))


@pytest.mark.parametrize(("stage", "size"), [(0, (16, 12)), (-2, (5, 3))])
def test_fcn_reads_the_stage_it_is_told(stage, size):
    network = head("fcn", stage=stage).eval()
    features = maps()
    logits = network(features)
    assert logits.shape == (2, CLASSES, *size)
    others = [feature if feature is features[stage] else feature * torch.nan for feature in features]
    assert torch.equal(network(others), logits)


@pytest.mark.parametrize("name", EM_HEADS)
def test_em_heads_are_the_fcn_head_and_a_context(name):
    def shapes(network: nn.Module) -> dict[str, torch.Size]:
        return {k: v.shape for k, v in network.state_dict().items() if not k.startswith("context.")}

    assert shapes(head(name)) == shapes(head("fcn"))
    network = head(name).eval()
    features = maps()
    network.context = nn.Identity()
    fcn = head("fcn").eval()
    fcn.load_state_dict(network.state_dict())
    assert torch.equal(network(features), fcn(features))


def test_dropout_acts_in_training_alone():
    network = head("fcn", dropout=0.5)
    features = maps()
    assert not torch.equal(network(features), network(features))
    network.eval()
    assert torch.equal(network(features), network(features))


# --- values -------------------------------------------------------------------------------------------------


def looped_unit(unit: EMUnit, x_BCHW: Tensor, h: float) -> Tensor:
    """The unit with highway scale h, image by image: the equations 8, 11 and 10 of Song et al. (2021)."""
    sigma2 = x_BCHW.shape[1] ** 0.5
    x_BNC = F.conv2d(x_BCHW, unit.conv1.weight, unit.conv1.bias).flatten(2).mT
    reconstructed = []
    for x_NC in x_BNC:
        mu_KC = unit.em.means.double()
        for _ in range(unit.em.iterations):
            weight_NK = torch.stack([torch.exp((x_NC * mu_C).sum(1) / sigma2) for mu_C in mu_KC], dim=1)
            z_NK = weight_NK / weight_NK.sum(1, keepdim=True)
            target_KC = torch.stack([(z_N[:, None] * x_NC).sum(0) / z_N.sum() for z_N in z_NK.T])
            mu_KC = h * mu_KC + (1 - h) * target_KC
        reconstructed.append(z_NK @ mu_KC)
    y_BCHW = torch.stack(reconstructed).mT.reshape(x_BCHW.shape)
    hidden_BCHW = F.conv2d(y_BCHW.clamp(min=0), unit.conv2.weight)
    mean, variance, weight, bias = (
        tensor[:, None, None]
        for tensor in (unit.bn.running_mean, unit.bn.running_var, unit.bn.weight, unit.bn.bias)
    )
    return (x_BCHW + (hidden_BCHW - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)


@pytest.mark.parametrize(("name", "h"), [("em", 0.0), ("hem", 0.5)])
def test_unit_is_the_equations(name, h):
    # Float64 on both sides; the sums have some 12 terms, and few steps amplify: 1e-10 is a million roundings.
    layer, x_BCHW = unit(name), unit_input()
    torch.testing.assert_close(layer(x_BCHW), looped_unit(layer, x_BCHW, h), rtol=1e-10, atol=1e-10)


def test_em_is_hem_with_highway_scale_zero():
    hem, em, features = head("hem").eval(), head("em").eval(), maps()
    em.load_state_dict(hem.state_dict())
    assert not torch.allclose(hem(features), em(features))
    zero = head("hem", highway_scale=[0.0, 0.0, 0.0]).eval()
    zero.load_state_dict(hem.state_dict())
    # The same sums in the same order; a list of scales may only change how they are scaled.
    torch.testing.assert_close(zero(features), em(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EM_HEADS)
def test_order_of_the_components_does_not_matter(name):
    layer, x_BCHW = unit(name), unit_input()
    before = layer(x_BCHW)
    with torch.no_grad():
        layer.em.means.copy_(layer.em.means.flip(0).roll(1, 0))
    # Float64 sums over K in another order.
    torch.testing.assert_close(layer(x_BCHW), before, rtol=1e-10, atol=1e-10)


# --- gradient -----------------------------------------------------------------------------------------------


def gradient_through_em(layer: EMUnit) -> Tensor:
    """The gradient of the unit's input that does not come along the residual connection."""
    x_BCHW = unit_input(requires_grad=True)
    weight = torch.randn(x_BCHW.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y_BCHW = layer(x_BCHW)
    (total,) = torch.autograd.grad((y_BCHW * weight).sum(), x_BCHW)
    return total - weight * (y_BCHW > 0)


@pytest.mark.parametrize("name", ["em", "hem"])
def test_gradient_through_em_is_that_of_finite_differences(name):
    layer, x_BCHW = unit(name), unit_input()
    direction = torch.randn(x_BCHW.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weight = torch.randn(x_BCHW.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    # Shifted far from zero, no final ReLU cuts, and along the residual connection the gradient is `weight`.
    layer.bn.bias.data += 50
    assert (layer(x_BCHW) > 1).all()
    step = 1e-5
    with torch.no_grad():
        rise = (layer(x_BCHW + step * direction) - layer(x_BCHW - step * direction)) * weight
    expected = rise.sum().item() / (2 * step) - (weight * direction).sum().item()
    measured = (gradient_through_em(layer) * direction).sum().item()
    # Truncation is some step² = 1e-10, rounding 1e-16 * 50 * 144 terms / step = 1e-7 at the very worst.
    assert measured == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert abs(expected) > 0.1


def test_no_gradient_passes_the_detached_layer():
    assert gradient_through_em(unit("hem")).abs().max() > 1e-3
    assert torch.equal(
        gradient_through_em(unit("emanet")), torch.zeros(2, CHANNELS, 4, 3, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", EM_HEADS)
def test_backward_reaches_every_trainable_parameter_and_the_features(name):
    network, features = head(name, dropout=0.0), maps(requires_grad=True)
    network(features).square().sum().backward()
    assert features[-1].grad.abs().sum() > 0
    assert all(feature.grad is None for feature in features[:-1])
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_only_emanet_freezes_the_convolution_before_em():
    frozen = {
        name: {key for key, parameter in head(name).named_parameters() if not parameter.requires_grad}
        for name in ("fcn", *EM_HEADS)
    }
    assert frozen == {
        "fcn": set(),
        "hem": set(),
        "em": set(),
        "emanet": {"context.conv1.weight", "context.conv1.bias"},
    }


def test_learned_means_are_trained():
    network = head("hem", means="learned", dropout=0.0)
    network(maps()).square().sum().backward()
    assert network.context.em.means.grad.abs().sum() > 0


def test_wrong_option_of_the_layer_is_named():
    with pytest.raises(ValueError, match="gradient is 'none'"):
        head("hem", gradient="none")
    with pytest.raises(TypeError, match="iteration"):
        head("hem", iteration=3)
