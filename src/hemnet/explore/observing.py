"""What an EM layer does with one photograph, iteration by iteration, as arrays.

Iteration t = 1..T is its E-step, whose responsibilities are those under mu^(t-1), and its N-step, which makes
mu^(t). Its reconstruction y^(t) = z mu^(t) is what the layer would return if it took t iterations.

Shapes: B images, N positions, C channels, K components, T iterations, h and w cells of the feature map, those
that show the photograph, H and W pixels of the photograph.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hemnet.callbacks.em_probe import Fit, layer_fits
from hemnet.em import Diagnostics, HighwayEM
from hemnet.em.functional import reconstruct
from hemnet.errors import HemnetError
from hemnet.explore.packing import LARGEST, coded
from hemnet.nets import Segmenter
from hemnet.training.inference import NOT_FINITE, segment

ROUNDING = 1e-12
"""Of the summed squares of features in float32: a smaller variance is none."""


class Observed(NamedTuple):
    """What the layer does with a photograph.

    Attributes:
        codes_TKhw: uint8, the responsibilities of each E-step as `hemnet.explore.packing.coded` writes them.
        entropy_Thw: uint8, 255 times the entropy of a cell's responsibilities over log K.
        occupancy_TK: the share of each component in all positions, float, at each E-step.
        log_likelihood: eq (5) of `hemnet.em.functional` under mu^(0) ... mu^(T), T+1 numbers, in nats.
        error: the mean squared distance of y^(t) from the features over their variance, T numbers; 0 is a
            perfect reconstruction, and 1 is what the mean feature alone would have. NaN where the features
            are the same in all cells but for rounding, as in an image of one cell.
        features_hwc: (h, w, 3) uint8, the features' first three principal components as red, green, blue.
        reconstruction_Thwc: (T, h, w, 3) uint8, y^(t) in the same components and scale.
        explained: the share of the features' variance in these three components, 0..1; NaN if there is none.
        cells: how many rows and columns of cells cover the photograph; fractions, where padding shares the
            last ones.
        prediction_HW: (H, W) uint8, the network's classes.
    """

    codes_TKhw: np.ndarray
    entropy_Thw: np.ndarray
    occupancy_TK: np.ndarray
    log_likelihood: list[float]
    error: list[float]
    features_hwc: np.ndarray
    reconstruction_Thwc: np.ndarray
    explained: float
    cells: tuple[float, float]
    prediction_HW: np.ndarray


@torch.inference_mode()
def observe(
    network: Segmenter, given_CHW: Tensor, size: tuple[int, int], name: str, layer: HighwayEM
) -> Observed:
    """Run a network on a photograph and return what its EM layer did.

    Args:
        network: with an EM layer.
        given_CHW: the normalised image, (3, H', W'), on the network's device.
        size: (H, W) of the photograph.
        name: the layer's module path.
        layer: the EM layer.

    Raises:
        HemnetError: the network's output is not finite; or the layer does not run in evaluation, or not on a
            map of features.
    """
    fits, prediction_HW = layer_fits(
        network, {name: layer}, lambda: segment(lambda x, hw: network(x, hw).logits, given_CHW, size)
    )
    if name not in fits:
        raise HemnetError(f"{name} does not run in evaluation: choose another with --layer")
    fit, about = fits[name], fits[name].result.diagnostics()
    if not about.log_likelihood.isfinite().all():
        raise HemnetError(NOT_FINITE)
    if math.prod(fit.size) != fit.result.reconstruction.shape[1]:
        raise HemnetError(f"{name} does not run on a map (B, C, h, w) of features, which a page could show")
    cells = _cells(fit.size, given_CHW.shape[-2:], network.output_stride)
    return _observed(fit, about, cells, prediction_HW)


def _cells(size: tuple[int, int], image: torch.Size, stride: int) -> tuple[float, float]:
    """Return how many rows and columns of a map of the padded image show the image."""
    rows, columns = (cells * side / (side + -side % stride) for cells, side in zip(size, image, strict=True))
    return rows, columns


def _observed(
    fit: Fit, about: Diagnostics, cells: tuple[float, float], prediction_HW: np.ndarray
) -> Observed:
    result = fit.result
    assert result.trajectory is not None
    h, w = (math.ceil(number) for number in cells)

    def visible(values_BNC: Tensor) -> Tensor:
        return values_BNC[0].unflatten(0, fit.size)[:h, :w].cpu().double()

    x_hwC = visible(fit.x_BChw.flatten(2).transpose(1, 2))
    axes = _Axes(x_hwC.flatten(0, 1))
    codes, entropies, pictures, errors = [], [], [], []
    for t, mu_BKC in enumerate(result.trajectory[1:]):
        z_BNK = result.responsibilities(t)
        z_hwK, y_hwC = visible(z_BNK), visible(reconstruct(z_BNK, mu_BKC))
        codes.append(coded(z_hwK.permute(2, 0, 1).numpy()))
        entropies.append(torch.special.entr(z_hwK).sum(-1) / max(math.log(z_hwK.shape[-1]), 1e-9))
        pictures.append(axes.coloured(y_hwC))
        errors.append(float((x_hwC - y_hwC).square().sum()) / axes.variation)
    return Observed(
        codes_TKhw=np.stack(codes),
        entropy_Thw=_bytes(torch.stack(entropies)),
        occupancy_TK=about.occupancy[:-1, 0].cpu().numpy(),
        log_likelihood=about.log_likelihood[:, 0].tolist(),
        error=errors,
        features_hwc=axes.coloured(x_hwC),
        reconstruction_Thwc=np.stack(pictures),
        explained=axes.explained,
        cells=cells,
        prediction_HW=prediction_HW,
    )


class _Axes:
    """The first three principal components of the features, and a scale from them to colours.

    Attributes:
        variation: the summed squared distances of the features from their mean; NaN if that is rounding.
        explained: the share of it in the three components; likewise.
    """

    def __init__(self, x_NC: Tensor) -> None:
        self._mean_C = x_NC.mean(dim=0)
        centred_NC = x_NC - self._mean_C
        values, vectors_CC = torch.linalg.eigh(centred_NC.T @ centred_NC)
        axes_CA = vectors_CC[:, -3:].flip(-1)
        # Either direction of an axis would do: the one in which its largest entry is above 0 is taken.
        largest_A = axes_CA.gather(0, axes_CA.abs().argmax(dim=0, keepdim=True))[0]
        self._axes_CA = axes_CA * torch.where(largest_A < 0, -1.0, 1.0)
        summed = float(centred_NC.square().sum())
        varies = summed > ROUNDING * float(x_NC.square().sum())
        self.variation = summed if varies else math.nan
        self.explained = float(values[-3:].sum()) / self.variation
        ends = torch.tensor([0.02, 0.98], dtype=x_NC.dtype)  # a few extreme cells would make all others grey
        self._low_A, high_A = (centred_NC @ self._axes_CA).quantile(ends, dim=0)
        # Without a variation there are no axes: all is black.
        self._width_A = (
            (high_A - self._low_A).clamp_min(1e-30) if varies else torch.full_like(high_A, math.inf)
        )

    def coloured(self, x_hwC: Tensor) -> np.ndarray:
        """Return features as (h, w, 3) uint8 colours; a component that C < 3 channels lack is 0."""
        place_hwA = ((x_hwC - self._mean_C) @ self._axes_CA - self._low_A) / self._width_A
        return _bytes(torch.nn.functional.pad(place_hwA, (0, 3 - place_hwA.shape[-1])))


def _bytes(values: Tensor) -> np.ndarray:
    return (LARGEST * values).round().clamp(0, LARGEST).to(torch.uint8).numpy()
