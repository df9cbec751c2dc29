"""Class scores of an image from a network: plain, or over scales, mirror images and sliding windows.

Pure functions of any callable with the signature `Forward`.

Shapes: B images, K classes, H and W pixels of the result (the labels' size), h and w of the
network's input.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hemnet.errors import HemnetError
from hemnet.wording import one_line, shortened

# What allocators say, of torch, OpenCV and the operating system, if memory is short.
SHORTAGE = (
    "allocate memory", "out of memory", "not enough memory", "insufficient memory",
    "size calculation overflowed",
)  # fmt: skip
NOT_FINITE = "the network's output is not finite: use another checkpoint"
# (B, 3, h, w) normalised images and a size (H, W) to logits (B, K, H, W) at that size.
Forward = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Inference:
    """How a network is run on an image.

    A view is the image at one scale, mirrored or not. The predictions of all views are resized to the size of
    the labels, where their softmax *probabilities* are averaged. With a window, the probabilities of a view
    are the average over all windows that cover a pixel. Plain inference, the default, is one view without a
    window, and returns the network's own logits unchanged.

    Images are resized bilinearly without antialiasing, as OpenCV does in the published evaluations, and to
    the multiple of `multiple` nearest to the scaled size: then the feature map covers the image exactly, so
    that views of different scales are aligned. At scale 1 the image is not resized.

    Args:
        scales: factors for the sides of the image, each > 0.
        flip: whether to add the left-right mirror image of each view.
        window: (height, width) in pixels of a sliding window over the scaled image, or null for none. The
            last window of a row or column is shifted to end at the border. A smaller image is padded below
            and on the right with zeros, which is the mean colour, and the result is cropped.
        stride: (down, right) step of the window in pixels, at most its size; null is 2/3 of the window.
        multiple: the sides of resized images are rounded to a multiple of this; give the network's output
            stride or a multiple of it. 1 keeps the aspect ratio best.

    Raises:
        ValueError: an argument is out of its range, or there is a stride without a window.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    multiple: int = 8

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales is {list(self.scales)}: give one or more numbers above 0")
        if self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple}: give the network's output stride, such as 8")
        if self.window is not None and min(self.window) < 1:
            raise ValueError(f"window is {tuple(self.window)}: give (height, width) in pixels")
        if self.stride is not None:
            if self.window is None:
                raise ValueError("stride without a window: give a window, or leave the stride out")
            if not all(0 < step <= side for step, side in zip(self.stride, self.window, strict=True)):
                raise ValueError(
                    f"stride is {tuple(self.stride)} for a window of {tuple(self.window)}: a step must be at "
                    "least 1 and at most the window's side, or pixels are left out"
                )

    @property
    def settings(self) -> list[str]:
        """The options that differ from plain inference, as words: ``["scales", "0.5", "1", "flip"]``."""
        words: list[str] = []
        for item in fields(self):
            value, default = getattr(self, item.name), getattr(PLAIN, item.name)
            if isinstance(value, Sequence):
                value, default = tuple(value), default and tuple(default)
            if value != default:
                values = value if isinstance(value, tuple) else () if value is True else (value,)
                words += [item.name, *(f"{number:g}" for number in values)]
        return words

    @torch.no_grad()
    def __call__(self, forward: Forward, image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W) at ``size``; their softmax is the averaged probability of each class.

        Args:
            forward: the network.
            image_BCHW: (B, 3, h, w) normalised images.
            size: (H, W) of the result.
        """
        views = [(scale, mirrored) for scale in self.scales for mirrored in (False, True)[: 1 + self.flip]]
        if len(views) == 1:
            return self._view(forward, image_BCHW, size, *views[0])
        total_BKHW: Tensor | None = None
        for scale, mirrored in views:
            p_BKHW = self._view(forward, image_BCHW, size, scale, mirrored).softmax(1)
            total_BKHW = p_BKHW if total_BKHW is None else total_BKHW.add_(p_BKHW)
        assert total_BKHW is not None
        return _log(total_BKHW.div_(len(views)))

    def _view(
        self, forward: Forward, image_BCHW: Tensor, size: tuple[int, int], scale: float, mirrored: bool
    ) -> Tensor:
        if scale != 1:
            scaled = [self._scaled(side, scale) for side in image_BCHW.shape[-2:]]
            image_BCHW = F.interpolate(image_BCHW, scaled, mode="bilinear", align_corners=False)
        if mirrored:
            return self._windowed(forward, image_BCHW.flip(-1), size).flip(-1)
        return self._windowed(forward, image_BCHW, size)

    def _scaled(self, side: int, scale: float) -> int:
        return max(1, math.floor(side * scale / self.multiple + 0.5)) * self.multiple

    def _windowed(self, forward: Forward, image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
        h, w = image_BCHW.shape[-2:]
        if self.window is None or (h, w) == tuple(self.window):
            return forward(image_BCHW, size)
        window_h, window_w = self.window
        image_BCHW = F.pad(image_BCHW, (0, max(window_w - w, 0), 0, max(window_h - h, 0)))
        total_BKHW: Tensor | None = None
        count_HW = image_BCHW.new_zeros(image_BCHW.shape[-2:])
        for place in self._places(image_BCHW.shape[-2], image_BCHW.shape[-1]):
            p_BKHW = forward(image_BCHW[..., *place], (window_h, window_w)).softmax(1)
            if total_BKHW is None:
                total_BKHW = p_BKHW.new_zeros(*p_BKHW.shape[:2], *image_BCHW.shape[-2:])
            total_BKHW[..., *place] += p_BKHW
            count_HW[*place] += 1
        assert total_BKHW is not None
        p_BKHW = (total_BKHW.div_(count_HW))[..., :h, :w]
        if (h, w) != tuple(size):
            p_BKHW = F.interpolate(p_BKHW, size, mode="bilinear", align_corners=False)
        return _log(p_BKHW)

    def _places(self, h: int, w: int) -> Iterator[tuple[slice, slice]]:
        assert self.window is not None
        down, right = self.stride or [max(1, 2 * side // 3) for side in self.window]
        for top in window_starts(h, self.window[0], down):
            for left in window_starts(w, self.window[1], right):
                yield slice(top, top + self.window[0]), slice(left, left + self.window[1])


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start along a side: every ``stride``, the last one shifted to end at ``length``.

    Args:
        length: of the side in pixels, at least ``window``.
        window: the window's length in pixels.
        stride: distance between two starts in pixels, 1 to ``window``.
    """
    last = length - window
    return [*range(0, last, stride), last]


def _log(p_BKHW: Tensor) -> Tensor:
    # Clamped, so that the logarithm of a probability that underflowed to 0 is finite, and a loss of it too.
    return p_BKHW.clamp_min(torch.finfo(p_BKHW.dtype).tiny).log()


PLAIN = Inference()
"""Plain inference: the whole image at its own scale."""


@torch.inference_mode()
def finite_logits(
    forward: Forward, image_BChw: Tensor, size: tuple[int, int], inference: Inference = PLAIN
) -> Tensor:
    """Return logits (B, K, H, W) at ``size`` (H, W), for normalised images (B, 3, h, w).

    Raises:
        HemnetError: they are not finite; argmax would return an arbitrary class for NaN.
    """
    logits_BKHW = inference(forward, image_BChw, size)
    if not logits_BKHW.isfinite().all():
        raise HemnetError(NOT_FINITE)
    return logits_BKHW


@torch.inference_mode()
def segment(
    forward: Forward, image_CHW: Tensor, size: tuple[int, int], inference: Inference = PLAIN
) -> np.ndarray:
    """Return the class of each pixel at ``size`` (H, W), uint8, for a normalised image (3, h, w).

    Raises:
        HemnetError: see `finite_logits`.
    """
    logits_BKHW = finite_logits(forward, image_CHW[None], size, inference)
    return logits_BKHW[0].argmax(0).to("cpu", torch.uint8).numpy()


@contextmanager
def explain_memory(images: Sequence[str]) -> Iterator[None]:
    """Turn an error about a lack of memory, in the block, into one that names the images and the remedy.

    Args:
        images: the names of the images of one batch.

    Raises:
        HemnetError: the memory of the processor or of the GPU was too small.
    """
    try:
        yield
        return
    except Exception as error:
        if not _out_of_memory(error):
            raise
        found = one_line(error, 200)
    # Outside of the handler, since the error keeps the tensors of the frames that it passed through.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise HemnetError(
        f"out of memory on {shortened(images)} ({found}): evaluate and predict with a sliding window, such "
        "as --window 512 512, or with a smaller data.eval_transform.size"
        + (", or first one image at a time, with data.eval_batch_size=1" if len(images) > 1 else "")
    )


def _out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one behind it, is about memory: of torch, numpy, Pillow or OpenCV."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        said = str(error).lower()
        if isinstance(error, RuntimeError | OSError | cv2.error) and any(sign in said for sign in SHORTAGE):
            return True
        error = error.__cause__ or error.__context__
    return False
