"""Segmentation metrics: one int64 confusion matrix per split, functions of it, and a mean over pixels.

Shapes: K classes; C_KK a confusion matrix, rows true classes, columns predicted ones, in pixels.
Every metric is a fraction in [0, 1]. The IoU of a class that is absent from both truth and prediction is NaN,
not 0, and means leave it out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def confusion(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Return the confusion matrix C_KK, int64, of two class maps of the same shape.

    Args:
        prediction: predicted classes in [0, K), any shape.
        target: true classes in [0, K) or ``ignore_index``.
        num_classes: K.
        ignore_index: the label of pixels that are not counted.

    Raises:
        ValueError: the shapes differ, a map is of floating-point numbers, or a counted pixel's label or
            prediction is not in [0, K).
    """
    if prediction.is_floating_point() or target.is_floating_point():
        raise ValueError(
            f"prediction is {prediction.dtype}, target {target.dtype}: give class indices, "
            "such as logits.argmax(1), not scores"
        )
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}: "
            "resize the logits to the mask's size first"
        )
    counted = target != ignore_index
    truth, guess = target[counted].long(), prediction[counted].long()
    for name, labels in (("target", truth), ("prediction", guess)):
        if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
            raise ValueError(
                f"{name} has labels in [{int(labels.min())}, {int(labels.max())}], outside "
                f"[0, {num_classes}): map them to classes or to the ignore index {ignore_index}"
            )
    pairs = torch.bincount(truth * num_classes + guess, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


class ConfusionMatrix(Metric):
    """Counts pairs of true and predicted class over a split; `compute` sums them over the ranks.

    Args:
        num_classes: K.
        ignore_index: the label of pixels that are not counted.

    Example:
        >>> matrix = ConfusionMatrix(num_classes=2)
        >>> matrix.update(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 255]]))
        >>> matrix.compute()
        tensor([[1, 0],
                [1, 0]])
        >>> mean_iou(matrix.compute())  # 1/2 and 0
        0.25
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        # int64, since a float32 counter stops at 2^24 pixels, about a hundred VOC images.
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix", counts, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add the confusion matrix of two class maps; on an error of `confusion` the sum is unchanged."""
        self.matrix += confusion(prediction, target, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        """Return C_KK, int64, of all updates since the last reset; a scalar for K = 1."""
        return self.matrix


class PixelMean(Metric):
    """The mean over all pixels of a split, from sums over the pixels of each batch.

    NaN and infinity in a sum stay in the mean. The mean over no pixels is NaN.
    """

    full_state_update = False
    total: Tensor
    pixels: Tensor

    def __init__(self) -> None:
        super().__init__()
        # float32 would lose what a batch adds, once there are 2^24 pixels.
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, total: Tensor, pixels: Tensor) -> None:
        """Add the sum over a batch, a scalar, and its number of pixels, an integer scalar."""
        self.total += total
        self.pixels += pixels

    def compute(self) -> Tensor:
        """Return the mean, float64, over all updates since the last reset."""
        return self.total / self.pixels


def _as_float(C_KK: Tensor) -> Tensor:
    # torchmetrics turns results of one element into scalars.
    return torch.atleast_2d(C_KK).double()


def iou(C_KK: Tensor) -> Tensor:
    """Return each class's intersection over union, (K,) float64; NaN where the union is empty."""
    C_KK = _as_float(C_KK)
    hit_K = C_KK.diagonal()
    return hit_K / (C_KK.sum(0) + C_KK.sum(1) - hit_K)


def recall(C_KK: Tensor) -> Tensor:
    """Return each class's accuracy, correct over true pixels, (K,) float64; NaN where there are none."""
    C_KK = _as_float(C_KK)
    return C_KK.diagonal() / C_KK.sum(1)


def mean_iou(C_KK: Tensor) -> float:
    """Return the mean IoU over the classes present in truth or prediction; NaN for an empty matrix."""
    return iou(C_KK).nanmean().item()


def pixel_accuracy(C_KK: Tensor) -> float:
    """Return correct over counted pixels; NaN for an empty matrix."""
    C_KK = _as_float(C_KK)
    return (C_KK.diagonal().sum() / C_KK.sum()).item()


def mean_accuracy(C_KK: Tensor) -> float:
    """Return the mean recall over the classes present in the truth; NaN for an empty matrix."""
    return recall(C_KK).nanmean().item()


def summarize(C_KK: Tensor, classes: Sequence[str], split: str) -> dict[str, float]:
    """Return every metric under its public name, such as ``val/miou`` and ``val/iou/road``."""
    scores = {
        f"{split}/miou": mean_iou(C_KK),
        f"{split}/pixel_accuracy": pixel_accuracy(C_KK),
        f"{split}/mean_accuracy": mean_accuracy(C_KK),
    }
    per_class = iou(C_KK).tolist()
    return scores | {f"{split}/iou/{name}": score for name, score in zip(classes, per_class, strict=True)}
