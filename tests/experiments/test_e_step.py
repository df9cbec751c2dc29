"""experiments/e_step.py against differences, the paper's Eq. 15 and 18 as loops, and the engine's record.

Shapes: B images, N positions, C channels, K components, T iterations.
"""

import math

import e_step
import pytest
import torch
from _helpers.fits import ASSIGNMENTS, draw
from em_inputs import Given, at_layers_of
from torch import Tensor
from torch.nn import functional as F

from hemnet.callbacks.em_probe import em_layers
from hemnet.em import HighwayEM, unroll
from hemnet.em.options import Mixture
from hemnet.errors import HemnetError
from hemnet.nets import EMHead, Segmenter
from hemnet.nets.backbones import ResNet

B, N, C, K, T = 2, 9, 4, 3, 4
# Sums of a few tens of terms of size 1 through T steps: thousands of roundings of 2^-53.
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
SCALES = [0.0, 0.5, 0.9, -0.5, (0.2, 0.7, 0.5, 0.1)]


def problem(h, assignment: str = "dot", normalize="none", weighted: bool = False) -> dict:
    scale_T = torch.tensor([h] * T if isinstance(h, float) else h, dtype=torch.float64)
    return {
        "x_BNC": draw(B, N, C, seed=1, scale=1.5),
        "weights_BN": draw(B, N, seed=9).abs() if weighted else None,
        "mu_BKC": draw(B, K, C, seed=2),
        "dy_BNC": draw(B, N, C, seed=3),
        "scale_TB": scale_T[:, None].expand(T, B),
        "mixture": Mixture(2.0, assignment, normalize),
    }


def fit(told: dict, x_BNC: Tensor, mu_BKC: Tensor, **options):
    mixture = told["mixture"]
    return unroll(
        x_BNC, mu_BKC, iterations=T, highway_scale=told["scale_TB"][:, 0], assignment=mixture.assignment,
        variance=mixture.variance, normalize=mixture.normalize, weights_BN=told["weights_BN"], **options,
    )  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalize", ["none", "l2"])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("h", SCALES)
def test_the_whole_gradient_is_what_the_engine_records(h, assignment, normalize, weighted) -> None:
    told = problem(h, assignment, normalize, weighted)
    found = e_step.parts(**told, hold=False)
    x_BNC, mu_BKC = (told[name].clone().requires_grad_() for name in ("x_BNC", "mu_BKC"))
    result = fit(told, x_BNC, mu_BKC, engine="recompute", record_gradient_flow=True)
    result.reconstruction.backward(told["dy_BNC"])
    torch.testing.assert_close(found.features_TBNC.sum(0), x_BNC.grad, **CLOSE)
    torch.testing.assert_close(found.means_TBKC[0], mu_BKC.grad, **CLOSE)
    for part, recorded in zip(
        found, (result.gradient_flow.features, result.gradient_flow.means), strict=True
    ):
        torch.testing.assert_close(part.flatten(2).norm(dim=2), recorded, **CLOSE)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("h", SCALES)
def test_the_whole_gradient_is_a_quotient_of_differences(h, assignment) -> None:
    told, step = problem(h, assignment), 1e-5
    found = e_step.parts(**told, hold=False)
    for name, part in (("x_BNC", found.features_TBNC.sum(0)), ("mu_BKC", found.means_TBKC[0])):
        along = draw(*told[name].shape, seed=5)
        losses = []
        for sign in (1, -1):
            moved = {
                key: told[key] + (sign * step * along if key == name else 0) for key in ("x_BNC", "mu_BKC")
            }
            losses.append((fit(told, *moved.values()).reconstruction * told["dy_BNC"]).sum().item())
        # The quotient's error is a third derivative times step², 1e-10, and 1e-16 / step by rounding.
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(
            (part * along).sum().item(), rel=1e-7, abs=1e-8
        )


@pytest.mark.parametrize("h", SCALES)
def test_with_responsibilities_held_it_is_eq_15_and_eq_18(h) -> None:
    """Iteration t injects (1 - h_t) z_nk / N_k, times the later h, times the gradient to mu_k^(T)."""
    told = problem(h)
    found = e_step.parts(**told, hold=True)
    x_BNC, dy_BNC, scale_T = told["x_BNC"], told["dy_BNC"], told["scale_TB"][:, 0].tolist()
    result = fit(told, x_BNC, told["mu_BKC"], return_trajectory=True)
    z_TBNK = [torch.softmax(x_BNC @ mu_BKC.mT / 2.0, dim=2) for mu_BKC in result.trajectory[:T]]
    last_BKC = torch.einsum("bnk,bnc->bkc", z_TBNK[-1], dy_BNC)
    for t in range(T + 1):
        torch.testing.assert_close(found.means_TBKC[t], math.prod(scale_T[t:]) * last_BKC, **CLOSE)
    for t in range(T):
        factor = (1 - scale_T[t]) * math.prod(scale_T[t + 1 :])
        for b in range(B):
            for n in range(N):
                direct_C = torch.zeros(C, dtype=torch.float64)
                for k in range(K):
                    direct_C += factor * z_TBNK[t][b, n, k] / z_TBNK[t][b, :, k].sum() * last_BKC[b, k]
                torch.testing.assert_close(found.features_TBNC[t, b, n], direct_C, **CLOSE)
    assert not found.features_TBNC[
        T
    ].any()  # the readout reaches the features through its responsibilities alone


def test_what_is_held_is_the_gradient_of_a_fit_with_those_responsibilities() -> None:
    """A difference quotient with z fixed at its values, weights and unit means included."""
    told, step = problem(0.4, "gaussian", "l2", weighted=True), 1e-5
    trajectory = fit(told, told["x_BNC"], told["mu_BKC"], return_trajectory=True).trajectory[:T]
    spread = [-(told["x_BNC"][:, :, None] - mu_BKC[:, None]).square().sum(3) / 4.0 for mu_BKC in trajectory]
    z_TBNK = [torch.softmax(logits_BNK, dim=2) for logits_BNK in spread]

    def loss(x_BNC: Tensor) -> float:
        mu_BKC = told["mu_BKC"]
        for z_BNK, h in zip(z_TBNK, told["scale_TB"][:, 0], strict=True):
            share_BNK = z_BNK * told["weights_BN"][:, :, None]
            m_BKC = torch.einsum("bnk,bnc->bkc", share_BNK, x_BNC) / share_BNK.sum(1)[:, :, None]
            mu_BKC = F.normalize(h * mu_BKC + (1 - h) * m_BKC, dim=2)
        return (z_TBNK[-1] @ mu_BKC * told["dy_BNC"]).sum().item()

    along = draw(B, N, C, seed=6)
    quotient = (loss(told["x_BNC"] + step * along) - loss(told["x_BNC"] - step * along)) / (2 * step)
    held = e_step.parts(**told, hold=True).features_TBNC.sum(0)
    assert quotient == pytest.approx((held * along).sum().item(), rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("iterations", [0, 3, 6])
def test_squares_of_an_image(iterations: int) -> None:
    layer = HighwayEM(C, K, iterations=3, highway_scale=0.5)
    given = Given(layer, draw(1, N, C, seed=1), None, draw(1, N, C, seed=3))
    found = e_step.squares(given, iterations).sqrt()
    assert found.shape == (iterations + 2, len(e_step.COLUMNS))
    x_BNC, means_BKC = given.x_BNC.clone().requires_grad_(), layer.means.double()[None]
    result = unroll(
        x_BNC,
        means_BKC,
        iterations=iterations,
        highway_scale=0.5,
        assignment="dot",
        record_gradient_flow=True,
    )
    result.reconstruction.backward(given.dy_BNC)
    column = dict(zip(e_step.COLUMNS, found.T, strict=True))
    torch.testing.assert_close(column["features_whole"][:-1], result.gradient_flow.features[:, 0], **CLOSE)
    torch.testing.assert_close(column["features_whole"][-1], x_BNC.grad.norm(), **CLOSE)
    # The readout's own part is all the E-step's.
    torch.testing.assert_close(column["features_e_step"][-2], column["features_whole"][-2], **CLOSE)
    assert column["means_whole"][-1].isnan()
    powers = 0.5 ** torch.arange(iterations, -1, -1).double()
    torch.testing.assert_close(column["means_n_step"][:-1], powers * column["means_n_step"][-2], **CLOSE)
    names = [row[0] for row in e_step.rows(found.square())]
    assert names == [*range(iterations + 1), "all"]
    assert e_step.rows(found.square())[-1][4:] == ["", "", ""]


def test_steps_that_are_mixed_are_refused() -> None:
    layer = HighwayEM(C, K, assignment="gaussian", gradient="one_step", acceleration="anderson")
    with pytest.raises(HemnetError, match="acceleration=anderson"):
        e_step.squares(Given(layer, draw(1, N, C), None, draw(1, N, C)), 3)


DETACHED = {"gradient": "detached", "normalize": "l2", "variance": 1.0}


@pytest.mark.parametrize(("options", "layers"), [({}, 1), (DETACHED, 1), ({}, 2)])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_what_a_layer_is_given_by_a_network(options: dict, layers: int, mask_padding: bool) -> None:
    """The gradient at its output is a quotient of differences of val/loss; the rest is what its hook sees."""
    torch.manual_seed(0)
    backbone = ResNet(18, output_stride=8, width=4)
    head = EMHead(backbone.channels, 3, channels=8, num_components=4, mask_padding=mask_padding, **options)
    if layers == 2:
        head.refine.insert(0, HighwayEM(8, 5))
    network = Segmenter(backbone, head).eval().double()
    image_CHW, mask_HW = draw(3, 30, 43, seed=1), torch.randint(0, 3, (60, 86), dtype=torch.uint8)
    mask_HW[:5] = 255
    found = at_layers_of(network, {"image": image_CHW, "mask": mask_HW, "name": "a"})
    assert [*found] == ["", "head.refine.0/"][:layers]
    for prefix, layer in em_layers(network).items():
        given, seen = found[prefix], []

        def loss(move: float, layer=layer, seen=seen) -> float:
            def moved(_, inputs, y_BChw):
                seen.append(inputs)
                return y_BChw + move * draw(*y_BChw.shape, seed=2)

            handle = layer.register_forward_hook(moved)
            with torch.no_grad():
                logits = network(image_CHW[None], (60, 86)).logits
            handle.remove()
            return F.cross_entropy(logits, mask_HW[None].long(), ignore_index=255).item()

        step = 1e-6
        quotient = (loss(step) - loss(-step)) / (2 * step)
        x_BChw, *told = seen[0]
        torch.testing.assert_close(given.x_BNC, x_BChw.flatten(2).mT, rtol=0, atol=0)
        assert (given.weights_BN is None) == (not mask_padding or prefix != "")
        if given.weights_BN is not None:
            torch.testing.assert_close(given.weights_BN, told[1].flatten(1), rtol=0, atol=0)
        along_BNC = draw(*x_BChw.shape, seed=2).flatten(2).mT
        assert quotient != 0
        assert (given.dy_BNC * along_BNC).sum().item() == pytest.approx(quotient, rel=1e-5)
