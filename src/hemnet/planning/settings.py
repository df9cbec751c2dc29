"""The settings of a recipe that follow from the photographs and the machine.

Shapes: heights and widths in pixels.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch

from hemnet.config.advice import FEWEST_STEPS, GRID
from hemnet.nets.efficientnet_lite import PUBLISHED

AREA = 384 * 512
"""Pixels of a photograph as the network sees it, at most, on the CPU; as in experiments/folder_lite.yaml."""
AREA_GPU = 768 * 1024
CROP, CROP_GPU = 256, 512
BATCH, BATCH_GPU = 8, 16
LARGE = 2048
"""Photographs with a longer side are shrunk as they are read, and kept decoded."""
STEPS, STEPS_SCRATCH = 500, 2000
VALIDATIONS = 5


@dataclass(frozen=True)
class Settings:
    """What a recipe sets.

    Attributes:
        longest: longer side at which the network sees photographs.
        crop: side of the training crops.
        batch: images in a step.
        pretrained: whether the backbone starts from ImageNet weights, which an installed package has.
        gpu: whether training runs on a GPU.
        workers: worker processes that read images.
        shrink: longer side to which photographs are shrunk as they are read; None is not at all.
        steps: optimizer steps.
        every: steps between validations.
    """

    longest: int
    crop: int
    batch: int
    pretrained: bool
    gpu: bool
    workers: int
    shrink: int | None
    steps: int
    every: int


def settings_for(sizes: Sequence[tuple[int, int]], train: int) -> Settings:
    """Return the settings for photographs of these sizes; the number of steps is that of `with_time`.

    Args:
        sizes: (height, width) of each photograph, train and val.
        train: number of training images, >= 1.
    """
    gpu = torch.cuda.is_available()
    sides = np.array(sizes, float)
    longer, shorter = sides.max(1), sides.min(1)
    ratio = float(np.median(shorter / longer))
    # Of the median photograph, the area is AREA at most; small photographs are not enlarged.
    longest = int(min(np.median(longer), ((AREA_GPU if gpu else AREA) / ratio) ** 0.5))
    longest = longest // GRID * GRID or longest
    # The shorter side of nearly all photographs: a crop larger than a photograph would be padded.
    short = longest * float(np.quantile(shorter / longer, 0.1))
    crop = int(min(CROP_GPU if gpu else CROP, short))
    cores = os.cpu_count() or 1
    pretrained = has_weights()
    steps = STEPS if pretrained else STEPS_SCRATCH
    return Settings(
        longest=longest,
        crop=max(crop // GRID * GRID, min(crop, GRID), 1),
        batch=min(BATCH_GPU if gpu else BATCH, train),
        pretrained=pretrained,
        gpu=gpu,
        workers=min(4, max(1, cores - 1)),
        shrink=2 * longest if longer.max() > max(LARGE, 2 * longest) else None,
        steps=steps,
        every=steps // VALIDATIONS,
    )


def has_weights() -> bool:
    """Return whether the package with the ImageNet weights of the backbone is installed."""
    return find_spec(PUBLISHED[0].package) is not None


def steps_in(seconds: float, per_step: float, per_validation: float, most: int) -> tuple[int, int]:
    """Return how many steps fit into a time, and the steps between validations.

    There are up to `VALIDATIONS`, and fewer if they would take more than a fifth of the time; one more is
    made when training ends. The number of steps is at least `FEWEST_STEPS`, even if that takes longer.

    Args:
        seconds: the time, > 0.
        per_step: seconds of a step, > 0.
        per_validation: seconds of a validation.
        most: the largest number of steps.
    """
    validations = int(min(VALIDATIONS, max(1, 0.2 * seconds // max(per_validation, 1e-9))))
    fitting = int((seconds - validations * per_validation) / per_step)
    steps = min(most, max(FEWEST_STEPS, fitting // 50 * 50))
    return steps, max(1, steps // validations)
