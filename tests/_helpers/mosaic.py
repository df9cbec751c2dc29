"""A small synthetic data module."""

from hemnet.data import EvalTransform, Mosaic, SegmentationData, TrainTransform


def mosaic_data(workers: int = 0, batch_size: int = 4, length: int = 10, seed: int = 3) -> SegmentationData:
    train, val = (Mosaic(split, length, size=16, cells=4) for split in ("train", "val"))
    return SegmentationData(train, val, TrainTransform(12), EvalTransform(), batch_size, 2, workers, seed)
