"""Losses against closed forms.

Shapes: B images, K classes, H and W pixels.
"""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hemnet.callbacks.class_frequencies import count
from hemnet.data import Sample
from hemnet.training.loss import (
    ClassWeights,
    CrossEntropy,
    Dice,
    Focal,
    HardPixels,
    Lovasz,
    cross_entropy_sum,
)

VOID = 255


def cross_entropy(*given, **options):
    return cross_entropy_sum(*given, **options).mean()


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
    found = HardPixels(threshold, at_least)(torch.tensor(logits), torch.tensor(target), VOID).item()
    assert found == pytest.approx(np.mean(hard) if hard else 0.0, rel=1e-5, abs=1e-6)


def test_all_pixels_hard_is_plain_cross_entropy():
    logits, target = torch.randn(2, 4, 5, 3), torch.randint(0, 4, (2, 5, 3))
    torch.testing.assert_close(HardPixels(1.0, 1.0)(logits, target), cross_entropy(logits, target))


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


@pytest.mark.parametrize("loss", [cross_entropy, HardPixels(0.5, 0.25)], ids=["plain", "hard"])
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


@pytest.mark.parametrize("loss", [cross_entropy, HardPixels(0.5, 0.25)], ids=["plain", "hard"])
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
    assert HardPixels()(logits, target).isfinite()
    assert shapes == [2, 2]


def nested_means(values: list[list[float]]) -> float:
    return float(np.mean([np.mean(of_classes) for of_classes in values])) if values else 0.0


def cross_entropy_by_pixel(p_BKHW, target_BHW, weights_K, smoothing: float, gamma: float) -> float:
    total = weight = 0.0
    for b, i, j in np.argwhere(target_BHW != VOID):
        k, p_K = target_BHW[b, i, j], p_BKHW[b, :, i, j]
        hit = (1 - p_K[k]) ** gamma * -np.log(p_K[k]) * weights_K[k]
        spread = np.mean(weights_K[: len(p_K)] * -np.log(p_K))
        total += (1 - smoothing) * hit + (smoothing * spread if smoothing else 0)
        weight += weights_K[k]
    return total / weight if weight else 0.0


def dice_by_class(p_BKHW, target_BHW) -> float:
    p_PK, target_P = p_BKHW.transpose(0, 2, 3, 1)[target_BHW != VOID], target_BHW[target_BHW != VOID]
    found = []
    for k in sorted(set(target_P.tolist())):
        true_P = target_P == k
        found.append(1 - 2 * p_PK[true_P, k].sum() / (p_PK[:, k].sum() + true_P.sum()))
    return float(np.mean(found)) if found else 0.0


def lovasz_by_thresholds(p_BKHW, target_BHW, per_image: bool) -> float:
    """The extension as the integral over levels t in [0, 1] of 1 - IoU, those of error above t being wrong.

    Another form of it than the loss is computed by.
    """
    groups = [slice(b, b + 1) for b in range(len(target_BHW))] if per_image else [slice(None)]
    found = []
    for group in groups:
        valid = target_BHW[group] != VOID
        p_PK, target_P = p_BKHW[group].transpose(0, 2, 3, 1)[valid], target_BHW[group][valid]
        classes = []
        for k in sorted(set(target_P.tolist())):
            true_P = target_P == k
            error_P = np.where(true_P, 1 - p_PK[:, k], p_PK[:, k])
            levels, area = np.unique(np.append(error_P, 0.0)), 0.0
            for low, high in itertools.pairwise(levels):
                wrong_P = error_P > low
                right = (true_P & ~wrong_P).sum()
                area += (high - low) * (1 - right / (true_P | wrong_P).sum())
            classes.append(area)
        if classes:
            found.append(classes)
    return nested_means(found)


WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0, 0.25])
REFERENCES = {
    "weights": (lambda k: CrossEntropy(class_weights=WEIGHTS[:k].tolist()),
                lambda p, y: cross_entropy_by_pixel(p, y, WEIGHTS, 0.0, 0.0)),
    "smoothing": (lambda k: CrossEntropy(label_smoothing=0.3),
                  lambda p, y: cross_entropy_by_pixel(p, y, np.ones(p.shape[1]), 0.3, 0.0)),
    "both": (lambda k: CrossEntropy(class_weights=WEIGHTS[:k].tolist(), label_smoothing=0.1),
             lambda p, y: cross_entropy_by_pixel(p, y, WEIGHTS[: p.shape[1]], 0.1, 0.0)),
    "focal": (lambda k: Focal(gamma=2.0), lambda p, y: cross_entropy_by_pixel(p, y, np.ones(5), 0.0, 2.0)),
    "focal, weights": (lambda k: Focal(gamma=0.5, class_weights=WEIGHTS[:k].tolist()),
                       lambda p, y: cross_entropy_by_pixel(p, y, WEIGHTS, 0.0, 0.5)),
    "dice": (lambda k: Dice(), dice_by_class),
    "lovasz": (lambda k: Lovasz(), lambda p, y: lovasz_by_thresholds(p, y, False)),
    "lovasz, per image": (lambda k: Lovasz(per_image=True), lambda p, y: lovasz_by_thresholds(p, y, True)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes, share=st.floats(0, 1))
def test_losses_are_those_of_loops_in_float64(name, seed, shape, share):
    make, reference = REFERENCES[name]
    logits, target = draw(seed, shape, share)
    expected = reference(softmax(logits.numpy()), target.numpy())
    # In float64 sums of 75 terms; in float32 the same of roundings of 6e-8, times logits of up to 20.
    assert make(shape[1])(logits, target).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    half = logits.to(torch.bfloat16)
    expected = reference(softmax(half.double().numpy()), target.numpy())
    assert make(shape[1])(half, target).item() == pytest.approx(expected, rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("void", [0.0, 0.4])
def test_gradients_are_those_of_finite_differences(name, void):
    logits, target = draw(3, (2, 4, 3, 3), void)
    loss = REFERENCES[name][0](4)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("sure", [0.0, 300.0])
def test_gradients_are_finite_where_the_network_is_sure_and_0_without_a_valid_pixel(name, sure):
    target = torch.randint(0, 4, (2, 5, 5))
    logits = (sure * F.one_hot(target, 4).movedim(-1, 1).float()).requires_grad_()
    for labels in (target, torch.full_like(target, VOID)):
        logits.grad = None
        loss = REFERENCES[name][0](4)(logits, labels)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_weighted_and_smoothed_cross_entropy_is_torch_s_mean():
    logits, target = draw(1, (3, 4, 6, 5), 0.3)
    loss = CrossEntropy(class_weights=[1.0, 2.0, 0.0, 0.5], label_smoothing=0.1)
    expected = F.cross_entropy(logits, target, torch.tensor([1.0, 2.0, 0.0, 0.5]).double(), ignore_index=VOID,
                               label_smoothing=0.1)  # fmt: skip
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(Focal(gamma=0.0)(logits, target), cross_entropy(logits, target))


def test_a_perfect_and_a_wrong_prediction_have_the_ends_of_the_range():
    target = torch.tensor([[[0, 0, 1], [2, VOID, 1]]])
    right = 100 * F.one_hot(target.clamp(max=3), 4)[..., :3].movedim(-1, 1).double()
    for loss in (Dice(), Lovasz(), Lovasz(per_image=True)):
        assert loss(right, target).item() == pytest.approx(0, abs=1e-12)
        assert loss(right.roll(1, 1), target).item() == pytest.approx(1, abs=1e-12)


def test_balanced_weights_are_scikit_learn_s_formula_and_median_frequency_that_of_eigen_and_fergus():
    labels = [np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([0, 0, 3, VOID])]
    masks = [Sample(np.zeros((1, len(row), 3), np.uint8), row[None].astype(np.uint8), "") for row in labels]
    reader = SimpleNamespace(spec=SimpleNamespace(num_classes=4), read=masks.__getitem__)
    pixels, around = count(reader, range(2))
    assert pixels.tolist() == [8, 2, 0, 1]
    assert around.tolist() == [11, 8, 0, 3]
    for rule, expected in (
        ("balanced", [11 / (3 * 8), 11 / (3 * 2), 0, 11 / 3]),
        # Of the frequencies 8/11, 2/8 and 1/3 the median is 1/3.
        ("median_frequency", [11 / 24, 4 / 3, 0, 1]),
    ):
        weights = ClassWeights(rule)
        weights.fit(4)
        assert weights.missing
        weights.count(pixels, around)
        assert not weights.missing
        np.testing.assert_allclose(weights.weights_K, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CrossEntropy(class_weights=[1.0, -1.0]), "0 or more"),
        (lambda: CrossEntropy(class_weights=[0.0, 0.0]), "one of them above"),
        (lambda: CrossEntropy(class_weights="rare"), "balanced or median_frequency"),
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: Focal(gamma=-1.0), "gamma is -1.0"),
        (lambda: Dice(factor=-1.0), "factor is -1.0"),
        (lambda: ClassWeights([1.0, 2.0]).fit(3), "2 numbers for 3 classes"),
    ],
)
def test_options_out_of_range_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
