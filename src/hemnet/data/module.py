"""Batches for Lightning. Randomness depends on (seed, epoch, index) alone, not on workers or ranks.

Shapes: B images in a batch, H, W height and width.
"""

from pathlib import Path
from typing import NotRequired, TypedDict

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hemnet.data.cache import Cached
from hemnet.data.degenerate import too_few_classes
from hemnet.data.random_streams import stream
from hemnet.data.readers import Reader, has_labels
from hemnet.data.samplers import EpochSampler, ShardSampler, rank_and_world
from hemnet.data.spec import DataError
from hemnet.data.transforms import Item, Transform
from hemnet.data.workers import WorkerLoader
from hemnet.wording import counted


class Batch(TypedDict):
    """A batch: image (B, 3, H, W) float32 normalised, mask (B, H', W') uint8, name: B strings.

    In training (H', W') = (H, W); in evaluation the mask keeps its own resolution. Where the transform pads,
    `inside`, (B, H, W) bool, says which pixels are of the photographs.
    """

    image: torch.Tensor
    mask: torch.Tensor
    name: list[str]
    inside: NotRequired[torch.Tensor]


class SampleDataset(Dataset[Item]):
    """A reader with its transform.

    The key is (epoch, index), or an index alone for epoch 0. The epoch is part of the key because the main
    process cannot change the copy of the data set that a persistent worker process holds.

    Attributes:
        reader: reads the samples, before the transform.
        transform: makes tensors of them.
    """

    def __init__(self, reader: Reader, transform: Transform, seed: int) -> None:
        self.reader, self.transform, self._seed = reader, transform, seed

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(
                f"sample {index} is out of range for {len(self)} {self.reader.spec.name} samples"
            )
        try:
            sample = self.reader.read(index)
            return self.transform(sample, stream(self._seed, "augment", epoch, index))
        except Exception as error:
            error.add_note(f"while preparing sample {index} of {self.reader.spec.name}")
            raise


def collate(items: list[Item]) -> Batch:
    """Stack items into a batch.

    Raises:
        DataError: images, or masks, of different sizes.
    """
    sizes = {(tuple(item["image"].shape[1:]), tuple(item["mask"].shape)) for item in items}
    if len(sizes) > 1:
        listed = ", ".join(
            f"{i['name']} {tuple(i['image'].shape[1:])}/{tuple(i['mask'].shape)}" for i in items[:4]
        )
        raise DataError(
            f"samples of one batch differ in size (image/mask, height by width): {listed}; "
            "set eval_batch_size=1, or give the training transform a crop_size"
        )
    batch = Batch(
        image=torch.stack([item["image"] for item in items]),
        mask=torch.stack([item["mask"] for item in items]),
        name=[item["name"] for item in items],
    )
    if all("inside" in item for item in items):
        batch["inside"] = torch.stack([item["inside"] for item in items])
    return batch


class SegmentationData(pl.LightningDataModule):
    """Training and evaluation batches of a segmentation data set.

    Batches are dicts, see `Batch`. Training batches depend on seed and epoch alone, not on `num_workers`.
    Create the trainer with `use_distributed_sampler=False`: these samplers already shard.

    Args:
        train: reader of the training samples.
        val: reader of the evaluation samples, with the same classes.
        train_transform: for example `TrainTransform`.
        eval_transform: for example `EvalTransform`.
        batch_size: training images per process and step; an incomplete last batch is dropped.
        eval_batch_size: evaluation images per process and step; 1 where sizes differ.
        num_workers: worker processes of each loader; 0 loads in the main process.
        seed: seed of shuffling and augmentation, >= 0.
        cache: folder for a file of decoded samples per reader, made with the reader's first loader; errors
            as in `Cached`. None decodes every time.
        cache_gib: largest size of such a file in GiB, > 0.

    Attributes:
        spec: the classes. train_dataset, val_dataset: map data sets; `val_dataset[i]` is sample i as tensors.
        num_workers: for loaders made from now on.

    Raises:
        DataError: the classes differ or are fewer than two, a reader is empty, the training set is smaller
            than a batch, or a reader cannot be cached.
        ValueError: a batch size below 1, negative num_workers or seed, or `cache_gib` not above 0.
    """

    def __init__(
        self,
        train: Reader,
        val: Reader,
        train_transform: Transform,
        eval_transform: Transform,
        batch_size: int,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        cache: str | Path | None = None,
        cache_gib: float = 16.0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ValueError(f"batch sizes must be >= 1, got {batch_size=} {eval_batch_size=}")
        if num_workers < 0 or seed < 0:
            raise ValueError(f"num_workers and seed must be >= 0, got {num_workers=} {seed=}")
        train.spec.require_same_classes(val.spec)
        if problem := too_few_classes(train.spec):
            raise DataError(problem)
        if not len(val):
            raise DataError(f"the evaluation split of {val.spec.name} is empty; choose another split")
        self.spec = train.spec
        if cache is not None:
            train, val = Cached(train, cache, cache_gib), Cached(val, cache, cache_gib)
        self.train_dataset = SampleDataset(train, train_transform, seed)
        self.val_dataset = SampleDataset(val, eval_transform, seed)
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self._seed = num_workers, seed
        self._start = (0, 0)
        self._check_batch_fits(EpochSampler(len(train), seed))

    def start_at(self, epoch: int, batches: int) -> None:
        """Let training continue in ``epoch``, after the first ``batches`` of each rank."""
        self._start = (epoch, batches)

    def train_dataloader(self) -> DataLoader[Item]:
        """Shuffled batches without an incomplete last one.

        Raises:
            DataError: no batch is complete, or a split has images alone.
        """
        for split, dataset in (("training", self.train_dataset), ("evaluation", self.val_dataset)):
            if not has_labels(dataset.reader):
                raise DataError(
                    f"the {split} split of {self.spec.name} has images alone; train and validate on splits "
                    "with masks"
                )
        epoch, batches = self._start
        sampler = EpochSampler(len(self.train_dataset), self._seed, (epoch, batches * self._batch_size))
        self._check_batch_fits(sampler)
        return self._loader(self.train_dataset, sampler, self._batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader[Item]:
        """Every evaluation sample once, in order.

        Raises:
            DataError: there are fewer samples than processes.
        """
        if len(self.val_dataset) < (world := rank_and_world()[1]):
            raise DataError(
                f"{self.spec.name}: {counted(len(self.val_dataset), 'evaluation sample')} for {world} "
                "processes; evaluate on fewer, with trainer.devices"
            )
        sampler = ShardSampler(len(self.val_dataset))
        return self._loader(self.val_dataset, sampler, self._eval_batch_size, drop_last=False)

    def _check_batch_fits(self, sampler: EpochSampler) -> None:
        if len(sampler) < self._batch_size:
            raise DataError(
                f"{self.spec.name}: {counted(len(sampler), 'training sample')} per process, fewer than one "
                f"batch of {self._batch_size}: set data.batch_size={max(1, len(sampler))}, or use more images"
            )

    def _loader(
        self, dataset: SampleDataset, sampler: Sampler, batch_size: int, drop_last: bool
    ) -> DataLoader[Item]:
        if isinstance(dataset.reader, Cached):
            dataset.reader.prepare()  # once, and not in every worker process
        return WorkerLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            # A loader draws the seeds of its workers from this generator. Draws from the global one would
            # change the random numbers of training, such as dropout, with the number of workers.
            generator=torch.Generator().manual_seed(self._seed),
        )
