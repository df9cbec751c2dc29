"""What is said before training starts: settings with which a run would train, and learn little.

No error, since someone may want just that: each sentence names the cause, and the setting that helps.

Shapes: heights and widths in pixels.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from hemnet.config.machine import gpu_count
from hemnet.data import Reader, SegmentationData
from hemnet.runs.identity import debugging
from hemnet.wording import counted

PROBES = 8
"""Training images whose sizes and crops are looked at."""
DRAWS = 2
HALF = 0.5
"""Share of padding in the crops from which on it is said."""
STRETCH = 1.1
"""Ratio by which resizing may change the ratio of the sides."""
FEWEST_STEPS, SUGGESTED_STEPS = 100, 500
SOON = 10
"""Steps between validations below which it is said, if there are more than `MANY` validations."""
MANY = 20
EMULATING = ("NO AVX", "AVX2")
"""What torch calls x86 processors on which it emulates bfloat16."""
GRID = 16
"""Crops are multiples of the output stride."""


def advice(config: DictConfig, data: SegmentationData, processes: int = 1) -> list[str]:
    """Return what is likely to be wrong with a run, a sentence each: precision, length, crops, resizing.

    Args:
        config: the checked configuration.
        data: its data.
        processes: how many share the training images.
    """
    if debugging(config):
        return []
    length = _length(config, len(data.train_dataset), processes)
    return [*_precision(config.trainer), *length, *_images(data)]


def _precision(trainer: DictConfig) -> Iterator[str]:
    known = torch.backends.cpu.get_cpu_capability()
    if "bf16" in str(trainer.precision) and known in EMULATING and not gpu_count(str(trainer.accelerator)):
        yield (
            f"trainer.precision is {trainer.precision}, which torch emulates on this processor, as it has no "
            "AVX-512: a step can take many times as long. Faster: trainer.precision=32-true"
        )


def _length(config: DictConfig, images: int, processes: int) -> Iterator[str]:
    trainer, batch = config.trainer, config.data.batch_size * processes
    batches = images // batch
    per_epoch = max(1, batches // trainer.accumulate_grad_batches)
    by_epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * per_epoch
    by_steps = math.inf if trainer.max_steps in (None, -1) else trainer.max_steps
    steps = min(by_epochs, by_steps)
    epoch = f"an epoch is {counted(per_epoch, 'step')} ({counted(images, 'image')}, batches of {batch})"
    counting = "trainer.val_check_interval=100 trainer.check_val_every_n_epoch=null"
    if steps < FEWEST_STEPS:
        longer = f"trainer.max_steps={SUGGESTED_STEPS}"
        if by_epochs < FEWEST_STEPS:
            longer = f"trainer.max_epochs=-1 {longer} {counting}"
        few = counted(int(steps), "step")
        yield f"training ends after {few}, too few to learn much: {epoch}. Longer: {longer}"
        return
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if every is None:
        return
    between = every * per_epoch if interval in (None, 1.0) and not isinstance(interval, int) else interval
    between = between if isinstance(between, int) else max(1, int(per_epoch * between))
    if between < SOON and steps / between > MANY:
        yield (
            f"{int(steps / between)} validations, one after every {counted(between, 'step')}, are likely to "
            f"take longer than the training: {epoch}. Fewer: {counting}"
        )


def _images(data: SegmentationData) -> Iterator[str]:
    """Look at some images of both splits."""
    train, val = data.train_dataset.transform, data.val_dataset.transform
    sizes, crop, padding = [], (0, 0), []
    for index, sample in _probed(data.train_dataset.reader):
        sizes.append(sample.mask_HW.shape)
        for draw in range(DRAWS):
            item = train(sample, np.random.default_rng((index, draw)))
            crop = (item["mask"].shape[0], item["mask"].shape[1])
            if "inside" in item:
                padding.append(1 - float(item["inside"].float().mean()))
    if sizes:
        key = "data.train_transform"
        yield from _stretched(train, sizes, "training", f"{key}.base_size", f"{key}.longest")
        yield from _padded([_resized(train, size) for size in sizes], crop, padding)
    val_sizes = [sample.mask_HW.shape for _, sample in _probed(data.val_dataset.reader)]
    yield from _stretched(
        val, val_sizes, "evaluation", "data.eval_transform.size", "data.eval_transform.longest"
    )


def _probed(reader: Reader) -> Iterator[tuple[int, Any]]:
    for index in np.unique(np.linspace(0, len(reader) - 1, PROBES).astype(int)).tolist():
        try:
            yield index, reader.read(index)
        except Exception:  # training and validation say what is wrong with a sample, when they meet it
            continue


def _resized(transform: Any, size: tuple[int, int]) -> tuple[int, int]:
    target = getattr(transform, "target", None)  # a transform of the user's own may have none
    return size if target is None else target.of(*size)


def _stretched(
    transform: Any, sizes: list[tuple[int, int]], when: str, key: str, longest: str
) -> Iterator[str]:
    """Say that images change their shape, unless they do so by little."""
    changes = []
    for height, width in sizes:
        to = _resized(transform, (height, width))
        ratio = to[0] / to[1] * width / height
        # Of a small image, rounding to whole pixels changes the ratio too.
        changes.append((max(ratio, 1 / ratio) if min(to) > GRID else 1.0, (height, width), to))
    most, size, to = max(changes, default=(1.0, (0, 0), (0, 0)))
    if most > STRETCH:
        yield (
            f"{when} stretches images by up to {most:.2f}, such as {size[0]} x {size[1]} to {to[0]} x "
            f"{to[1]} (height x width). To keep the ratio of the sides: {key}=null {longest}={max(to)}"
        )


def _padded(sizes: list[tuple[int, int]], crop: tuple[int, int], padding: list[float]) -> Iterator[str]:
    """Say that crops are larger than images, or that padding takes more than half of them."""
    height, width = (int(np.median(sides)) for sides in zip(*sizes, strict=True))
    share = sum(padding) / max(1, len(padding))
    larger = height < crop[0] and width < crop[1]
    if not larger and share <= HALF:
        return
    fitting = [min(c, side // GRID * GRID or side) for c, side in zip(crop, (height, width), strict=True)]
    cause = (
        f"crops of {crop[0]} x {crop[1]} are larger than the images, which are {height} x {width} before "
        f"augmentation (median, height x width): {100 * share:.0f} % of the crops is padding"
        if larger
        else f"{100 * share:.0f} % of the crops of {crop[0]} x {crop[1]} is padding"
    )
    remedy = f"data.train_transform.crop_size=[{fitting[0]},{fitting[1]}]"
    if fitting == [*crop]:
        remedy = "a larger least factor in data.train_transform.scale, or another pipeline"
    yield f"{cause}. Less: {remedy}"
