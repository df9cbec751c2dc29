"""Samples as tensors: augmentation for training, resizing for evaluation, normalisation for both.

Shapes: H, W image height and width, C = 3 colour channels.
"""

from collections.abc import Callable, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

import cv2
import numpy as np
import torch

from hemnet.data.augmentation import compose, require_size, seed
from hemnet.data.readers import Sample
from hemnet.data.spec import IGNORE_INDEX

MEAN_RGB = (0.485, 0.456, 0.406)
"""ImageNet mean of each channel, for values in 0..1."""
STD_RGB = (0.229, 0.224, 0.225)
"""ImageNet standard deviation of each channel, for values in 0..1."""

# OpenCV's INTER_NEAREST rounds down, which shifts a mask by up to half a pixel against its image; its
# INTER_LINEAR truncates, which darkens 8-bit images by 1/8 of a grey level.
NEAREST, LINEAR = cv2.INTER_NEAREST_EXACT, cv2.INTER_LINEAR_EXACT

# Row c, entry v is (v / 255 - mean_c) / std_c.
_NORMALIZED = ((np.arange(256)[:, None] / 255 - MEAN_RGB) / STD_RGB).astype(np.float32).T.copy()


class Item(TypedDict):
    """A sample as tensors: image (3, H, W) float32 normalised, mask (H, W) uint8, name.

    A transform that pads also gives `inside`, (H, W) bool: which pixels are of the photograph. Without it a
    network cannot tell padding from the photograph, since labels ignore other pixels too.
    """

    image: torch.Tensor
    mask: torch.Tensor
    name: str
    inside: NotRequired[torch.Tensor]


class Transform(Protocol):
    """Turns a sample into tensors; all random choices come from `rng`."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """Return the sample as tensors."""
        ...


def normalize(image_HWC: np.ndarray) -> torch.Tensor:
    """Map (H, W, 3) uint8 RGB to (3, H, W) float32: (v / 255 - mean) / std with the ImageNet constants."""
    normalized_CHW = np.empty((3, *image_HWC.shape[:2]), np.float32)
    # By channel, which takes half the time of a table of three channels and a transposition.
    planes = cv2.split(np.ascontiguousarray(image_HWC))
    for table, plane_HW, normalized_HW in zip(_NORMALIZED, planes, normalized_CHW, strict=True):
        cv2.LUT(plane_HW, table, dst=normalized_HW)
    return torch.from_numpy(normalized_CHW)


def denormalize(image_CHW: torch.Tensor) -> np.ndarray:
    """Invert `normalize`: (3, H, W) float tensor on any device to (H, W, 3) uint8 RGB, rounded, clipped."""
    image_HWC = image_CHW.detach().float().cpu().numpy().transpose(1, 2, 0)
    restored = (image_HWC * np.array(STD_RGB, np.float32) + np.array(MEAN_RGB, np.float32)) * 255
    return np.clip(np.rint(restored), 0, 255).astype(np.uint8)


def resize_image(image_HWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to size = (height, width), pixel centres aligned.

    Area average if both sides shrink, which avoids aliasing; linear otherwise.
    """
    shrinks = size[0] <= image_HWC.shape[0] and size[1] <= image_HWC.shape[1]
    return cv2.resize(image_HWC, size[::-1], interpolation=cv2.INTER_AREA if shrinks else LINEAR)


def resize_mask(mask_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to size = (height, width); each pixel takes the label nearest to its centre."""
    return cv2.resize(mask_HW, size[::-1], interpolation=NEAREST)


class Target:
    """The size that images are resized to: the same for all, or a longer side, or their own.

    Args:
        name: the key of `size`, named in errors.
        size: (height, width), or one number for a square, whatever the shape of the image; None for none.
        longest: length of the longer side; the shorter one keeps the ratio of the sides. None for none.

    Raises:
        ValueError: a size that is not positive, or both are given.
    """

    def __init__(self, name: str, size: int | tuple[int, int] | None, longest: int | None) -> None:
        if size is not None and longest is not None:
            raise ValueError(f"{name} is {size} and longest is {longest}: give one, and null for the other")
        if longest is not None and longest < 1:
            raise ValueError(f"longest must be positive, got {longest}; give the longer side in pixels")
        self._size = None if size is None else _pair(size, name)
        self._longest = longest

    @property
    def changes(self) -> bool:
        """Whether images are resized at all."""
        return self._size is not None or self._longest is not None

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this size gets; halves are rounded up."""
        if self._longest is None:
            return self._size or (height, width)
        longer = max(height, width)
        to, half = self._longest, longer // 2
        return max(1, (height * to + half) // longer), max(1, (width * to + half) // longer)


def _pair(size: int | tuple[int, int], name: str) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be positive, got {size}; give (height, width) in pixels")
    return int(height), int(width)


class TrainTransform:
    """Random scale, crop, flip and colour for training, and any transforms of albumentations.

    Images are resized to `base_size` or `longest`, go through the pipeline, and are normalised. By name it
    may have ``scale``, both sides by one factor, uniform in `scale`; ``crop``, at random (a smaller image is
    placed at random in the crop, padded with the ImageNet mean colour and IGNORE_INDEX); ``flip``, left to
    right with probability 1/2; ``color_jitter``, of brightness, contrast, saturation and hue.

    Whatever is in the pipeline, masks take the label of the nearest pixel, what is filled is ignored, and all
    random choices depend on the sample's generator alone.

    Args:
        crop_size: (height, width) of the result, or one number for a square.
        base_size: (height, width) to resize to first, or None for the file's own size.
        scale: least and greatest factor, 0 < least <= greatest.
        flip: whether to flip.
        color_jitter: strength j in 0..1: brightness, contrast and saturation are multiplied by factors in
            1-j..1+j, the hue is rotated by up to j/10 of the colour circle; 0 keeps colours.
        longest: longer side to resize to first, in pixels, in place of `base_size`; the ratio of the sides is
            kept, so photographs of several shapes are not stretched.
        pipeline: the steps in their order, these four names or transforms of albumentations, of which one
            that would break masks is refused; None is the four in this order.

    Raises:
        ValueError: an argument out of its range, both `base_size` and `longest`, or a step that is refused,
            see `hemnet.data.augmentation.compose`.
        DataError: the pipeline gives another size than `crop_size`.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        base_size: int | tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        color_jitter: float = 0.3,
        longest: int | None = None,
        pipeline: Sequence[Any] | None = None,
    ) -> None:
        low, high = scale
        if not 0 < low <= high:
            raise ValueError(f"TrainTransform: scale must be 0 < least <= greatest, got {tuple(scale)}")
        if not 0 <= color_jitter <= 1:
            raise ValueError(f"TrainTransform: color_jitter must be in 0..1, got {color_jitter}")
        self.target = Target("base_size", base_size, longest)
        # The least factor must leave every side at least one pixel: thinner images are enlarged first.
        self._least = 1 if low >= 1 else int(1 / low) + 1
        self._crop = _pair(crop_size, "crop_size")
        named: dict[str, Callable[[], Any]] = {
            "scale": lambda: _scaling(low, high),
            "crop": lambda: _cropping(self._crop),
            "flip": lambda: _flipping() if flip else None,
            "color_jitter": lambda: _jittering(color_jitter),
        }
        self._pipeline = compose(list(named) if pipeline is None else pipeline, named, self._crop)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Item:
        """Return image (3, h, w) float32, mask (h, w) uint8, inside (h, w) bool, (h, w) = crop_size; name."""
        image_HWC, mask_HW = sample.image_HWC, sample.mask_HW
        size = self.target.of(*mask_HW.shape)
        size = (max(size[0], self._least), max(size[1], self._least))
        if size != mask_HW.shape:
            image_HWC, mask_HW = resize_image(image_HWC, size), resize_mask(mask_HW, size)
        seed(self._pipeline, rng)
        # A mask without labels, so that what is IGNORE_INDEX afterwards is padding.
        augmented = self._pipeline(image=image_HWC, mask=mask_HW, padding=np.zeros_like(mask_HW))
        require_size(augmented["mask"], self._crop)
        return Item(
            image=normalize(augmented["image"]),
            mask=_mask_tensor(augmented["mask"]),
            name=sample.name,
            inside=torch.from_numpy(augmented["padding"] != IGNORE_INDEX),
        )


class EvalTransform:
    """Resize the image for the network; the mask keeps its resolution, at which metrics are computed.

    Args:
        size: (height, width) of the network's input, to which images of another shape are stretched; or None
            for the file's own size.
        longest: longer side of the network's input, in pixels, in place of `size`; the ratio of the sides is
            kept.

    Raises:
        ValueError: a size that is not positive, or both `size` and `longest`.
    """

    def __init__(self, size: int | tuple[int, int] | None = None, longest: int | None = None) -> None:
        self.target = Target("size", size, longest)

    def prepare(self, image_HWC: np.ndarray) -> torch.Tensor:
        """Map (H, W, 3) uint8 RGB to (3, h, w) float32 for evaluation and prediction."""
        height, width = image_HWC.shape[:2]
        size = self.target.of(height, width)
        return normalize(image_HWC if size == (height, width) else resize_image(image_HWC, size))

    def __call__(self, sample: Sample, rng: np.random.Generator | None = None) -> Item:
        """Return image (3, h, w) float32, mask (H, W) uint8 and name; `rng` is not used."""
        return Item(image=self.prepare(sample.image_HWC), mask=_mask_tensor(sample.mask_HW), name=sample.name)


def _mask_tensor(mask_HW: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(mask_HW))  # a copy: a cached mask is read-only


def _scaling(low: float, high: float) -> Any:
    import albumentations as A

    if (low, high) == (1.0, 1.0):
        return None
    return A.RandomScale(
        scale_limit=(low - 1, high - 1),
        interpolation=LINEAR,
        mask_interpolation=NEAREST,
        area_for_downscale="image",
        p=1.0,
    )


def _cropping(crop: tuple[int, int]) -> Any:
    import albumentations as A

    return A.RandomCrop(
        *crop,
        pad_if_needed=True,
        pad_position="random",
        border_mode=cv2.BORDER_CONSTANT,
        fill=tuple(round(255 * mean) for mean in MEAN_RGB),
        fill_mask=IGNORE_INDEX,
        p=1.0,
    )


def _flipping() -> Any:
    import albumentations as A

    return A.HorizontalFlip(p=0.5)


def _jittering(strength: float) -> Any:
    import albumentations as A

    around_one = (1 - strength, 1 + strength)
    hue = (-strength / 10, strength / 10)
    return A.ColorJitter(around_one, around_one, around_one, hue=hue, p=1.0) if strength else None
