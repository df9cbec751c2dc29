"""Networks: a backbone, a head, and the segmenter that joins them."""

from hemnet.nets.backbones import ResNet
from hemnet.nets.baselines import DeepLabV3PlusHead, NonLocalHead, PSPHead
from hemnet.nets.efficientnet_lite import EfficientNetLite
from hemnet.nets.foreign import HuggingFaceBackbone, TimmBackbone
from hemnet.nets.heads import EMHead, EMUnit, FCNHead
from hemnet.nets.segmenter import Segmenter, SegmenterOutput

__all__ = [
    "DeepLabV3PlusHead",
    "EMHead",
    "EMUnit",
    "EfficientNetLite",
    "FCNHead",
    "HuggingFaceBackbone",
    "NonLocalHead",
    "PSPHead",
    "ResNet",
    "Segmenter",
    "SegmenterOutput",
    "TimmBackbone",
]
