"""A backbone and a head.

Shapes: B images, C channels, K classes, H and W pixels, h and w positions of a feature map.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from hemnet.em import HighwayEM


class Patches(nn.Module):
    """Convolutions of stride 2. Returns the feature maps of all stages, the last one at `output_stride`.

    Args:
        width: channels of the first stage; each further one has twice as many.
        stages: how often the size is halved.
    """

    def __init__(self, width: int = 16, stages: int = 2) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(stages))  # of each feature map, which heads ask for
        self.output_stride = 2**stages  # images are padded to multiples of it
        sizes = (3, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise(sizes)
        )

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) to a tuple of (B, C, h, w)."""
        maps = [image_BCHW]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])


class PlainEMHead(nn.Module):
    """A linear classifier of what HighwayEM makes of the last feature map, and of the map itself."""

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, num_components: int = 16, iterations: int = 3
    ) -> None:
        super().__init__()
        self.em = HighwayEM(in_channels[-1], num_components, iterations)
        self.classifier = nn.Conv2d(in_channels[-1], num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map the backbone's feature maps to logits (B, K, h, w)."""
        return self.classifier(features[-1] + self.em(features[-1]))
