"""What a network computes and holds: floating-point operations and parameters, counted.

A multiplication and an addition are two FLOPs; matrix products and convolutions are counted, what is done
element by element is not.
The formulas of EM's own operators are those of `hemnet.em`.

Shapes: B images, C channels.
"""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hemnet.nets import Segmenter


def count_flops(network: Segmenter, image_BCHW: Tensor) -> dict[str, int]:
    """Return the FLOPs of ``total``, ``backbone`` and ``head`` for one batch of images."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(image_BCHW)
    parts = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    owner = type(network).__name__
    return {"total": parts["Global"], **{part: parts[f"{owner}.{part}"] for part in ("backbone", "head")}}


def count_parameters(network: Segmenter) -> dict[str, int]:
    """Return the parameters of ``total``, ``backbone``, ``head`` and ``auxiliary`` (for training only)."""

    def count(module: nn.Module | None) -> int:
        return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())

    parts = {"backbone": network.backbone, "head": network.head, "auxiliary": network.auxiliary}
    return {"total": count(network), **{name: count(module) for name, module in parts.items()}}
