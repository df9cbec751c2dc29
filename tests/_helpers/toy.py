"""A two-class toy problem that trains in a second, for the tests of everything around training."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from hemnet.data import DatasetSpec, EvalTransform, Sample, SegmentationData, TrainTransform
from hemnet.nets import EMHead, FCNHead, ResNet, Segmenter
from hemnet.training.optim import Optimization
from hemnet.training.task import SegmentationTask

SPEC = DatasetSpec("two", ("dark", "light"), ((0, 0, 0), (200, 200, 200)))


class Halves:
    """Images whose class is their grey level, with some ignored pixels; masks may be larger than images."""

    spec = SPEC

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        mask = np.kron(rng.integers(0, 2, (2, 2)), np.ones((16, 16))).astype(np.uint8)
        image = np.repeat((40 + 150 * mask)[..., None], 3, axis=2).astype(np.uint8)
        mask[0, :5] = 255
        return Sample(image, mask, str(index))


def data(train: int = 8, val: int = 5, eval_size: int | None = 24) -> SegmentationData:
    transform = TrainTransform(32, scale=(1.0, 1.0), flip=True, color_jitter=0.0)
    return SegmentationData(
        Halves(train),
        Halves(val, seed=1),
        transform,
        EvalTransform(eval_size),
        batch_size=4,
        eval_batch_size=2,
    )


def task(auxiliary: bool = False, lr: float = 0.05, width: int = 4, **options: Any) -> SegmentationTask:
    backbone = ResNet(18, output_stride=8, width=width)
    head = EMHead(backbone.channels, 2, channels=8, num_components=4)
    extra = FCNHead(backbone.channels, 2, channels=8, stage=-2) if auxiliary else None
    optimization = Optimization(partial(torch.optim.SGD, lr=lr, momentum=0.9), power=0.9)
    return SegmentationTask(Segmenter(backbone, head, extra), SPEC, optimization, **options)


def trainer(tmp_path: Path, **options: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fixed = {"accelerator": "cpu", "default_root_dir": tmp_path, "use_distributed_sampler": False}
    return pl.Trainer(**{**quiet, **fixed, **options})
