"""A copy of a network in operators that every exporter can translate.

Shapes: B images, C channels, h and w positions of a map, s bins.
"""

import copy
import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from hemnet.em import Detached, HighwayEM
from hemnet.errors import HemnetError
from hemnet.nets.segmenter import Segmenter, at_size

log = logging.getLogger(__name__)


def portable_copy(network: Segmenter, *, scores: bool = False) -> nn.Module:
    """Return a copy of a network in eval mode that maps images to logits by plain torch operators.

    EM layers use the ``reference`` engine, which equals the others up to rounding, without ``tolerance`` (see
    `drop_tolerance`). The auxiliary head, which only training runs, is left out.

    Args:
        network: the trained network; it is not changed.
        scores: whether to return two tensors: these logits, and those of `Segmenter.scores` at the resolution
            of the head, which can be interpolated to another size at once.

    Raises:
        HemnetError: an EM layer uses Anderson acceleration, which plain operators cannot express.
    """
    network = copy.deepcopy(network).cpu().eval()
    network.auxiliary = None
    drop_tolerance(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, HighwayEM):
            _use_plain_engine(name, module)
        for key, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size != 1:
                setattr(module, key, BinMeans(child))
    return _Scores(network) if scores else _Logits(network)


def drop_tolerance(network: nn.Module) -> None:
    """Make the EM layers of a network do all their iterations; warn about each that could stop early.

    Args:
        network: is changed.
    """
    for name, module in network.named_modules():
        if isinstance(module, HighwayEM) and module.tolerance is not None:
            log.warning(
                "%s: tolerance=%g is ignored: the file always does all iterations", name, module.tolerance
            )
            module.tolerance = None


class _Logits(nn.Module):
    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).logits


class _Scores(_Logits):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        (scores, *_), filled = self.network.scores(image)
        return at_size(scores, filled, (image.shape[-2], image.shape[-1])), scores


class BinMeans(nn.Module):
    """Adaptive average pooling as two matrix products, which ONNX has for any size.

    ONNX has no adaptive pooling; exporters unroll it for the one size that they traced.

    Args:
        pool: the pooling to replace.
    """

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        size = pool.output_size
        self.bins = size if isinstance(size, tuple) else (size, size)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, s, s), one mean per bin."""
        (rows, columns), (h, w) = self.bins, x_BChw.shape[2:]
        return _bin_weights(h, rows, x_BChw) @ x_BChw @ _bin_weights(w, columns, x_BChw).mT


def _bin_weights(length: int, bins: int | None, like: Tensor) -> Tensor:
    """Return (s, length): row i averages positions floor(i·length/s) <= p < ceil((i+1)·length/s)."""
    bins = length if bins is None else bins
    i_s1 = torch.arange(bins, device=like.device)[:, None]
    first_s1 = i_s1 * length // bins
    end_s1 = ((i_s1 + 1) * length + bins - 1) // bins
    position = torch.arange(length, device=like.device)
    inside = (position >= first_s1) & (position < end_s1)
    return inside.to(like.dtype) / (end_s1 - first_s1).to(like.dtype)


def _use_plain_engine(name: str, layer: HighwayEM) -> None:
    if layer.options.acceleration != "none":
        raise HemnetError(
            f"{name} uses acceleration={layer.options.acceleration}, which cannot be exported: train with "
            "model.head.acceleration=none"
        )
    layer.options, layer.gradient = replace(layer.options, engine="reference"), Detached()
