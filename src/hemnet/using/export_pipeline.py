"""Prediction as one network: 8-bit images in, classes out, in operators that exporters translate.

Resizing, which evaluation leaves to OpenCV, is here made of sums over pixels, with OpenCV's rounding. So
another program needs to know neither the size that the network is given nor how images are normalised.

Shapes: B images, K classes, H and W pixels, h and w of the network's input, n and m of its scores.
"""

from typing import cast

import torch
from torch import Tensor, nn

from hemnet.data.transforms import MEAN_RGB, STD_RGB, Target
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.portable import portable_copy
from hemnet.training.inference import Inference

LEVELS = 256
"""OpenCV interpolates 8-bit images with shares of 1/256."""


class Pipeline(nn.Module):
    """Maps RGB images (B, H, W, 3) uint8 to classes (B, H, W) uint8 and confidence (B, H, W) float32.

    It resizes, normalises, runs the network, and interpolates its scores to the size of the images, as
    `hemnet.predict` does. The confidence is the probability of the class.

    Args:
        network: the trained network; a portable copy of it is taken.
        target: the size that images are resized to.
        inference: must be plain.

    Raises:
        HemnetError: the run is evaluated over scales, mirror images or windows.
    """

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, network: Segmenter, target: Target, inference: Inference) -> None:
        super().__init__()
        if tuple(inference.scales) != (1.0,) or inference.flip or inference.window is not None:
            raise HemnetError(
                "--whole is for networks that see an image once, as it is, and this run's configuration has "
                f"inference {' '.join(inference.settings)}: leave --whole out"
            )
        self.network = cast(Segmenter, portable_copy(network, scores=True).network)
        self.target = target
        for name, values in (("mean_311", MEAN_RGB), ("std_311", STD_RGB)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64)[:, None, None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes and confidence."""
        height, width = image.shape[1], image.shape[2]
        x_B3hw = image.permute(0, 3, 1, 2).to(torch.float32)
        if self.target.changes:
            x_B3hw = _resized(x_B3hw, (height, width), self.target.of(height, width))
        x_B3hw = ((x_B3hw.to(torch.float64) / 255 - self.mean_311) / self.std_311).to(torch.float32)
        (scores_BKnm, *_), filled = self.network.scores(x_B3hw)
        lengths = zip(scores_BKnm.shape[2:], filled, x_B3hw.shape[2:], (height, width), strict=True)
        rows_Hn, columns_Wm = (_interpolating(*of_side) for of_side in lengths)
        logits_BKHW = rows_Hn @ scores_BKnm @ columns_Wm.T
        p_BKHW = logits_BKHW.softmax(1)
        return logits_BKHW.argmax(1).to(torch.uint8), p_BKHW.amax(1)


def _interpolating(count: int, filled: int, given: int, size: int) -> Tensor:
    """Return the matrix, (size, count), that interpolates scores along a side to the size of the image.

    Args:
        count: the scores, which cover the padding too.
        filled: the network's input with the padding.
        given: without it.
        size: the image.
    """
    every = torch.arange(count, dtype=torch.float64)
    place_H1 = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * (given * count) / (size * filled)
    place_H1 = torch.minimum((place_H1 - 0.5).clamp(min=0), every.max())
    share_H1 = place_H1 - place_H1.floor()
    return ((every == place_H1.floor()) * (1 - share_H1) + (every == place_H1.floor() + 1) * share_H1).float()


def _resized(x_BCHW: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return 8-bit images, as float32, resized as `hemnet.data.transforms.resize_image` does, to the bit.

    A pixel of the result is a sum over pixels in a row, and then in a column, in OpenCV's order and in
    float32 as there: many sums are halves, and rounding errors decide to which side those fall.
    """
    sides = [_as_tensors(*lengths) for lengths in zip(before, after, strict=True)]
    shrinks = torch.stack([after <= before for before, after in sides]).all()
    whole = torch.stack([_length(*lengths) == lengths[0] // lengths[1] for lengths in sides]).all() & shrinks
    halves = torch.stack([before == 2 * after for before, after in sides]).all()
    x_BChw = x_BCHW
    for axis in (3, 2):
        lengths = before[axis - 2], after[axis - 2]
        (areas_mT, shares_mT), (pixels_mT, linear_mT) = _areas(*lengths, whole), _neighbours(*lengths)
        index_mT = torch.where(shrinks, areas_mT, pixels_mT).clamp(max=lengths[0] - 1).long()
        weight_mT = torch.where(shrinks, shares_mT, linear_mT).float()
        gathered = x_BChw.movedim(axis, -1)[..., index_mT] * weight_mT
        # A cumulative sum is one in order; the order of a plain one is left to the runtime.
        x_BChw = gathered.cumsum(-1)[..., -1].movedim(-1, axis)
    area = torch.stack([before // after for before, after in sides]).prod().float()
    x_BChw = torch.where(whole, x_BChw * (1 / area), x_BChw)
    # Halves are rounded as OpenCV does: to even, except where it halves the image or interpolates.
    return torch.where(halves | ~shrinks, torch.floor(x_BChw + 0.5), torch.round(x_BChw))


def _as_tensors(*lengths: int) -> tuple[Tensor, ...]:
    """Return lengths as tensors, in whose values a traced graph does not fix the size of the example."""
    return tuple(torch.arange(length).sum() * 0 + length for length in lengths)


def _steps(count: int, size: int) -> Tensor:
    """Return 0, 1, ..., T - 1, T being the most pixels of a row of ``count`` that make one of ``size``."""
    return torch.arange((count + size - 1) // size + 1)


def _length(before: Tensor, after: Tensor) -> Tensor:
    """Return how many of ``before`` pixels each of ``after`` covers, as OpenCV has it: above 98 of 98."""
    return 1 / (after.double() / before.double())


def _areas(count: int, size: int, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pixels of a row of ``count`` each of ``size`` covers, and with which weights, (size, T).

    With ``whole``, where each covers as many whole pixels, the weights are 1, and the sum is to be divided.
    """
    before, after = _as_tensors(count, size)
    scale = _length(before, after)
    low_m1 = torch.arange(size, dtype=torch.float64)[:, None] * scale
    high_m1 = low_m1 + scale
    last_m1 = torch.minimum(high_m1.floor(), before - 1)
    first_m1 = torch.minimum(low_m1.ceil(), last_m1)
    index_mT = low_m1.floor() + _steps(count, size)
    one_mT = ((index_mT >= low_m1) & (index_mT < high_m1)).double()
    # As OpenCV has it: less than 1/1000 of a pixel is dropped.
    cell_m1 = torch.minimum(scale, before - low_m1)
    left_m1, right_m1 = first_m1 - low_m1, torch.minimum((high_m1 - last_m1).clamp(max=1), cell_m1)
    weight_mT = ((index_mT >= first_m1) & (index_mT < last_m1)).double()
    weight_mT = weight_mT + ((index_mT == first_m1 - 1) & (left_m1 > 1e-3)) * left_m1
    weight_mT = weight_mT + ((index_mT == last_m1) & (high_m1 - last_m1 > 1e-3)) * right_m1
    return index_mT, torch.where(whole, one_mT, weight_mT / cell_m1)


def _neighbours(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return between which pixels of a row of ``count`` each of ``size`` is, and their shares, (size, T)."""
    step = _steps(count, size)
    centre_m1 = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * count / size - 0.5
    centre_m1 = torch.minimum(centre_m1.clamp(min=0), _as_tensors(count)[0].double() - 1)
    share_m1 = torch.round((centre_m1 - centre_m1.floor()) * LEVELS) / LEVELS
    return centre_m1.floor() + step, (step == 0) * (1 - share_m1) + (step == 1) * share_m1
