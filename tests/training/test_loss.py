"""Losses against closed forms.

Shapes: B images, K classes, H and W pixels.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hemnet.training.loss import HardPixels, cross_entropy_sum

VOID = 255


def mean(loss):
    return lambda *given, **options: loss(*given, **options).mean()


cross_entropy = mean(cross_entropy_sum)


def softmax(logits_BKHW: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_BKHW - logits_BKHW.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def reference(logits_BKHW: np.ndarray, target_BHW: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss and its gradient in float64, pixel by pixel."""
    valid = np.argwhere(target_BHW != VOID)
    p_BKHW = softmax(logits_BKHW)
    loss, gradient = 0.0, np.zeros_like(logits_BKHW)
    for b, i, j in valid:
        k = target_BHW[b, i, j]
        loss -= np.log(p_BKHW[b, k, i, j]) / len(valid)
        gradient[b, :, i, j] = p_BKHW[b, :, i, j] / len(valid)
        gradient[b, k, i, j] -= 1 / len(valid)
    return loss, gradient


def draw(seed: int, shape: tuple[int, int, int, int], void_share: float) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, shape)
    target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    target[rng.random(target.shape) < void_share] = VOID
    return torch.from_numpy(logits), torch.from_numpy(target)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes, share=st.floats(0, 1), half=st.booleans())
def test_loss_and_gradient_are_those_of_numpy(seed, shape, share, half):
    logits, target = draw(seed, shape, share)
    logits = logits.to(torch.bfloat16 if half else torch.float32).requires_grad_()
    loss = cross_entropy(logits, target)
    loss.backward()
    expected, gradient = reference(logits.detach().double().numpy(), target.numpy())
    assert loss.dtype == torch.float32
    # Float32: each pixel's logarithm is off by some roundings of 6e-8 of logits below 20, so 1e-5 at most,
    # and so is their mean; bfloat16 logits are the input, and cost nothing but their gradient's rounding.
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    # One rounding to bfloat16 is 2^-9 of the value; in float32 a softmax is off by a few times 6e-8 * 20.
    np.testing.assert_allclose(
        logits.grad.double().numpy(), gradient, rtol=2**-8 if half else 1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_batch_without_a_valid_pixel_gives_zero_and_zero_gradients(dtype):
    logits = torch.randn(2, 3, 4, 5).to(dtype).requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 4, 5), VOID))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_lose_no_more_than_their_rounding():
    # 4096 pixels of loss log(3) each: a float16 sum would pass 4096 in steps of 4.
    logits, target = torch.zeros(1, 3, 64, 64, dtype=torch.float16), torch.zeros(1, 64, 64, dtype=torch.long)
    # A float32 sum of 4096 equal terms: blocks keep it within some tens of roundings of 6e-8.
    assert cross_entropy(logits, target).item() == pytest.approx(np.log(3), rel=1e-5)


def test_ignore_index_can_be_chosen():
    logits, target = draw(0, (2, 3, 4, 4), 0.0)
    expected = reference(logits.numpy(), np.where(target == 1, VOID, target))[0]
    assert cross_entropy(logits, target, ignore_index=1).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40)
@given(
    threshold=st.floats(0.05, 1.0),
    at_least=st.floats(0.01, 1.0),
    ignored=st.floats(0.0, 0.9),
    seed=st.integers(0, 2**16),
)
def test_hard_pixels_are_those_below_the_threshold_or_the_hardest(threshold, at_least, ignored, seed):
    rng = np.random.default_rng(seed)
    logits, target = 3 * rng.normal(size=(2, 4, 5, 3)), rng.integers(0, 4, (2, 5, 3))
    target[rng.random(target.shape) < ignored] = VOID
    p = softmax(logits)
    losses = sorted(-np.log(p[b, target[b, i, j], i, j]) for b, i, j in np.argwhere(target != VOID))
    count = math.ceil(at_least * len(losses))
    hard = [loss for n, loss in enumerate(reversed(losses)) if n < count or loss > -math.log(threshold)]
    found = mean(HardPixels(threshold, at_least))(torch.tensor(logits), torch.tensor(target), VOID).item()
    assert found == pytest.approx(np.mean(hard) if hard else 0.0, rel=1e-5, abs=1e-6)


def test_all_pixels_hard_is_plain_cross_entropy():
    logits, target = torch.randn(2, 4, 5, 3), torch.randint(0, 4, (2, 5, 3))
    torch.testing.assert_close(mean(HardPixels(1.0, 1.0))(logits, target), cross_entropy(logits, target))


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.1}, {"at_least": 0.0}], ids=str)
def test_hard_pixels_refuse(options):
    with pytest.raises(ValueError, match="threshold is"):
        HardPixels(**options)


def test_sums_of_parts_are_the_sum():
    logits, target = draw(0, (4, 3, 5, 2), 0.4)
    target[1] = VOID
    parts = [cross_entropy_sum(logits[i : i + 1], target[i : i + 1]) for i in range(4)]
    assert parts[1] == (0, 0)
    total, pixels = (sum(values) for values in zip(*parts, strict=True))
    assert pixels == (target != VOID).sum()
    # Sums of 40 float64 terms in another order.
    torch.testing.assert_close(total / pixels, cross_entropy(logits, target), rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss", [cross_entropy, mean(HardPixels(0.5, 0.25))], ids=["plain", "hard"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_is_not_left_out(loss, bad):
    logits, target = torch.randn(2, 3, 5, 4), torch.zeros(2, 5, 4, dtype=torch.int64)
    logits[1, 2, 0, 0] = bad
    assert not loss(logits, target).isfinite()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("loss", [cross_entropy, mean(HardPixels(0.5, 0.25))], ids=["plain", "hard"])
def test_deterministic_algorithms_change_neither_loss_nor_gradient(loss, request):
    logits, target = draw(1, (3, 4, 6, 5), 0.3)
    found = []
    for _ in range(2):
        x = logits.clone().requires_grad_()
        value = loss(x, target)
        value.backward()
        found.append((value.detach(), x.grad))
        if not torch.are_deterministic_algorithms_enabled():
            request.getfixturevalue("deterministic")
    # Sums of 90 float64 terms in another order.
    torch.testing.assert_close(found[0], found[1], rtol=1e-13, atol=1e-15)


def test_deterministic_algorithms_have_no_loss_of_images(deterministic, monkeypatch):
    """CUDA only has a deterministic loss for a flat list of pixels, not for (B, K, H, W)."""
    shapes, plain = [], F.cross_entropy

    def spy(pixels, *args, **options):
        shapes.append(pixels.ndim)
        return plain(pixels, *args, **options)

    monkeypatch.setattr(F, "cross_entropy", spy)
    logits, target = draw(1, (3, 4, 6, 5), 0.3)
    assert cross_entropy(logits, target).isfinite()
    assert mean(HardPixels())(logits, target).isfinite()
    assert shapes == [2, 2]
