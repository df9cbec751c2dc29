"""Data sets: their classes, readers, augmentation and batches.

A name is imported from its module when it is first used: most commands need few, and torch and Lightning
take seconds to import.
"""

import hemnet.lab

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hemnet.data.cache import Cached
    from hemnet.data.decoding import read_image
    from hemnet.data.listing import IMAGE_SUFFIXES
    from hemnet.data.module import Batch, SampleDataset, SegmentationData, collate
    from hemnet.data.readers import Fingerprint, Reader, Sample
    from hemnet.data.samplers import EpochSampler, ShardSampler
    from hemnet.data.sets.ade20k import ADE20K
    from hemnet.data.sets.camvid import CAMVID, CamVid
    from hemnet.data.sets.cityscapes import Cityscapes
    from hemnet.data.sets.coco_stuff import CocoStuff10k, CocoStuff164k
    from hemnet.data.sets.context import PascalContext
    from hemnet.data.sets.folder import Folder
    from hemnet.data.sets.synthetic import Mosaic
    from hemnet.data.sets.table import Table
    from hemnet.data.sets.voc import VOC, VOCAug
    from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, Split
    from hemnet.data.transforms import EvalTransform, Item, TrainTransform, Transform, denormalize, normalize

_HOMES = {
    "cache": "Cached",
    "decoding": "read_image",
    "listing": "IMAGE_SUFFIXES",
    "module": "Batch SampleDataset SegmentationData collate",
    "readers": "Fingerprint Reader Sample",
    "samplers": "EpochSampler ShardSampler",
    "sets.ade20k": "ADE20K",
    "sets.camvid": "CAMVID CamVid",
    "sets.cityscapes": "Cityscapes",
    "sets.coco_stuff": "CocoStuff10k CocoStuff164k",
    "sets.context": "PascalContext",
    "sets.folder": "Folder",
    "sets.synthetic": "Mosaic",
    "sets.table": "Table",
    "sets.voc": "VOC VOCAug",
    "spec": "IGNORE_INDEX DataError DatasetSpec Split",
    "transforms": "EvalTransform Item TrainTransform Transform denormalize normalize",
}
"""The names that each module of this package has for all."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"hemnet.data.{module}"), name)
    raise AttributeError(f"module 'hemnet.data' has no attribute {name!r}")


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
    "Table",
    "TrainTransform",
    "Transform",
    "VOCAug",
    "collate",
    "denormalize",
    "normalize",
    "read_image",
]
