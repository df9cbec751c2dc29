"""The pipeline of random transforms of training: steps by name, and transforms of albumentations.

Masks hold labels, which must not be mixed or invented. So the rules here hold for each transform, and each is
tried on made-up samples before any training: what breaks masks is refused by its name.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import copy
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from hemnet.data.spec import IGNORE_INDEX, DataError
from hemnet.wording import one_line

# OpenCV's INTER_NEAREST rounds down where it resizes, which shifts a mask by up to half a pixel against its
# image, and it warps by INTER_NEAREST alone, which rounds there.
NEAREST = (cv2.INTER_NEAREST_EXACT, cv2.INTER_NEAREST)
PROBES = 3
"""How many samples a transform is tried on."""
# The labels of those samples, without 0, which a transform might fill in, and their colours, whose order is
# another, so that the greatest label of some pixels is not that of the brightest.
_COLORS = {1: (190, 200, 210), 2: (30, 40, 50), 3: (110, 120, 130)}
_FEW = 0.01
"""Share of pixels with another class's colour that borders between classes may have."""

# The import is slow, and without this variable it asks the package index for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def compose(
    steps: Sequence[Any], named: dict[str, Callable[[], Any]], crop: tuple[int, int]
) -> Callable[..., dict[str, Any]]:
    """Return the pipeline, an ``albumentations.Compose``, of steps by name and of transforms.

    Args:
        steps: names in `named`, or transforms of albumentations, also compositions such as ``OneOf``.
        named: makes the step of each name; None leaves it out.
        crop: (height, width) of what the pipeline must give.

    Raises:
        ValueError: an unknown name, something that is no transform, or a transform that would break masks or
            images, see `_check`.
        DataError: the pipeline gives another size.
    """
    import albumentations as A

    built: list[Any] = []
    for i, step in enumerate(steps):
        where = f"TrainTransform: pipeline[{i}]"
        if isinstance(step, str):
            if step not in named:
                raise ValueError(f"{where} is {step!r}: give {', '.join(named)}, or a transform")
            built.append(named[step]())
        elif isinstance(step, A.BasicTransform | A.BaseCompose):
            for transform in _leaves(step):
                _check(transform, f"{where} is {type(transform).__name__}", crop)
            built.append(step)
        else:
            raise ValueError(
                f"{where} is {step!r}: give {', '.join(named)}, or a transform such as "
                "{_target_: albumentations.GaussianBlur, p: 0.2}"
            )
    pipeline = A.Compose(
        [step for step in built if step is not None], strict=True, additional_targets={"padding": "mask"}
    )
    if not all(isinstance(step, str) for step in steps) or "crop" not in steps:
        for image_HWC, mask_HW, rng in _samples(crop):
            require_size(_run(pipeline, image_HWC, mask_HW, rng)["mask"], crop)
    return pipeline


def seed(pipeline: Any, rng: np.random.Generator) -> None:
    """Let all transforms of a pipeline draw from one generator, in turn.

    With a seed each, or their default state, they would draw the same numbers as each other or in every
    worker process.
    """
    pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))


def require_size(mask_HW: np.ndarray, crop: tuple[int, int]) -> None:
    """Check that a sample has the size of the crops.

    Raises:
        DataError: it has another size.
    """
    if mask_HW.shape != crop:
        raise DataError(
            f"the pipeline of the training transform gives {mask_HW.shape} (height, width), not crop_size "
            f"{crop}: put crop into it, after what changes the size"
        )


def _leaves(step: Any) -> Iterator[Any]:
    """Return the transforms in a composition, at any depth."""
    import albumentations as A

    if not isinstance(step, A.BaseCompose):
        yield step
        return
    for each in step.transforms:
        yield from _leaves(each)


def _check(transform: Any, what: str, crop: tuple[int, int]) -> None:
    """Force nearest labels and IGNORE_INDEX as the fill of masks, then try the transform.

    Raises:
        ValueError: its options ask for another fill or interpolation of masks; it fails on an image and its
            mask alone; it changes their type; it makes labels that were not there, or labels of other pixels
            than it shows; or it does not draw its numbers from the generator that it is given.
    """
    if "image" not in transform.targets:
        raise ValueError(f"{what}, which is not for photographs: leave it out")
    for name in ("fill_mask", "mask_drop_value"):
        value = getattr(transform, name, None)
        # 0 is albumentations' default for what is filled; None leaves the mask as it is.
        if value not in (None, IGNORE_INDEX, *([0] if name == "fill_mask" else [])):
            raise ValueError(f"{what} with {name}={value}, which would invent labels: leave it out")
        if value is not None:
            setattr(transform, name, IGNORE_INDEX)
    way = getattr(transform, "mask_interpolation", None)
    if way is not None and way not in NEAREST:
        raise ValueError(f"{what} with mask_interpolation={way}, which would mix labels: leave it out")
    try:
        fault = _fault_of_nearest(transform, crop)
    except Exception as error:  # of any type
        raise ValueError(f"{what}, which fails on an image and a mask: {one_line(error)}") from error
    if fault is not None:
        raise ValueError(f"{what}, which {fault}: leave it out")


def _fault_of_nearest(transform: Any, crop: tuple[int, int]) -> str | None:
    """Return the `_fault` of a transform, which takes labels by the first way of `NEAREST` that it can."""
    if hasattr(transform, "mask_interpolation"):
        transform.mask_interpolation, otherwise = NEAREST
        try:
            return _fault(transform, crop)
        except cv2.error:
            transform.mask_interpolation = otherwise
    return _fault(transform, crop)


def _fault(transform: Any, crop: tuple[int, int]) -> str | None:
    """Return what a transform does wrong to one of the made-up samples; None if it does nothing wrong."""
    import albumentations as A

    moves = isinstance(transform, A.DualTransform)
    sure = copy.deepcopy(transform)
    sure.p = 1.0
    for image_HWC, mask_HW, rng in _samples(crop):
        again = copy.deepcopy(rng)
        done = _run(sure, image_HWC.copy(), mask_HW.copy(), rng)
        image, mask = done["image"], done["mask"]
        for name, found, like in (("images", image, image_HWC), ("masks", mask, mask_HW)):
            if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != like.ndim:
                return f"gives {name} of another type or shape, and the network's input is made afterwards"
        if image.shape[:2] != mask.shape or image.shape[2] != image_HWC.shape[2]:
            return "gives an image and a mask of different sizes"
        if {*np.unique(mask).tolist()} - {*_COLORS, IGNORE_INDEX}:
            return "makes labels that were not in the mask"
        if moves and _mislabelled(image, mask) > _FEW:
            return "moves labels and pixels apart"
        repeated = _run(sure, image_HWC.copy(), mask_HW.copy(), again)
        if not all(np.array_equal(done[name], repeated[name]) for name in done):
            return "draws random numbers of its own, so that runs could not be repeated"
    return None


def _samples(crop: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.random.Generator]]:
    """Return images of coloured blocks, twice as large as the crops, their masks, and generators."""
    for number in range(PROBES):
        rng = np.random.default_rng(number)
        size = (2 * max(crop[0], 32), 2 * max(crop[1], 32))
        coarse_HW = rng.choice(np.array([*_COLORS], np.uint8), (4, 4))
        mask_HW = cv2.resize(coarse_HW, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        image_HWC = np.zeros((*size, 3), np.uint8)
        for label, color in _COLORS.items():
            image_HWC[mask_HW == label] = color
        yield image_HWC, mask_HW, rng


def _run(
    transform: Any, image_HWC: np.ndarray, mask_HW: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    seed(transform, rng)
    return transform(image=image_HWC, mask=mask_HW)


def _mislabelled(image_HWC: np.ndarray, mask_HW: np.ndarray) -> float:
    """Return the share of pixels that have the colour of another class than their own."""
    wrong_HW = np.zeros(mask_HW.shape, bool)
    for label, color in _COLORS.items():
        wrong_HW |= (image_HWC == color).all(-1) & (mask_HW != label) & (mask_HW != IGNORE_INDEX)
    return float(wrong_HW.mean())
