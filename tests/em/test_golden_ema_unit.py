"""The EMA unit of EMANet, from stored inputs, weights and outputs of the reference implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hemnet.em import HighwayEM

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"ema_unit_{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}


@pytest.mark.parametrize("name", ["a", "b"])
def test_emanet_options_reproduce_the_reference_unit(name):
    unit = load(name)
    channels, components = unit["mu0"].shape[1:]
    layer = HighwayEM(
        channels,
        components,
        int(unit["iterations"]),
        highway_scale=0.0,
        assignment="dot",
        variance=1.0,
        normalize="l2",
        gradient="detached",
    ).eval()
    layer.means.copy_(unit["mu0"][0].T)

    features = F.conv2d(unit["x"], unit["conv1_w"], unit["conv1_b"])
    statistics = (unit["bn_mean"], unit["bn_var"], unit["bn_w"], unit["bn_b"])
    hidden = F.conv2d(F.relu(layer(features)), unit["conv2_w"])
    y = F.relu(F.batch_norm(hidden, *statistics, eps=float(unit["bn_eps"])) + unit["x"])

    # Both sides compute in float32 and guard their divisions by 1e-6 in different places.
    torch.testing.assert_close(y, unit["y"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.run(features).means.mT, unit["mu"], rtol=1e-5, atol=1e-5)
