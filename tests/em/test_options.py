"""Every option out of range is refused by name, with what is accepted."""

import pytest
import torch

from hemnet.em import log_likelihood, unroll

X, MU = torch.zeros(2, 6, 4), torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assignment": "cosine"}, "assignment is 'cosine'; it must be one of 'gaussian', 'dot'"),
        ({"normalize": "l1"}, "normalize is 'l1'; it must be one of 'none', 'l2'"),
        ({"gradient": "exact"}, "gradient is 'exact'; it must be one of 'unrolled', 'detached', 'one_step'"),
        (
            {"gradient": {"solver": "gmres"}},
            r"gradient is \{.*\}; .* or an object such as",
        ),
        ({"engine": "cuda"}, "engine is 'cuda'; it must be one of 'auto', 'reference', 'recompute'"),
        ({"acceleration": "aitken"}, "acceleration is 'aitken'; it must be one of 'none', 'anderson'"),
        ({"tolerance": 0.0}, r"tolerance is 0\.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"gradient": "implicit", "iterations": 0}, "no fixed point"),
        ({"gradient": "implicit", "engine": "reference"}, "no form in plain torch operators"),
        ({"acceleration": "anderson"}, "neither an unrolled gradient"),
        (
            {"acceleration": "anderson", "gradient": "detached", "engine": "reference"},
            "form in plain torch operators",
        ),
        ({"acceleration": "anderson", "gradient": "detached", "normalize": "l2"}, "guarded by the log-lik"),
        ({"acceleration": "anderson", "gradient": "detached", "assignment": "dot"}, "guarded by the log-lik"),
        ({"iterations": -1}, "iterations is -1"),
        ({"iterations": 2.0}, "iterations is 2.0"),
        ({"iterations": True}, "iterations is True"),
        ({"variance": 0.0}, "variance is 0.0"),
        ({"variance": float("nan")}, "variance is nan"),
        ({"variance": float("inf")}, "variance is inf"),
        ({"highway_scale": -1.0}, "highway_scale is -1.0"),
        ({"highway_scale": 1.0}, "highway_scale is 1.0"),
        ({"highway_scale": float("nan")}, "highway_scale is nan"),
        ({"highway_scale": "0.5"}, "highway_scale"),
        ({"highway_scale": [0.1, 0.2, 1.3]}, "highway_scale is 1.3"),
        ({"highway_scale": [0.1, 0.2]}, "highway_scale has 2 values for 3 iterations"),
        ({"highway_scale": torch.zeros(2)}, "shape \\(2,\\)"),
        ({"highway_scale": torch.tensor(0)}, "int64"),
    ],
    ids=str,
)
def test_unroll_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        unroll(X, MU, **({"iterations": 3} | options))


@pytest.mark.parametrize(
    ("x", "mu"),
    [
        (X[0], MU),
        (X.long(), MU),
        (X, MU[0]),
        (X, MU.long()),
        (X, MU[..., :3]),
        (X, MU[:, :0]),
        (X, torch.zeros(3, 3, 4)),
    ],
)
def test_shapes_and_types_that_do_not_fit_are_refused(x, mu):
    for call in (lambda: unroll(x, mu, iterations=1), lambda: log_likelihood(x, mu, variance=1.0)):
        with pytest.raises(ValueError, match="shape"):
            call()


def test_log_likelihood_refuses_a_variance_that_is_not_positive():
    with pytest.raises(ValueError, match=r"variance is -1\.0"):
        log_likelihood(X, MU, variance=-1.0)
