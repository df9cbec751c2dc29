"""Whether an exported network computes what the trained one does: logits, and the masks of photographs.

Shapes: B images, K classes, H and W pixels, h and w of the network's input.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from hemnet.data import EvalTransform, read_image
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.training.inference import Inference
from hemnet.wording import counted

TOLERANCE = 1e-3
"""Largest accepted difference of logits, in units of the largest logit.

Rounding in float32 gives about 1e-6, which an EM layer can amplify where two components tie. An operation
that is translated wrongly, or for one size only, gives differences of the order of 1.
"""
Masks = Callable[[np.ndarray], np.ndarray]
"""Maps an image (H, W, 3) uint8 to the class of each pixel, (H, W) uint8."""


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


def compare_masks(found: Masks, network: Segmenter, transform: EvalTransform, inference: Inference) -> None:
    """Print how the masks of the exported file and of `hemnet.predict` differ, on photographs.

    Pixels may differ where the trained network's scores of the two classes tie up to rounding, as far as
    `TOLERANCE` says, and nowhere else.

    Args:
        found: what the file gives, with whatever is needed around it.
        network: the trained network, in eval mode on the CPU.
        transform: of evaluation, which resizes the photographs.
        inference: how the network is run.

    Raises:
        HemnetError: another pixel differs, or the file fails.
    """
    for photograph_HWC in photographs():
        height, width = photograph_HWC.shape[:2]
        image_1Chw = transform.prepare(photograph_HWC)[None]
        logits_KHW = inference(lambda x, s: network(x, s).logits, image_1Chw, (height, width))[0]
        what = f"photograph {height}x{width}"
        try:
            classes_HW = torch.from_numpy(found(photograph_HWC)).long()
            lost_HW = logits_KHW.amax(0) - logits_KHW.gather(0, classes_HW[None])[0]
        except Exception as error:  # the runtime raises many types
            raise HemnetError(
                f"the exported file fails on a {what}, so it was not kept: {first_line(error)}"
            ) from error
        differ = int((classes_HW != logits_KHW.argmax(0)).sum())
        print(f"{what}: same class as hemnet predict in all but {differ} of {classes_HW.numel()} pixels")
        if not lost_HW.max() <= TOLERANCE * logits_KHW.abs().max():  # so that NaN fails
            raise HemnetError(
                f"of a {what}, the exported file has {counted(differ, 'pixel')} of another class than the "
                "trained network, and not for rounding alone, so it was not kept: report this"
            )


def photographs() -> Iterator[np.ndarray]:
    """Yield (H, W, 3) uint8: a photograph that comes with matplotlib, parts of it, and one made up."""
    draw = np.random.default_rng(0)
    coarse_HWC = draw.integers(0, 256, (8, 11, 3), dtype=np.uint8)
    yield cv2.resize(coarse_HWC, (130, 97), interpolation=cv2.INTER_LINEAR)
    path = Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if path.is_file():
        photograph_HWC = read_image(path)
        yield photograph_HWC
        yield np.ascontiguousarray(photograph_HWC[40:220, 130:371])


def first_line(error: Exception) -> str:
    """Return the type and the first line of an error whose message is not ours."""
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0]}"
