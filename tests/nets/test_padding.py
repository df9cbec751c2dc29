"""Padding is no part of the EM fit of a head that masks it."""

import pytest
import torch
from _helpers.fits import CHANNELS, draw

from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.em import HighwayEM
from hemnet.nets import EMHead
from hemnet.nets.heads import EMUnit

MARGIN = 3


def unit() -> EMUnit:
    torch.manual_seed(0)
    unit = EMUnit(HighwayEM(CHANNELS, 4, iterations=5, variance=0.5)).double()
    torch.nn.init.normal_(unit.bn.weight)
    return unit.eval()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_fit_of_a_padded_map_is_that_of_the_map(scale: float) -> None:
    """Whatever stands in the padding; without weights the fit is another."""
    x, padded = draw(1, CHANNELS, 5, 7), draw(1, CHANNELS, 5 + MARGIN, 7 + MARGIN, seed=1, scale=scale)
    padded[:, :, :5, MARGIN:] = x
    inside = torch.zeros(1, 1, 5 + MARGIN, 7 + MARGIN, dtype=torch.float64)
    inside[:, :, :5, MARGIN:] = 1
    network = unit()
    expected = network(x)
    torch.testing.assert_close(network(padded, inside)[:, :, :5, MARGIN:], expected, rtol=0, atol=1e-12)
    assert (network(padded)[:, :, :5, MARGIN:] - expected).abs().max() > 1e-3


def test_a_head_hands_the_weights_on() -> None:
    """Features of the padded part beyond the reach of the first convolution do not touch logits inside."""
    torch.manual_seed(0)
    head = EMHead([CHANNELS], 3, channels=8, num_components=4, mask_padding=True).double().eval()
    inside = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    inside[..., 4:] = 0
    one, other = draw(1, CHANNELS, 8, 8), draw(1, CHANNELS, 8, 8)
    other[..., 6:] += 5
    changed = (head([one], inside) - head([other], inside)).abs().amax(dim=(0, 1, 2))
    assert changed[:4].max() < 1e-12 < changed[4:].max()
    assert (head([one]) - head([other]))[..., :4].abs().max() > 1e-6


@pytest.mark.parametrize("head", ["hem", "em", "emanet"])
@pytest.mark.parametrize("masks", [True, False])
def test_the_key_reaches_the_head(head: str, masks: bool) -> None:
    config = load(["experiment=synthetic_hem", f"model/head={head}", f"model.mask_padding={masks}"])
    assert build_network(config, 3, pretrained=False).head.mask_padding is masks
    assert load(["experiment=synthetic_hem"]).model.mask_padding is True
