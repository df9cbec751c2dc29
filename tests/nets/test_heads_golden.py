"""The EM unit as EMANet sets it, from stored inputs, weights and outputs of the reference implementation.

Shapes: B images, K components, C channels.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from hemnet.em import HighwayEM
from hemnet.nets import EMUnit

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["a", "b"])
def test_unit_reproduces_the_stored_numbers_of_emanet(name):
    with np.load(GOLDEN / f"ema_unit_{name}.npz") as arrays:
        golden = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
    channels, components = golden["mu0"].shape[1:]
    em = HighwayEM(
        channels,
        components,
        int(golden["iterations"]),
        0.0,
        assignment="dot",
        variance=1.0,
        normalize="l2",
        gradient="detached",
        means="moving_average",
    )
    unit = EMUnit(em).eval()
    state = {
        "conv1.weight": golden["conv1_w"],
        "conv1.bias": golden["conv1_b"],
        "em.means": golden["mu0"][0].T,
        "conv2.weight": golden["conv2_w"],
        "bn.weight": golden["bn_w"],
        "bn.bias": golden["bn_b"],
        "bn.running_mean": golden["bn_mean"],
        "bn.running_var": golden["bn_var"],
        "bn.num_batches_tracked": torch.tensor(0),
    }
    unit.load_state_dict(state)
    unit.bn.eps = float(golden["bn_eps"])
    # Both sides compute in float32 and guard their divisions by 1e-6 in different places.
    torch.testing.assert_close(unit(golden["x"]), golden["y"], rtol=1e-5, atol=1e-5)
    means_BKC = em.run(unit.conv1(golden["x"])).means
    torch.testing.assert_close(means_BKC.mT, golden["mu"], rtol=1e-5, atol=1e-5)
