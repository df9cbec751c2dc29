"""From a network and an image to a class map.

Shapes: H and W pixels of the original image, h and w as the network sees it, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# (1, 3, h, w) normalised images and a size (H, W) to logits (1, K, H, W) at that size.
Forward = Callable[[Tensor, tuple[int, int]], Tensor]


@torch.inference_mode()
def segment(forward: Forward, image_CHW: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel at ``size`` (H, W), uint8, for a normalised image (3, h, w)."""
    logits = forward(image_CHW[None], size)
    return logits[0].argmax(0).to("cpu", torch.uint8).numpy()
