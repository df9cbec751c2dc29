"""Segmentation heads, all with one signature: feature maps in, logits at the last map's resolution out.

Shapes: B images, C channels, K components, h and w positions of a feature map.
"""

from collections.abc import Sequence
from inspect import signature

from torch import Tensor, nn

from hemnet.em import HighwayEM
from hemnet.em.gradient.choose import Gradient
from hemnet.em.highway import LearnScale
from hemnet.em.initial_means import Means
from hemnet.em.learning import LearnVariance
from hemnet.em.options import Acceleration, Assignment, Engine, Normalization


def conv_bn_relu(c_in: int, c_out: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Return convolution (no bias, size kept), batch normalisation, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class FCNHead(nn.Module):
    """Two 3x3 convolutions and a classifier, with room for a context module between the two.

    ``EMHead`` is this head with an EM unit in that room, so the two differ in nothing else.

    Args:
        in_channels: channels of each feature map of the backbone.
        num_classes: logits to produce.
        channels: channels after the first convolution; half of them after the second.
        dropout: probability of dropping a channel before the classifier.
        stage: which feature map is read, as an index; -1 is the deepest.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        dropout: float = 0.1,
        stage: int = -1,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.reduce = conv_bn_relu(in_channels[stage], channels)
        self.context: nn.Module = nn.Identity()
        self.refine = conv_bn_relu(channels, channels // 2)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels // 2, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return logits (B, num_classes, h, w) of ``features[stage]``, (B, C, h, w)."""
        x = self.context(self.reduce(features[self.stage]))
        return self.classifier(self.dropout(self.refine(x)))


class EMUnit(nn.Module):
    """relu(x + BN(conv(relu(EM(conv(x)))))): the unit of Li et al. (ICCV 2019), around any EM layer."""

    def __init__(self, em: HighwayEM) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(em.channels, em.channels, 1)
        self.em = em
        self.conv2 = nn.Conv2d(em.channels, em.channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(em.channels)
        self.relu = nn.ReLU(inplace=True)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv1.bias)  # type: ignore[arg-type]
        # No gradient passes a detached EM layer, so conv1 is a fixed random projection, as in EMANet. Without
        # requires_grad it gets no weight decay, and DDP does not wait for its gradient.
        self.conv1.requires_grad_("features" in em.gradient.reaches)

    def forward(self, x_BCHW: Tensor, inside_B1hw: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w) to the same shape.

        Positions count in the EM fit by the part of them that is inside the image, (B, 1, h, w), if given.
        """
        told = () if inside_B1hw is None else (None, inside_B1hw[:, 0])
        y = self.relu(self.em(self.conv1(x_BCHW), *told))
        return self.relu(x_BCHW + self.bn(self.conv2(y)))


class EMHead(FCNHead):
    """The FCN head with an EM unit as its context: ``hem``, ``em`` and ``emanet`` by its settings.

    Args:
        in_channels: channels of each feature map of the backbone.
        num_classes: logits to produce.
        channels: channels of the EM layer's features.
        num_components: K, mixture components (bases).
        iterations: T, unrolled EM iterations.
        highway_scale: h = 1 - step size; 0 is plain EM.
        assignment: the E-step: ``dot``, the scaled dot product of the paper's Eq. 8, or ``gaussian``, Eq. 7.
        variance: sigma squared of the mixture, by which the E-step divides: the smaller, the harder the
            assignments. Null means the square root of ``channels``.
        normalize: ``none`` or ``l2`` normalisation of the means after each step.
        gradient: how the iterations are differentiated: a mode's name, or a node such as
            ``{_target_: hemnet.em.Implicit, tolerance: 1e-6}``.
        engine: what computes the iterations: ``auto``, ``recompute``, ``triton`` or ``reference``.
        acceleration: ``none`` or ``anderson`` mixing of steps.
        iterations_eval: T in evaluation; null means ``iterations``.
        tolerance: relative step below which an image stops, in evaluation; null never stops.
        learn_scale: ``none``, ``shared`` or ``per_iteration``: whether the highway scale is trained.
        learn_variance: ``none``, ``shared`` or ``per_component``: whether the variance is trained.
        learn_prior: whether the weights of the components are trained, in the place of equal ones.
        means: ``learned`` or ``moving_average`` initial means.
        momentum: the share of the old means that a step of the moving average keeps.
        correct_momentum: whether the moving average goes as far at any highway scale as at 0.
        dropout: probability of dropping a channel before the classifier.
        mask_padding: whether positions count in the fit by the part of them that is of the image, so that
            padding is in no mean. Without it padding is fitted like the rest, as it was before this option.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        num_components: int = 64,
        iterations: int = 3,
        highway_scale: float | list[float] = 0.5,
        assignment: Assignment = "dot",
        variance: float | None = None,
        normalize: Normalization = "none",
        gradient: Gradient = "unrolled",
        engine: Engine = "auto",
        acceleration: Acceleration = "none",
        iterations_eval: int | None = None,
        tolerance: float | None = None,
        learn_scale: LearnScale = "none",
        learn_variance: LearnVariance = "none",
        learn_prior: bool = False,
        means: Means = "moving_average",
        momentum: float = 0.9,
        correct_momentum: bool = False,
        dropout: float = 0.1,
        mask_padding: bool = False,
    ) -> None:
        given = locals()  # every argument by its name, so that none can be forgotten on its way to the layer
        super().__init__(in_channels, num_classes, channels=channels, dropout=dropout)
        self.context = EMUnit(
            HighwayEM(**{name: given[name] for name in signature(HighwayEM).parameters if name in given})
        )
        self.mask_padding = mask_padding

    def forward(self, features: Sequence[Tensor], inside_B1hw: Tensor | None = None) -> Tensor:
        """Return logits of the feature map; see :class:`hemnet.nets.Segmenter` for ``inside``."""
        told = () if inside_B1hw is None else (inside_B1hw,)
        x = self.context(self.reduce(features[self.stage]), *told)
        return self.classifier(self.dropout(self.refine(x)))
