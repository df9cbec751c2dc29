"""The highway scale h: its range, its value in each iteration, and h as a parameter to be learned.

Shape suffixes: B images, K components, C channels, T iterations.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from hemnet.em.options import is_number

HighwayScale = float | Sequence[float] | Tensor
LearnScale = Literal["none", "shared", "per_iteration"]
# A learned highway scale stays this far inside (-1, 1): at 1 the means would no longer move, and no
# gradient would bring the scale back.
LARGEST_SCALE = 0.99


def check_scale(iterations: int, highway_scale: HighwayScale) -> None:
    """Refuse with a ValueError a highway scale for a number of iterations that is out of range.

    The values of a tensor are not read: that would wait for the device.
    """
    if isinstance(highway_scale, Tensor):
        if highway_scale.shape not in ((), (iterations,)) or not highway_scale.is_floating_point():
            raise ValueError(
                f"highway_scale is a {highway_scale.dtype} tensor of shape {tuple(highway_scale.shape)}; "
                f"it must be floating, of shape () or ({iterations},), one value per iteration"
            )
        return
    values = highway_scale if isinstance(highway_scale, Sequence) else [highway_scale]
    if isinstance(highway_scale, Sequence) and len(values) != iterations:
        raise ValueError(
            f"highway_scale has {len(values)} values for {iterations} iterations; "
            "give one number, or one per iteration"
        )
    for h in values:
        if not is_number(h) or not -1 < h < 1:
            raise ValueError(
                f"highway_scale is {h!r}; it must be a number inside (-1, 1), where the likelihood never "
                "falls with Gaussian assignments. 0 is plain EM; for means that stay put use iterations=0"
            )


def per_iteration(highway_scale: HighwayScale, iterations: int, like_BKC: Tensor) -> Tensor:
    """The scale as (T, B), without a copy from the host that would wait for the device."""
    images = like_BKC.shape[0]  # not len(), which would fix the number of images in an export
    if isinstance(highway_scale, Tensor):
        return highway_scale.to(like_BKC).expand(iterations).unsqueeze(1).expand(-1, images)
    if isinstance(highway_scale, Sequence):
        rows = [like_BKC.new_full((1, images), float(h)) for h in highway_scale]
        return torch.cat(rows) if rows else like_BKC.new_empty(0, images)
    return like_BKC.new_full((iterations, images), float(highway_scale))


def continued(highway_scale: float | tuple[float, ...], iterations: int) -> float | tuple[float, ...]:
    """The schedule cut to `iterations` numbers, or its last number repeated; one number stays one."""
    if not isinstance(highway_scale, tuple):
        return highway_scale
    return (highway_scale + highway_scale[-1:] * max(iterations - len(highway_scale), 0))[:iterations]


def learned(logit: Tensor, iterations: int) -> Tensor:
    """The scale 0.99·tanh(logit), (iterations,), of a parameter (1,) or (T,), its last number repeated."""
    scale = LARGEST_SCALE * logit.tanh()
    return scale[torch.arange(iterations, device=scale.device).clamp(max=len(scale) - 1)]


def initial_logits(
    highway_scale: float | Sequence[float], iterations: int, learn_scale: LearnScale
) -> Tensor:
    """The float32 parameter, (1,) for "shared" or else (T,), of which `learned` makes `highway_scale`.

    Raises:
        ValueError: if h is too near 1 or -1, or "shared" is to start from different numbers.
    """
    values = highway_scale if isinstance(highway_scale, tuple) else (highway_scale,)
    if learn_scale == "shared" and len(set(values)) != 1:
        raise ValueError(
            f"highway_scale is {highway_scale!r} with learn_scale='shared'; "
            "give one number, or learn_scale='per_iteration'"
        )
    if any(abs(h) >= LARGEST_SCALE for h in values):
        raise ValueError(
            f"highway_scale is {highway_scale!r}; a learned one must start inside ±{LARGEST_SCALE}, "
            "where it will stay"
        )
    logits = torch.tensor([math.atanh(h / LARGEST_SCALE) for h in values], dtype=torch.float32)
    return logits[:1].clone() if learn_scale == "shared" else logits.expand(iterations).clone()
