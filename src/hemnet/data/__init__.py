"""Data sets: what they are, how they are read, augmented and batched."""

from hemnet.data.module import Batch, EpochSampler, SampleDataset, SegmentationData, ShardSampler, collate
from hemnet.data.readers import IMAGE_SUFFIXES, CamVid, Reader, Sample, read_image
from hemnet.data.spec import CAMVID, IGNORE_INDEX, DataError, DatasetSpec, Split
from hemnet.data.synthetic import Mosaic
from hemnet.data.transforms import EvalTransform, Item, TrainTransform, Transform, denormalize, normalize

__all__ = [
    "CAMVID",
    "IGNORE_INDEX",
    "IMAGE_SUFFIXES",
    "Batch",
    "CamVid",
    "DataError",
    "DatasetSpec",
    "EpochSampler",
    "EvalTransform",
    "Item",
    "Mosaic",
    "Reader",
    "Sample",
    "SampleDataset",
    "SegmentationData",
    "ShardSampler",
    "Split",
    "TrainTransform",
    "Transform",
    "collate",
    "denormalize",
    "normalize",
    "read_image",
]
