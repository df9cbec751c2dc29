"""Losses of training, exact over ranks: each is a function of sums over pixels, which can be added up.

`hemnet.training.loss.base` has the mechanism, `pixels` the losses that are means over pixels, `regions` those
that compare whole regions, Dice and Lovász.
"""

from hemnet.training.loss.base import Evaluated, Loss, LossSum, PixelSum, over_ranks
from hemnet.training.loss.class_weights import ClassWeights, Rule, class_weights
from hemnet.training.loss.pixels import CrossEntropy, Focal, HardPixels, cross_entropy_sum
from hemnet.training.loss.regions import Dice, Lovasz

__all__ = [
    "ClassWeights",
    "CrossEntropy",
    "Dice",
    "Evaluated",
    "Focal",
    "HardPixels",
    "Loss",
    "LossSum",
    "Lovasz",
    "PixelSum",
    "Rule",
    "class_weights",
    "cross_entropy_sum",
    "over_ranks",
]
