"""What the EM layers of a trained network are given on validation images, and the gradient at their output.

Shapes: B images, N positions, C channels.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hemnet.callbacks.em_probe import em_layers
from hemnet.callbacks.prediction_images import spread
from hemnet.config.build import build_evaluation_data, restore
from hemnet.data import IGNORE_INDEX, Item
from hemnet.em import Detached, HighwayEM
from hemnet.em.layout import to_positions, weights_of
from hemnet.em.learning import with_parameters
from hemnet.em.options import Options
from hemnet.em.result import EMResult
from hemnet.em.unrolling import unroll_with
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.runs.run import Run
from hemnet.training.loss import cross_entropy_sum


class Given(NamedTuple):
    """One image at an EM layer; all tensors are float64.

    Attributes:
        layer: the layer, as trained.
        x_BNC: its features.
        weights_BN: the weights of the positions; None where every position counts once.
        dy_BNC: gradient of the image's mean cross-entropy with respect to the layer's output.
    """

    layer: HighwayEM
    x_BNC: Tensor
    weights_BN: Tensor | None
    dy_BNC: Tensor

    @property
    def means_BKC(self) -> Tensor:
        """The layer's initial means, (1, K, C)."""
        return self.layer.start().detach().double()

    @property
    def options(self) -> Options:
        """The layer's mixture, with what it has learned, and how it is fitted."""
        return with_parameters(self.layer.options, self.layer.log_variance, self.layer.prior_logit)

    def fit(self, iterations: int) -> EMResult:
        """Run the layer's steps in float64, and keep the trajectory."""
        scale = self.layer.scale(iterations)
        return unroll_with(
            self.x_BNC, self.weights_BN, self.means_BKC, iterations, scale, self.options, Detached(),
            return_trajectory=True, record_gradient_flow=False,
        )  # fmt: skip


def at_layers(run: Run, images: int | None) -> Iterator[tuple[str, dict[str, Given]]]:
    """Yield the name of an image and what each EM layer gets of it, by the prefix of `em_layers`.

    The network is that of the last checkpoint, in evaluation mode, and the loss is that of ``val/loss``.

    Args:
        run: the run.
        images: how many validation images, spread over the split; None for all.

    Raises:
        HemnetError: the run has no EM layer or no complete checkpoint, or its data is missing.
    """
    network, _ = restore(run)
    if not em_layers(network):
        raise HemnetError(f"{run.path} has no EM layer: leave the run out")
    samples = build_evaluation_data(run.config).val_dataset
    for index in spread(len(samples) if images is None else images, len(samples)):
        yield samples[index]["name"], at_layers_of(network, samples[index])


def at_layers_of(network: Segmenter, item: Item) -> dict[str, Given]:
    """Return what each EM layer of a network in evaluation mode gets of one labelled image."""
    seen: dict[str, tuple[HighwayEM, Tensor, Tensor | None, Tensor]] = {}

    def keep(prefix: str, layer: HighwayEM, inputs: tuple[Any, ...], y_BChw: Tensor) -> Tensor:
        # Nothing before a layer without a gradient needs one, so there its output may begin the graph.
        y_BChw = y_BChw if y_BChw.requires_grad else y_BChw.requires_grad_()
        # Later modules may change the features and the output in place.
        seen[prefix] = (layer, inputs[0].detach().clone(), inputs[2] if len(inputs) > 2 else None, y_BChw)
        return y_BChw.clone()

    with ExitStack() as hooks:
        for prefix, layer in em_layers(network).items():
            hook = layer.register_forward_hook(lambda *call, prefix=prefix: keep(prefix, *call))
            hooks.callback(hook.remove)
        mask_BHW = item["mask"][None]
        logits = network(item["image"][None], tuple(mask_BHW.shape[1:])).logits
        loss = cross_entropy_sum(logits, mask_BHW, IGNORE_INDEX).mean()
        outputs = [y_BChw for *_, y_BChw in seen.values()]
        gradients = torch.autograd.grad(loss, outputs)
    found = {}
    for (prefix, (layer, x_BChw, weights_Bhw, _)), dy_BChw in zip(seen.items(), gradients, strict=True):
        dim = layer.channel_dim
        weights_BN = None if weights_Bhw is None else weights_of(x_BChw, weights_Bhw, dim).double()
        x_BNC, dy_BNC = (
            to_positions(map_BChw, dim, layer.channels).double() for map_BChw in (x_BChw, dy_BChw)
        )
        found[prefix] = Given(layer, x_BNC, weights_BN, dy_BNC)
    return found
