"""Whether an exported network computes what the trained one does: logits, and the masks of photographs.

Shapes: B images, K classes, H and W pixels, h and w of the network's input.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from hemnet.data import EvalTransform
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.training.inference import Forward, Inference, segment

TOLERANCE = 1e-3
"""Largest accepted difference of logits, in units of the largest logit.

Rounding in float32 gives about 1e-6, which an EM layer can amplify where two components tie. An operation
that is translated wrongly, or for one size only, gives differences of the order of 1.
"""
PHOTOGRAPHS = ((97, 130), (180, 144))
"""Heights and widths of the photographs whose masks are compared."""
AGREEMENT = 0.99
"""Least accepted share of their pixels with the same class; rounding decides between classes that tie."""


@torch.no_grad()
def compare_logits(
    loaded: Callable[[Tensor], Tensor], network: Segmenter, shapes: Sequence[tuple[int, int, int, int]]
) -> None:
    """Print the differences between a loaded network and the trained one on random images.

    Args:
        loaded: maps (B, 3, H, W) to logits (B, K, H, W).
        network: the trained network, in eval mode on the CPU.
        shapes: of the images, (B, 3, H, W).

    Raises:
        HemnetError: it fails, or a difference is above `TOLERANCE`.
    """
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        image = torch.randn(shape, generator=generator)
        expected, size = network(image).logits, "x".join(map(str, shape))
        try:
            found = loaded(image)
            if found.shape != expected.shape:
                raise ValueError(f"it gives {tuple(found.shape)}, not {tuple(expected.shape)}")
            difference = (found - expected).abs().max().item()
        except Exception as error:  # the runtime raises many types
            raise HemnetError(
                f"the exported network fails on an image of {size}, so it was not kept: {first_line(error)}"
            ) from error
        limit = TOLERANCE * expected.abs().max().item()
        agreed = (found.argmax(1) == expected.argmax(1)).double().mean().item()
        print(
            f"image {size}: largest difference of logits {difference:.2e} (accepted: {limit:.2e}), "
            f"same class in {100 * agreed:.3f} % of the pixels"
        )
        if not difference <= limit:  # so that NaN fails
            raise HemnetError(
                f"the exported network differs from the trained one by {difference:.2e} at {size}, more than "
                f"{limit:.2e}, so it was not kept: export in the other format, and report this"
            )


def compare_masks(
    forward: Forward, network: Segmenter, transform: EvalTransform, inference: Inference
) -> None:
    """Print in how many pixels of two photographs, made up, the loaded network and `hemnet.predict` agree.

    Args:
        forward: the loaded network, at a size.
        network: the trained network, in eval mode on the CPU.
        transform: of evaluation, which resizes the photographs.
        inference: how the networks are run.

    Raises:
        HemnetError: fewer than `AGREEMENT` agree.
    """
    draw = np.random.default_rng(0)
    for height, width in PHOTOGRAPHS:
        coarse_HWC = draw.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        photograph_HWC = cv2.resize(coarse_HWC, (width, height), interpolation=cv2.INTER_LINEAR)
        image_Chw, size = transform.prepare(photograph_HWC), (height, width)
        expected_HW = segment(lambda x, s: network(x, s).logits, image_Chw, size, inference)
        agreed = float((segment(forward, image_Chw, size, inference) == expected_HW).mean())
        what = f"photograph {height}x{width}"
        print(f"{what}: same class as hemnet predict in {100 * agreed:.3f} % of the pixels")
        if agreed < AGREEMENT:
            raise HemnetError(
                f"of a {what}, the exported network and the trained one agree in {100 * agreed:.2f} % of the "
                "pixels only, so it was not kept: report this"
            )


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error whose message is not ours."""
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0]}"
