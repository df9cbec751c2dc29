"""The variance and the weights of the components as tensors: given, or learned by the layer."""

import math

import pytest
import torch
from _helpers.fits import CHANNELS, CLOSE, COMPONENTS, draw, features, layer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hemnet.em import Detached, HighwayEM, log_likelihood, responsibilities, unroll

B, N, C, K = 2, 7, 3, 4
VARIANCES = {
    "one": torch.tensor(0.7, dtype=torch.float64),
    "one of shape (1,)": torch.tensor([0.7], dtype=torch.float64),
    "per image": torch.tensor([[0.7], [2.0]], dtype=torch.float64),
    "per component": torch.tensor([0.3, 0.7, 2.0, 5.0], dtype=torch.float64),
    "per image and component": torch.rand(
        B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    + 0.2,
}
PRIORS = {"none": None, "per component": torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64)}
PRIORS["per image and component"] = torch.stack([PRIORS["per component"], PRIORS["per component"].flip(0)])


def log_joint(x_BNC: Tensor, mu_BKC: Tensor, variance: Tensor, prior: Tensor | None) -> Tensor:
    """log π_k N(x_n | mu_k, σ_k²I) from the density's definition, one number at a time, (B, N, K)."""
    images, components, channels = mu_BKC.shape
    variance_BK = variance.expand(images, components)
    prior_BK = torch.ones(images, components) if prior is None else prior.expand(images, components)
    out = torch.empty(images, x_BNC.shape[1], components, dtype=torch.float64)
    for b in range(images):
        for n in range(x_BNC.shape[1]):
            for k in range(components):
                square = math.fsum(
                    (float(x_BNC[b, n, c]) - float(mu_BKC[b, k, c])) ** 2 for c in range(channels)
                )
                s = float(variance_BK[b, k])
                out[b, n, k] = (
                    -square / (2 * s)
                    - channels / 2 * math.log(2 * math.pi * s)
                    + math.log(float(prior_BK[b, k]) / math.fsum(prior_BK[b].tolist()))
                )
    return out


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("variance", VARIANCES.values(), ids=VARIANCES)
def test_e_step_and_likelihood_are_those_of_the_density(variance: Tensor, prior: Tensor | None) -> None:
    x_BNC, mu_BKC = draw(B, N, C, seed=1), draw(B, K, C, seed=2)
    joint_BNK = log_joint(x_BNC, mu_BKC, variance, prior)
    z_BNK = responsibilities(x_BNC, mu_BKC, variance=variance, assignment="gaussian", prior=prior)
    torch.testing.assert_close(z_BNK, joint_BNK.softmax(2), **CLOSE)
    found_B = log_likelihood(x_BNC, mu_BKC, variance=variance, prior=prior)
    torch.testing.assert_close(found_B, joint_BNK.logsumexp(2).sum(1), **CLOSE)


@pytest.mark.parametrize("assignment", ["gaussian", "dot"])
@pytest.mark.parametrize("gradient", ["unrolled", "one_step", "detached"])
def test_a_tensor_is_the_number_that_it_holds_and_equal_weights_are_none(
    assignment: str, gradient: str
) -> None:
    x_BNC, mu_BKC, weights_BN = draw(B, N, C, seed=1), draw(1, K, C, seed=2), torch.arange(N)[None] % 3
    options = {"iterations": 4, "assignment": assignment, "gradient": gradient, "tolerance": 1e-2}
    expected = unroll(x_BNC, mu_BKC, weights_BN, variance=0.7, **options)
    for variance, prior in (
        (VARIANCES["one"], None),
        (VARIANCES["per image"].clone().fill_(0.7), torch.ones(K)),
    ):
        found = unroll(x_BNC, mu_BKC, weights_BN, variance=variance, prior=prior, **options)
        assert found.engine == "reference"
        assert found.iterations.tolist() == expected.iterations.tolist()
        torch.testing.assert_close(found.reconstruction, expected.reconstruction, **CLOSE)


def test_a_prior_of_dot_is_a_factor_of_the_responsibilities() -> None:
    x_BNC, mu_BKC, prior = draw(B, N, C, seed=1), draw(B, K, C, seed=2), PRIORS["per component"]
    equal = responsibilities(x_BNC, mu_BKC, variance=2.0, assignment="dot")
    found = responsibilities(x_BNC, mu_BKC, variance=2.0, assignment="dot", prior=prior)
    torch.testing.assert_close(found, equal * prior / (equal * prior).sum(2, keepdim=True), **CLOSE)


@pytest.mark.parametrize("shape", [(), (K,), (B, K)])
@pytest.mark.parametrize("assignment", ["gaussian", "dot"])
def test_gradients_are_those_of_finite_differences(assignment: str, shape: tuple[int, ...]) -> None:
    if assignment == "dot" and shape:
        return
    x_BNC, mu_BKC = draw(B, N, C, seed=1).requires_grad_(), draw(1, K, C, seed=2).requires_grad_()
    variance = (draw(1, *shape, seed=3)[0].abs() + 0.5).requires_grad_()
    prior = (draw(K, seed=4).abs() + 0.5).requires_grad_()

    def fit(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        x_BNC, mu_BKC, variance, prior = inputs
        result = unroll(
            x_BNC,
            mu_BKC,
            iterations=3,
            highway_scale=0.4,
            assignment=assignment,
            variance=variance,
            prior=prior,
        )
        return result.reconstruction, result.means

    assert torch.autograd.gradcheck(fit, (x_BNC, mu_BKC, variance, prior))


def test_one_step_reaches_the_model_by_its_last_iteration_and_detached_not_at_all() -> None:
    x_BNC, mu_BKC = draw(B, N, C, seed=1), draw(1, K, C, seed=2)
    variance = VARIANCES["per component"].clone().requires_grad_()
    options = {"assignment": "gaussian", "variance": variance, "highway_scale": 0.3}
    found = unroll(x_BNC, mu_BKC, iterations=3, gradient="one_step", **options)
    before = unroll(x_BNC, mu_BKC, iterations=2, gradient="detached", **options)
    assert not before.reconstruction.requires_grad
    last = unroll(x_BNC, before.means, iterations=1, **options)
    got, wanted = (torch.autograd.grad(r.reconstruction.square().sum(), variance) for r in (found, last))
    torch.testing.assert_close(got, wanted, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    components=st.integers(1, 6),
    h=st.floats(-0.95, 0.95),
    spread=st.floats(0.05, 20.0),
)
def test_the_likelihood_never_falls(seed: int, components: int, h: float, spread: float) -> None:
    """Whatever the weights and variances of the components: Q is a sum of parabolas, one per mean."""
    generator = torch.Generator().manual_seed(seed)
    x_BNC = spread * torch.randn(1, 20, 3, dtype=torch.float64, generator=generator)
    mu_BKC = torch.randn(1, components, 3, dtype=torch.float64, generator=generator)
    variance, prior = (
        torch.rand(2, components, dtype=torch.float64, generator=generator) * 4 + 0.05
    ).unbind()
    result = unroll(
        x_BNC, mu_BKC, iterations=6, highway_scale=h, assignment="gaussian",
        variance=variance, prior=prior, return_trajectory=True,
    )  # fmt: skip
    values_T = result.diagnostics().log_likelihood[:, 0]
    assert (values_T.diff() >= -1e-11 * values_T.abs().max()).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"variance": torch.ones(K + 1)}, r"variance is a torch.float32 tensor of shape \(5,\)"),
        ({"variance": torch.ones(K, dtype=torch.int64)}, "variance is a torch.int64 tensor"),
        ({"prior": torch.ones(1)}, r"prior is a torch.float32 tensor of shape \(1,\)"),
        ({"prior": torch.ones(3, K)}, "prior is"),
        (
            {"variance": torch.ones(K), "assignment": "dot"},
            "one variance per component needs assignment='gaussian'",
        ),
        (
            {"variance": torch.ones(()), "engine": "recompute"},
            "engine='recompute' takes the variance as a number",
        ),
        ({"prior": torch.ones(K), "gradient": "implicit"}, "gradient='implicit' .* given as a tensor"),
        (
            {
                "prior": torch.ones(K),
                "acceleration": "anderson",
                "gradient": "detached",
                "assignment": "gaussian",
            },
            "acceleration='anderson' has neither",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        unroll(draw(B, N, C), draw(1, K, C), **{"iterations": 2, **options})


@pytest.mark.parametrize("learn_variance", ["shared", "per_component"])
def test_a_layer_starts_from_its_variance_and_equal_weights(learn_variance: str) -> None:
    x_BCHW = features()
    options = {"assignment": "gaussian", "variance": 0.5}
    learning = layer(learn_variance=learn_variance, learn_prior=True, **options)
    torch.testing.assert_close(learning(x_BCHW), layer(**options)(x_BCHW), rtol=1e-5, atol=1e-6)
    count = 1 if learn_variance == "shared" else COMPONENTS
    assert {n: tuple(p.shape) for n, p in learning.named_parameters()} == {
        "log_variance": (count,),
        "prior_logit": (COMPONENTS,),
    }


def test_learning_finds_the_variance_that_data_have() -> None:
    """Maximum likelihood by gradient descent on the layer's parameters, at clusters of two spreads."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-20.0, 0.0], [20.0, 0.0]])
    counts, spreads = (300, 900), (0.5, 2.0)
    x_NC = torch.cat(
        [
            c + s * torch.randn(n, 2, generator=generator)
            for c, s, n in zip(centres, spreads, counts, strict=True)
        ]
    )
    em = HighwayEM(
        2, 2, 3, 0.0, assignment="gaussian", variance=1.0, means="learned", channel_dim=-1,
        learn_variance="per_component", learn_prior=True,
    )  # fmt: skip
    em.means.data.copy_(centres)
    optimizer = torch.optim.Adam(em.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        means_BKC = em.run(x_NC[None]).means
        value_B = log_likelihood(
            x_NC[None], means_BKC, variance=em.log_variance.exp(), prior=em.prior_logit.softmax(0)
        )
        (-value_B.sum() / len(x_NC)).backward()
        optimizer.step()
    # Standard errors: of a variance from n positions of 2 channels σ²/√n, 6% and 3%; of a share 1%.
    torch.testing.assert_close(em.log_variance.exp().detach(), torch.tensor(spreads) ** 2, rtol=0.2, atol=0)
    torch.testing.assert_close(
        em.prior_logit.softmax(0).detach(), torch.tensor([0.25, 0.75]), rtol=0.02, atol=0
    )


def test_learned_parameters_are_those_of_the_fit_and_survive_saving() -> None:
    em = layer(learn_variance="per_component", learn_prior=True, assignment="gaussian", means="learned")
    with torch.no_grad():
        em.log_variance.copy_(torch.linspace(-1, 1, COMPONENTS))
        em.prior_logit.copy_(torch.linspace(1, -2, COMPONENTS))
    x_BCHW = features()
    expected = unroll(
        x_BCHW.flatten(2).mT, em.start(), iterations=2, assignment="gaussian",
        variance=em.log_variance.exp(), prior=em.prior_logit.softmax(0),
    ).reconstruction.mT.unflatten(2, x_BCHW.shape[2:])  # fmt: skip
    torch.testing.assert_close(em(x_BCHW), expected, rtol=1e-6, atol=1e-6)
    em(x_BCHW).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().min() > 0 for p in em.parameters())
    other = layer(learn_variance="per_component", learn_prior=True, assignment="gaussian", means="learned")
    other.load_state_dict(em.state_dict())
    assert torch.equal(other(x_BCHW), em(x_BCHW))


def test_a_layer_that_learns_its_model_compiles_and_exports() -> None:
    em = layer(learn_variance="shared", learn_prior=True).eval()
    x_BCHW = features()
    compiled = torch.compile(em, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x_BCHW), em(x_BCHW))
    exported = torch.export.export(em, (x_BCHW,)).module()
    torch.testing.assert_close(exported(x_BCHW), em(x_BCHW))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"learn_variance": "shared", "gradient": Detached()},
            "learn_variance='shared' with gradient='detached'",
        ),
        (
            {"learn_prior": True, "gradient": "implicit"},
            "learn_prior=True with gradient='implicit' would never",
        ),
        ({"learn_variance": "per_component"}, "needs assignment='gaussian'"),
        ({"learn_variance": "both"}, "learn_variance is 'both'"),
        ({"learn_prior": True, "engine": "recompute"}, "engine='recompute' takes the variance as a number"),
    ],
)
def test_what_cannot_be_learned_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        HighwayEM(CHANNELS, COMPONENTS, **options)
