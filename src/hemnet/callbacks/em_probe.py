"""Shared by the probes of EM layers: finding the layers, running them on fixed validation images, logging.

A probe does not change training: it draws no random numbers, and restores the modes of all modules, their
statistics and the moving averages of the initial means.

Shapes: B images, C channels, H and W pixels of an image, h and w positions of a feature map.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from hemnet.callbacks.prediction_images import spread
from hemnet.data import Item
from hemnet.em import HighwayEM
from hemnet.em.result import EMResult
from hemnet.training.task import SegmentationTask

T = TypeVar("T")


class Fit(NamedTuple):
    """The result of an EM layer for one image, with its trajectory.

    ``size`` is that of the feature map, (h, w), and ``x_BChw`` the map, float32 or float64.
    """

    result: EMResult
    size: tuple[int, int]
    x_BChw: Tensor


def em_layers(network: nn.Module) -> dict[str, HighwayEM]:
    """Return the EM layers of a network by their prefix in metric names.

    The first layer has the empty prefix, since most networks have only one; the others have their module path
    and a slash. Metrics are then ``gradient/means/00`` and ``gradient/head.second.em/means/00``.
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, HighwayEM)]
    return {f"{name}/" if i else "": layer for i, (name, layer) in enumerate(found)}


def log_metrics(trainer: pl.Trainer, metrics: dict[str, float], step: int) -> None:
    """Pass the finite metrics to all loggers of rank 0 at once, at the given step.

    Lightning's ``self.log`` only writes every ``log_every_n_steps``, at a step that it chooses.
    """
    finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
    for logger in trainer.loggers if trainer.is_global_zero else []:
        if finite:
            logger.log_metrics(finite, step=step)


def numbered(name: str, values: Sequence[float] | Tensor) -> dict[str, float]:
    """Return the values per iteration under ``name/00``, ``name/01``, ..."""
    return {f"{name}/{t:02d}": float(value) for t, value in enumerate(values)}


def last_step(trainer: pl.Trainer) -> int:
    """Return the number of the last optimizer step, from 0, at which val/* is logged; 0 before any step."""
    return max(trainer.global_step - 1, 0)


def spread_samples(trainer: pl.Trainer, count: int) -> list[Item]:
    """Return ``count`` validation samples, or all if there are fewer, spread over the split."""
    loader = trainer.val_dataloaders
    if loader is None:
        return []
    return [loader.dataset[i] for i in spread(count, len(loader.dataset))]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, within the block; then restore all modes."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def fits(trainer: pl.Trainer, task: SegmentationTask, item: Item) -> dict[str, Fit]:
    """Run each EM layer on one image as evaluation does, see `layer_fits`, in the precision of the run."""
    precision = trainer.precision_plugin
    image_BCHW = precision.convert_input(item["image"][None].to(task.device))

    def forward() -> object:
        with precision.forward_context():
            return task(image_BCHW)

    layers = em_layers(task.network)
    return layer_fits(task.network, layers, forward)[0] if layers else {}


def layer_fits(
    network: nn.Module, layers: Mapping[str, HighwayEM], forward: Callable[[], T]
) -> tuple[dict[str, Fit], T]:
    """Run a network on one image in evaluation mode, and keep the trajectory of each of some EM layers.

    EM runs in float32, or float64 if the features are float64, so that small differences between iterations
    are not lost to rounding.

    Args:
        network: the network, or a module that has it.
        layers: the layers by any names.
        forward: runs the network.

    Returns:
        A fit by the layer's name, for the layers that evaluation runs (those of an
        auxiliary head are not among them); and what ``forward`` returned.
    """
    inputs: dict[str, tuple[Tensor, Tensor | None]] = {}

    def keep(prefix: str, x_BChw: Tensor, _: Tensor | None = None, weights_Bhw: Tensor | None = None) -> None:
        inputs[prefix] = (x_BChw.clone(), weights_Bhw)  # later modules may change x_BChw in place

    with evaluating(network):
        handles = [
            layer.register_forward_pre_hook(lambda _, given, prefix=prefix: keep(prefix, *given))
            for prefix, layer in layers.items()
        ]
        try:
            output = forward()
        finally:
            for handle in handles:
                handle.remove()
        found: dict[str, Fit] = {}
        for prefix, (x_BChw, weights_Bhw) in inputs.items():
            x_BChw = x_BChw.to(torch.promote_types(x_BChw.dtype, torch.float32))
            result = layers[prefix].run(x_BChw, None, weights_Bhw, return_trajectory=True)
            found[prefix] = Fit(result, (x_BChw.shape[-2], x_BChw.shape[-1]), x_BChw)
    return found, output
