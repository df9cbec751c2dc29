"""The confusion matrix is exactly that of a count in numpy.

Shapes: K classes; C_KK rows true classes, columns predicted ones.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hemnet.training.metrics import (
    ConfusionMatrix,
    PixelMean,
    iou,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
    recall,
    summarize,
)

VOID = 255
# Integers below 2^53 are exact in float64 and every ratio is rounded once, so ratios are compared for
# equality; a mean over K <= 8 classes adds up to 8 more roundings of 1.1e-16.
MEAN = {"rel": 1e-14, "nan_ok": True}


def count(prediction: np.ndarray, target: np.ndarray, classes: int, void: int = VOID) -> np.ndarray:
    matrix = np.zeros((classes, classes), np.int64)
    kept = target != void
    np.add.at(matrix, (target[kept].astype(np.int64), prediction[kept].astype(np.int64)), 1)
    return matrix


def class_iou(matrix: np.ndarray, k: int) -> float:
    union = matrix[k, :].sum() + matrix[:, k].sum() - matrix[k, k]
    return matrix[k, k] / union if union else math.nan


def class_recall(matrix: np.ndarray, k: int) -> float:
    return matrix[k, k] / matrix[k].sum() if matrix[k].sum() else math.nan


def mean_of_present(values: list[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def pair(seed: int, shape: tuple[int, ...], classes: int, void_share: float) -> tuple[Tensor, Tensor]:
    """A prediction and a mask of the first classes only, so that some classes are absent."""
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, rng.integers(1, classes + 1), shape)
    target = rng.integers(0, rng.integers(1, classes + 1), shape)
    target[rng.random(shape) < void_share] = VOID
    return torch.from_numpy(prediction), torch.from_numpy(target)


def matrix_of(*pairs: tuple[Tensor, Tensor], classes: int) -> Tensor:
    metric = ConfusionMatrix(classes)
    for prediction, target in pairs:
        metric.update(prediction, target)
    return metric.compute()


batches = st.lists(
    st.tuples(
        st.integers(0, 2**32 - 1),
        st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=100)
@given(batches=batches, classes=st.integers(1, 8))
def test_counts_and_scores_are_those_of_numpy(batches, classes):
    pairs = [pair(seed, shape, classes, share) for seed, shape, share in batches]
    C_KK = matrix_of(*pairs, classes=classes)
    expected = sum(count(prediction.numpy(), target.numpy(), classes) for prediction, target in pairs)
    assert C_KK.dtype == torch.int64
    np.testing.assert_array_equal(np.atleast_2d(C_KK.numpy()), expected)

    ious = [class_iou(expected, k) for k in range(classes)]
    recalls = [class_recall(expected, k) for k in range(classes)]
    np.testing.assert_array_equal(iou(C_KK).numpy(), ious)
    np.testing.assert_array_equal(recall(C_KK).numpy(), recalls)
    assert mean_iou(C_KK) == pytest.approx(mean_of_present(ious), **MEAN)
    assert mean_accuracy(C_KK) == pytest.approx(mean_of_present(recalls), **MEAN)
    total = expected.sum()
    assert pixel_accuracy(C_KK) == pytest.approx(np.trace(expected) / total if total else math.nan, **MEAN)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_ignored_pixels_do_not_count_whatever_is_predicted_there(seed, share):
    prediction, target = pair(seed, (6, 7), 5, share)
    other = torch.where(target == VOID, 99, prediction)
    assert torch.equal(matrix_of((prediction, target), classes=5), matrix_of((other, target), classes=5))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_perfect_prediction_scores_one(seed):
    target = pair(seed, (6, 7), 5, 0.2)[1]
    prediction = torch.where(target == VOID, 0, target)
    C_KK = matrix_of((prediction, target), classes=5)
    assert mean_iou(C_KK) == mean_accuracy(C_KK) == pixel_accuracy(C_KK) == 1


def test_rows_are_the_truth():
    C_KK = matrix_of((torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0])), classes=3)
    assert C_KK.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_absent_class_is_nan_and_left_out_of_the_mean():
    # Class 0: 2 hits of a union of 3; class 1: never true, once predicted; class 2: absent.
    C_KK = torch.tensor([[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(iou(C_KK).numpy(), [2 / 3, 0, math.nan])
    np.testing.assert_array_equal(recall(C_KK).numpy(), [2 / 3, math.nan, math.nan])
    assert mean_iou(C_KK) == pytest.approx(1 / 3)
    assert mean_accuracy(C_KK) == pytest.approx(2 / 3)
    assert pixel_accuracy(C_KK) == pytest.approx(2 / 3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_empty_matrix_scores_nan():
    for C_KK in (
        ConfusionMatrix(3).compute(),
        matrix_of((torch.tensor([1]), torch.tensor([VOID])), classes=3),
    ):
        assert not C_KK.any()
        assert iou(C_KK).isnan().all()
        assert recall(C_KK).isnan().all()
        assert all(math.isnan(score(C_KK)) for score in (mean_iou, mean_accuracy, pixel_accuracy))


def test_summary_has_the_public_names():
    C_KK = torch.tensor([[2, 1, 0], [0, 4, 0], [0, 0, 0]])
    scores = summarize(C_KK, ["road", "sky", "car"], "val")
    assert list(scores) == [
        "val/miou",
        "val/pixel_accuracy",
        "val/mean_accuracy",
        "val/iou/road",
        "val/iou/sky",
        "val/iou/car",
    ]
    assert scores["val/iou/road"] == 2 / 3
    assert scores["val/iou/sky"] == 4 / 5
    assert math.isnan(scores["val/iou/car"])
    with pytest.raises(ValueError, match="zip"):
        summarize(C_KK, ["road", "sky"], "val")


# --- exactness ----------------------------------------------------------------------------------------------


def test_more_than_2_to_the_24_pixels_are_counted_exactly():
    pixels, updates = 2**20 + 1, 17
    assert float(np.float32(pixels * updates)) != pixels * updates  # more than a float32 counter can count
    metric, zeros = ConfusionMatrix(2), torch.zeros(pixels, dtype=torch.uint8)
    for _ in range(updates):
        metric.update(zeros, zeros)
    assert metric.compute().tolist() == [[pixels * updates, 0], [0, 0]]


def test_a_mean_over_more_than_2_to_the_24_pixels_is_exact():
    metric, pixels, batches = PixelMean(), 307_201, 5000  # as many as in COCO's validation images
    for _ in range(batches):
        metric.update(torch.tensor(0.75 * pixels), torch.tensor(pixels))
    assert metric.pixels == pixels * batches > 2**24
    assert metric.compute() == 0.75  # to the bit: each sum is a multiple of 0.25 below 2^53 of them
    assert metric.half().total.dtype == torch.float64


def test_a_mean_hides_nothing():
    metric = PixelMean()
    metric.update(torch.tensor(1.0), torch.tensor(1))
    metric.update(torch.tensor(math.nan), torch.tensor(1))
    assert metric.compute().isnan()


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, lambda m: m.to(torch.bfloat16)])
def test_casting_the_module_around_it_leaves_the_counts(cast):
    module = nn.ModuleDict({"metric": ConfusionMatrix(2), "layer": nn.Linear(1, 1)})
    batch = torch.zeros(257, dtype=torch.int64)  # bfloat16 cannot represent 257
    module["metric"].update(batch, batch)
    cast(module)
    assert module["layer"].weight.dtype != torch.float32
    assert module["metric"].matrix.dtype == torch.int64
    module["metric"].update(batch, batch)
    assert module["metric"].compute().tolist() == [[514, 0], [0, 0]]


def test_state_is_int64_and_starts_anew_after_a_reset():
    metric, zeros = ConfusionMatrix(2), torch.zeros(3, dtype=torch.int64)
    metric.update(zeros, zeros)
    first = metric.compute()
    metric.update(zeros, zeros)
    assert first.sum() == 3, "a computed matrix must not change with later updates"
    metric.reset()
    metric.update(zeros, zeros)
    assert metric.matrix.dtype == torch.int64
    assert metric.compute().sum() == 3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_maps_of_any_width_count_alike(dtype):
    # 16 * 16 pairs: the index of a pair exceeds the range of uint8.
    prediction, target = pair(0, (40, 40), 16, 0.1)
    assert torch.equal(
        matrix_of((prediction.to(dtype), target.to(dtype)), classes=16),
        matrix_of((prediction, target), classes=16),
    )


# --- errors -------------------------------------------------------------------------------------------------

OKAY = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (
            OKAY,
            torch.tensor([0, 1, 3, 255]),
            r"target has labels in \[0, 3\], outside \[0, 3\).*ignore index 255",
        ),
        (OKAY, torch.tensor([0, -1, 2, 0]), r"target has labels in \[-1, 2\]"),
        (torch.tensor([0, 3, 0, 0]), OKAY, r"prediction has labels in \[0, 3\]"),
        (torch.tensor([0, -1, 0, 0]), OKAY, r"prediction has labels in \[-1, 0\]"),
        (OKAY[:3], OKAY, r"prediction has shape \(3,\), target \(4,\)"),
        (OKAY[None], OKAY, r"prediction has shape \(1, 4\)"),
        (OKAY.float(), OKAY, r"prediction is torch\.float32.*give class indices"),
        (OKAY, OKAY.double(), r"target torch\.float64"),
    ],
)
def test_bad_maps_raise_and_leave_the_matrix(prediction, target, message):
    metric = ConfusionMatrix(3)
    metric.update(OKAY, OKAY)
    before = metric.matrix.clone()
    with pytest.raises(ValueError, match=message):
        metric.update(prediction, target)
    assert torch.equal(metric.matrix, before)
