"""Backbones of other packages, timm and Hugging Face's transformers, behind one adapter.

Shapes: B images, C channels, H and W positions of the image, h and w of a feature map.
"""

import importlib
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hemnet.errors import HemnetError
from hemnet.nets.weights import load_pretrained
from hemnet.wording import one_line

MEAN_RGB, STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""By which images are normalised before they reach a backbone."""
PROBE = (224, 448)
"""Height and width of the image on which a backbone is tried, multiples of 14, 16 and 32."""


class Adapter(nn.Module):
    """A network of another package as a backbone: a tuple of maps, ``channels`` and ``output_stride``.

    The network is tried on an image, and what it gives is checked, so that a network that is no backbone is
    an error at once, and not in the middle of training.

    Args:
        model: the network; `maps` calls it.
        channels: of each map, as the other package says.
        name: of the network, for messages.
        mean: of the images that it was trained on, for values in 0..1, by channel.
        std: their standard deviation.

    Attributes:
        channels: of each map, in their order.
        strides: image size over map size, likewise.
        output_stride: the largest of them.

    Raises:
        HemnetError: the network fails on the image, has other maps than it says, or maps whose sides are no
            whole parts of the image's.
    """

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(
        self,
        model: nn.Module,
        channels: Sequence[int],
        name: str,
        mean: Sequence[float] = MEAN_RGB,
        std: Sequence[float] = STD_RGB,
    ) -> None:
        super().__init__()
        self.model, self.channels = model, tuple(map(int, channels))
        own = [torch.tensor(values)[:, None, None] for values in (MEAN_RGB, STD_RGB, mean, std)]
        # Not in checkpoints, since they follow from the name.
        self.register_buffer("scale_C11", own[1] / own[3], persistent=False)
        self.register_buffer("shift_C11", (own[0] - own[2]) / own[3], persistent=False)
        self._renormalized = (tuple(mean), tuple(std)) != (MEAN_RGB, STD_RGB)
        self.strides = self._tried(name)
        self.output_stride = max(self.strides)

    @abstractmethod
    def maps(self, image_BCHW: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of the network."""

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps, (B, channels[i], h_i, w_i), for normalised images (B, 3, H, W)."""
        if self._renormalized:
            image_BCHW = image_BCHW * self.scale_C11 + self.shift_C11
        found = self.maps(image_BCHW)
        return tuple(
            x.permute(0, 3, 1, 2) if last else x for x, last in zip(found, self._channels_last, strict=True)
        )

    def _tried(self, name: str) -> tuple[int, ...]:
        """Return the stride of each map of a made-up image, and note which have their channels last."""
        training, (height, width) = self.training, PROBE
        self.eval()
        try:
            with torch.no_grad():
                shapes = [tuple(x.shape) for x in self.maps(torch.zeros(1, 3, height, width))]
        except Exception as error:  # of any type
            raise HemnetError(
                f"{name} fails as a backbone on an image of {height} x {width}: {one_line(error)}; a network "
                "for one size may take others with an option: of timm's, some transformers have "
                "dynamic_img_size=true, others img_size and strict_img_size=false"
            ) from error
        self.train(training)
        if len(shapes) != len(self.channels):
            raise HemnetError(f"{name} says that it gives {len(self.channels)} maps, and gives {len(shapes)}")
        found = [_layout(shape, count) for shape, count in zip(shapes, self.channels, strict=True)]
        if None in found:
            wrong = found.index(None)
            raise HemnetError(
                f"{name} is no backbone: of an image of {height} x {width} it gives {shapes[wrong]}, not "
                f"{self.channels[wrong]} channels at a whole part of the size; choose others of its maps "
                "(model.backbone.stages), or another network"
            )
        self._channels_last = tuple(layout[1] for layout in found if layout)
        return tuple(layout[0] for layout in found if layout)


def _layout(shape: tuple[int, ...], channels: int) -> tuple[int, bool] | None:
    """Return the stride of a map of `PROBE`, and whether its channels are last; None if it is no map."""
    for stride in range(1, PROBE[0] + 1):
        size = tuple(side // stride for side in PROBE)
        if any(side % stride for side in PROBE):
            continue
        if shape in ((1, channels, *size), (1, *size, channels)):
            return stride, shape != (1, channels, *size)
    return None


class TimmBackbone(Adapter):
    """A network of timm that returns the feature maps of its stages; needs ``pip install 'hemnet[timm]'``.

    Images are brought to the mean and standard deviation with which timm trained the network.

    Args:
        name: timm's name of the network, such as ``convnext_tiny`` or ``resnet50.a1_in1k``.
        output_stride: image size over the size of the last map, where the network can be dilated: 8, 16 or
            32; null is the network's own.
        stages: which of its maps, as indices, the deepest last; heads use the last one, ``deeplabv3plus``
            also the first, and an auxiliary head the one before the last.
        weights: ``imagenet``, the weights that timm has for the name, downloaded to its cache; null, random
            weights; or the path or URL of a checkpoint (see :func:`hemnet.nets.weights.load_pretrained`).
        options: further arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        HemnetError: timm is not installed, refuses the name or an option, or cannot get the weights; or see
            `Adapter`.
    """

    def __init__(
        self,
        name: str,
        output_stride: int | None = None,
        stages: Sequence[int] = (-4, -3, -2, -1),
        weights: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        timm, given = _package("timm", "timm"), dict(options or {})
        _refuse(given, ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path",
                        "features_only", "out_indices"))  # fmt: skip
        if output_stride is not None:
            given["output_stride"] = output_stride
        model = _made(
            f"timm's {name}",
            lambda: timm.create_model(
                name, pretrained=weights == "imagenet", features_only=True, out_indices=tuple(stages), **given
            ),
        )
        about = getattr(model, "pretrained_cfg", None) or {}
        super().__init__(
            model, model.feature_info.channels(), f"timm's {name}",
            about.get("mean") or MEAN_RGB, about.get("std") or STD_RGB,
        )  # fmt: skip
        if output_stride is not None and self.output_stride != output_stride:
            raise HemnetError(
                f"timm's {name} has output stride {self.output_stride}, and cannot be given {output_stride}: "
                "set model.backbone.output_stride=null"
            )
        if weights not in (None, "imagenet"):
            own = self.model.state_dict().keys()
            load_pretrained(self.model, weights, lambda published: _in_timm(published, own))

    def maps(self, image_BCHW: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of the stages."""
        return self.model(image_BCHW)


class HuggingFaceBackbone(Adapter):
    """A backbone of Hugging Face's transformers; needs ``pip install 'hemnet[huggingface]'``.

    Its configuration is read whenever the network is built, from the hub, its cache, or a folder. A run that
    is to be used offline has the path of a folder as the name.

    Args:
        name: a model on the hub or a folder with one, such as ``facebook/convnext-tiny-224``.
        stages: which of its maps, as indices; null is the last four.
        weights: ``imagenet``, the weights that come with the name; null, random weights; or the path or URL
            of a checkpoint of this backbone (see :func:`hemnet.nets.weights.load_pretrained`).
        options: entries of its configuration to change.

    Raises:
        HemnetError: transformers is not installed, has no backbone of this name, or cannot get the weights;
            or see `Adapter`.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[int] | None = None,
        weights: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        transformers, given = _package("transformers", "huggingface"), dict(options or {})
        _refuse(given, ("trust_remote_code", "out_indices", "out_features"))

        def make() -> Any:
            config = transformers.AutoConfig.from_pretrained(name)
            # Its constructor accepts unknown options silently.
            if unknown := sorted(given.keys() - config.to_dict().keys()):
                raise ValueError(f"its configuration has no {', '.join(unknown)}")
            config = transformers.AutoConfig.from_pretrained(name, **given)
            count = len(config.stage_names)
            config.out_indices = [*range(max(1, count - 4), count)] if stages is None else [*stages]
            model = transformers.AutoBackbone.from_config(config)
            # By its class, since AutoBackbone.from_pretrained takes a folder for a network of timm.
            return type(model).from_pretrained(name, config=config) if weights == "imagenet" else model

        model = _made(f"transformers' {name}", make)
        super().__init__(model, model.channels, f"transformers' {name}")
        if weights not in (None, "imagenet"):
            load_pretrained(self.model, weights)

    def maps(self, image_BCHW: Tensor) -> Sequence[Tensor]:
        """Return the feature maps of the stages."""
        return self.model(image_BCHW).feature_maps


def _in_timm(published: str, own: Collection[str]) -> str:
    """Return the name that a tensor of the whole network has in the part of it that gives feature maps.

    There ``stages.0.x`` is ``stages_0.x``, or the network is inside another as ``model`` or ``body``.
    """
    names = (published, published.replace(".", "_", 1), f"model.{published}", f"body.{published}")
    return next((name for name in names if name in own), published)


def _package(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise HemnetError(
            f"this backbone needs the package {name} ({one_line(error)}): pip install 'hemnet[{extra}]'"
        ) from error


def _refuse(options: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse options that this module gives itself, and such as would read or run what a stranger names."""
    if given := sorted(options.keys() & {*keys}):
        raise HemnetError(f"model.backbone.options must not have {', '.join(given)}")


def _made(what: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # the packages raise many types
        raise HemnetError(
            f"{what} cannot be made: {one_line(error)}; see model.backbone.name, stages, weights and options"
        ) from error
