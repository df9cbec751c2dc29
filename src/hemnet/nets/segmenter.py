"""The network: backbone, head, and an optional auxiliary head on the stage before the last.

Shapes: B images, K classes, H and W pixels, h and w positions of a map.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmenterOutput(NamedTuple):
    """Logits at the requested resolution.

    ``logits`` is (B, K, H, W), at least float32; ``auxiliary`` is the same from the auxiliary head, in
    training if there is one, else None.
    """

    logits: Tensor
    auxiliary: Tensor | None = None


class Segmenter(nn.Module):
    """A backbone and the heads that read its feature maps.

    Images whose sides are not multiples of the backbone's output stride are padded below and to the right
    with zeros, the mean colour, and the logits of the padding are cut off, so that a cell of a feature map
    covers the same number of pixels for any image size. Stretching, say, a map of 23 rows over 360 pixels
    instead would shift the logits by up to half a cell.

    A head whose attribute ``mask_padding`` is true gets a second argument wherever an image is padded, here
    or in the training crop: the part of each cell that is of the image, (B, 1, h, w) in 0..1, with
    the height and width of the last map.

    Args:
        backbone: maps images to a tuple of feature maps. Its ``output_stride`` is the size of an image over
            the size of the last map; without that attribute images are not padded.
        head: maps that tuple to logits at the resolution of one of its maps.
        auxiliary: another head for deep supervision in training; not run in eval mode.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary

    def forward(
        self, image_BCHW: Tensor, size: tuple[int, int] | None = None, inside_BHW: Tensor | None = None
    ) -> SegmenterOutput:
        """Return logits for normalised images (B, 3, H, W), at ``size``, by default that of the images.

        ``inside_BHW`` (bool) says which of their pixels are not padding; all, if it is None.
        """
        outputs, filled = self.scores(image_BCHW, inside_BHW)
        image = (image_BCHW.shape[-2], image_BCHW.shape[-1])
        return SegmenterOutput(*(at_size(logits, filled, image, size) for logits in outputs))

    def scores(
        self, image_BCHW: Tensor, inside_BHW: Tensor | None = None
    ) -> tuple[list[Tensor], tuple[int, int]]:
        """Return the logits (B, K, h, w) of each head at its own resolution, and the padded images' size.

        Images are padded below and on the right to multiples of `output_stride`.
        """
        height, width = image_BCHW.shape[-2:]
        stride = self.output_stride
        margins = (0, -width % stride, 0, -height % stride)
        filled_BCHW = F.pad(image_BCHW, margins)
        features = self.backbone(filled_BCHW)
        heads = [self.head]
        if self.auxiliary is not None and self.training:
            heads.append(self.auxiliary)
        told: tuple[Tensor, ...] = ()
        if any(_masks_padding(head) for head in heads) and (
            inside_BHW is not None or torch.compiler.is_exporting() or any(margins)
        ):
            told = (self._inside_cells(image_BCHW, inside_BHW, margins, features[-1]),)
        outputs = [head(features, *told) if _masks_padding(head) else head(features) for head in heads]
        # At least float32: interpolating in half precision would round the logits that decide the argmax.
        outputs = [logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in outputs]
        return outputs, (filled_BCHW.shape[-2], filled_BCHW.shape[-1])

    def _inside_cells(
        self,
        image_BCHW: Tensor,
        inside_BHW: Tensor | None,
        margins: tuple[int, int, int, int],
        map_BChw: Tensor,
    ) -> Tensor:
        """Return the part of each cell of the map that is of the image, (B, 1, h, w) in 0..1, in its type."""
        whole_B1HW = torch.ones_like(image_BCHW[:, :1]) if inside_BHW is None else inside_BHW[:, None]
        filled_B1HW = F.pad(whole_B1HW.to(image_BCHW.dtype), margins)
        if self.output_stride > 1:
            return F.avg_pool2d(filled_B1HW, self.output_stride)
        # For a backbone that does not tell its stride; an exporter takes no pooling to a size.
        return F.interpolate(filled_B1HW, size=map_BChw.shape[-2:], mode="area")

    @property
    def output_stride(self) -> int:
        """The number of which the sides of padded images are multiples."""
        return int(getattr(self.backbone, "output_stride", 1))


def _masks_padding(head: nn.Module) -> bool:
    return bool(getattr(head, "mask_padding", False))


def at_size(
    logits_BKhw: Tensor, filled: tuple[int, int], image: tuple[int, int], size: tuple[int, int] | None = None
) -> Tensor:
    """Return a head's logits at a size.

    Args:
        logits_BKhw: (B, K, h, w), of the padded images.
        filled: (height, width) of the padded images.
        image: (height, width) of the images.
        size: (H, W) of the result, which shows the images without the padding; None is that of the images.
    """
    if size is None:
        return _cut(_upsample(logits_BKhw, filled), image)
    return _resample(logits_BKhw, filled, image, size)


def _upsample(logits_BKhw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits_BKhw, size=size, mode="bilinear", align_corners=False)


def _resample(
    logits_BKhw: Tensor, filled: tuple[int, int], image: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Resample the map of a padded image to the scale at which the image has ``size``; cut that out."""
    if filled == image:
        return _upsample(logits_BKhw, size)
    h, w = logits_BKhw.shape[-2:]
    scale = (filled[0] / h * size[0] / image[0], filled[1] / w * size[1] / image[1])
    # Without padding of a side, h times the scale may round to just below the size.
    above = tuple(factor * (1 + 1e-12) for factor in scale)
    resampled = F.interpolate(logits_BKhw, scale_factor=above, mode="bilinear", align_corners=False)
    return _cut(resampled, size)


def _cut(logits_BKHW: Tensor, size: tuple[int, int]) -> Tensor:
    if not torch.compiler.is_exporting():
        return logits_BKHW[:, :, : size[0], : size[1]]
    # A slice tests whether there is anything to cut, and the exporter would fix the result of the test.
    rows, columns = (torch.arange(side, device=logits_BKHW.device) for side in size)
    return logits_BKHW.index_select(2, rows).index_select(3, columns)
