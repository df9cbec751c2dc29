"""Networks: a backbone, a head, and the segmenter that joins them."""

from hemnet.nets.backbones import ResNet
from hemnet.nets.heads import EMHead, EMUnit, FCNHead
from hemnet.nets.segmenter import Segmenter, SegmenterOutput

__all__ = ["EMHead", "EMUnit", "FCNHead", "ResNet", "Segmenter", "SegmenterOutput"]
