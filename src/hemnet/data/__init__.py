"""Data sets: their classes, readers, augmentation and batches."""

import hemnet.lab

from hemnet.data.cache import Cached
from hemnet.data.listing import IMAGE_SUFFIXES
from hemnet.data.module import Batch, EpochSampler, SampleDataset, SegmentationData, ShardSampler, collate
from hemnet.data.readers import Fingerprint, Reader, Sample, read_image
from hemnet.data.sets.ade20k import ADE20K
from hemnet.data.sets.camvid import CAMVID, CamVid
from hemnet.data.sets.cityscapes import Cityscapes
from hemnet.data.sets.coco_stuff import CocoStuff10k, CocoStuff164k
from hemnet.data.sets.context import PascalContext
from hemnet.data.sets.folder import Folder
from hemnet.data.sets.synthetic import Mosaic
from hemnet.data.sets.voc import VOC, VOCAug
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, Split
from hemnet.data.transforms import EvalTransform, Item, TrainTransform, Transform, denormalize, normalize

__all__ = [
    "ADE20K",
    "CAMVID",
    "IGNORE_INDEX",
    "IMAGE_SUFFIXES",
    "VOC",
    "Batch",
    "Cached",
    "CamVid",
    "Cityscapes",
    "CocoStuff10k",
    "CocoStuff164k",
    "DataError",
    "DatasetSpec",
    "EpochSampler",
    "EvalTransform",
    "Fingerprint",
    "Folder",
    "Item",
    "Mosaic",
    "PascalContext",
    "Reader",
    "Sample",
    "SampleDataset",
    "SegmentationData",
    "ShardSampler",
    "Split",
    "TrainTransform",
    "Transform",
    "VOCAug",
    "collate",
    "denormalize",
    "normalize",
    "read_image",
]
