"""Features in any number of dimensions as positions, and back.

Shape suffixes: B images, C channels, P one or more dimensions of positions (H, W of an image; D, H, W of a
volume; L of a sequence), N their product, K components.
"""

from typing import Literal

import torch
from torch import Tensor

ChannelDim = Literal[1, -1]
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def to_positions(x_BCP: Tensor, channel_dim: ChannelDim, channels: int) -> Tensor:
    """Return the features as (B, N, C), a view where the strides allow; positions row by row.

    Raises:
        ValueError: if they have no dimension of positions, or another number of channels.
    """
    layer = f"HighwayEM(channels={channels}, channel_dim={channel_dim})"
    shape, wanted = (
        tuple(x_BCP.shape),
        f"(B, {channels}, ...)" if channel_dim == 1 else f"(B, ..., {channels})",
    )
    if x_BCP.ndim < 3:
        raise ValueError(f"the features have shape {shape}; {layer} takes {wanted}, with positions as ...")
    if shape[channel_dim] != channels:
        other = -channel_dim
        remedy = f"channel_dim={other}" if shape[other] == channels else f"channels={shape[channel_dim]}"
        raise ValueError(
            f"the features have shape {shape}; {layer} takes {wanted}: set {remedy}, if they are right"
        )
    return x_BCP.flatten(2).transpose(-2, -1) if channel_dim == 1 else x_BCP.flatten(1, -2)


def weights_of(x_BCP: Tensor, weights_BP: Tensor, channel_dim: ChannelDim) -> Tensor:
    """Return the weights of the positions as (B or 1, N).

    Raises:
        ValueError: if they have other positions than the features.
    """
    positions = x_BCP.shape[2:] if channel_dim == 1 else x_BCP.shape[1:-1]
    if weights_BP.shape[1:] != positions:
        raise ValueError(
            f"the weights have shape {tuple(weights_BP.shape)}; for features of shape {tuple(x_BCP.shape)} "
            f"they must be (B or 1, {', '.join(map(str, positions))})"
        )
    return weights_BP.flatten(1)


def from_positions(y_BNC: Tensor, x_BCP: Tensor, channel_dim: ChannelDim) -> Tensor:
    """Return (B, N, C) in the shape and memory format of the features x."""
    if channel_dim == -1:
        return y_BNC.unflatten(1, x_BCP.shape[1:-1]).contiguous()
    form = _CHANNELS_LAST.get(x_BCP.ndim, torch.contiguous_format)
    return (
        y_BNC.transpose(-2, -1)
        .unflatten(2, x_BCP.shape[2:])
        .contiguous(
            memory_format=form if x_BCP.is_contiguous(memory_format=form) else torch.contiguous_format
        )
    )
