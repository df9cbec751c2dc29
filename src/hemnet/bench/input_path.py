"""The benchmark of the input path: the stages in one thread, and the training loader."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from statistics import median, quantiles
from time import process_time
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from hemnet.bench.arguments import say, setting
from hemnet.bench.results import Verdict
from hemnet.bench.tables import markdown, verdict_table, wide_console
from hemnet.bench.timing import Budget, interleave
from hemnet.config.build import build_data
from hemnet.config.compose import load
from hemnet.data import Batch, Cached, Reader, SegmentationData, Transform, collate
from hemnet.data.random_streams import stream

CPU = torch.device("cpu")
MOST_BLOCKS = 1000
DECODE, READ_CACHE, AUGMENT, COLLATE = "decode", "read the cache", "augment", "collate"


@dataclass(frozen=True)
class InputStage:
    """A stage in one thread: seconds per image by the clock and of CPU time, one of each per block."""

    name: str
    seconds: list[float]
    cpu_seconds: list[float]


@dataclass(frozen=True)
class LoaderTimes:
    """The training loader: seconds per image by the clock, one per block."""

    workers: int
    seconds: list[float]

    @property
    def rate(self) -> float:
        """Images per second."""
        return 1 / median(self.seconds)


@dataclass
class InputFindings:
    """Everything that was measured.

    Attributes:
        environment: as in a run directory.
        data: name, training images, batch size and whether there is a cache.
        stages: in the order of the path; with a cache, training skips the first.
        loaders: one per number of workers.
        need: images per second that training consumes, if known.
        verdicts: whether each loader delivers them.
    """

    environment: dict[str, Any]
    data: dict[str, Any]
    stages: list[InputStage] = field(default_factory=list)
    loaders: list[LoaderTimes] = field(default_factory=list)
    need: float | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that an image of a training batch costs."""
        unused = DECODE if self.data["cached"] else READ_CACHE
        return sum(median(stage.cpu_seconds) for stage in self.stages if stage.name != unused)


def measure(options: argparse.Namespace) -> InputFindings:
    """Measure the stages, then the loader with each number of workers."""
    config = load(options.overrides)
    data = build_data(config)
    size, reader = config.data.batch_size, data.train_dataset.reader
    about = {"name": data.spec.name, "images": len(reader), "batch_size": size,
             "cached": isinstance(reader, Cached)}  # fmt: skip
    found = InputFindings(setting(), about, need=options.need)
    budget = Budget(options.seconds, MOST_BLOCKS)
    with _one_thread():
        if isinstance(reader, Cached):
            reader.prepare()
        say("measuring the stages")
        found.stages = _stages(data, data.train_dataset.transform, size, budget)
        for workers in options.workers:
            say(f"measuring the loader, workers={workers}")
            data.num_workers = workers
            found.loaders.append(_loader(workers, data.train_dataloader(), size, budget))
    if found.need is not None:
        found.verdicts = [_judge(loader, found.need) for loader in found.loaders]
    return found


def _stages(data: SegmentationData, transform: Transform, size: int, budget: Budget) -> list[InputStage]:
    dataset = data.train_dataset
    reader, length = dataset.reader, len(dataset)
    readers: dict[str, Reader] = {DECODE: reader}
    if isinstance(reader, Cached):
        readers = {DECODE: reader.reader, READ_CACHE: reader}
    samples = [reader.read(i) for i in range(min(size, length))]
    items = [dataset[i % length] for i in range(size)]
    order = stream(0, "bench").permutation(length).tolist()
    turns = count()

    def reading(source: Reader) -> Callable[[], object]:
        indices = cycle(order)
        return lambda: source.read(next(indices))

    def augment() -> None:
        i = next(turns)
        transform(samples[i % len(samples)], stream(0, "augment", i))

    once = {name: reading(source) for name, source in readers.items()} | {AUGMENT: augment}
    blocks = {name: _Block(work, size) for name, work in once.items()}
    blocks[COLLATE] = _Block(lambda: collate(items), 1)
    clock = interleave(list(blocks.values()), CPU, budget)
    return [
        InputStage(name, [t / size for t in times], [t / size for t in block.cpu_seconds[1:]])
        for (name, block), times in zip(blocks.items(), clock, strict=True)
    ]


class _Block:
    """A function that repeats some work and records the CPU time of each call."""

    def __init__(self, work: Callable[[], object], times: int) -> None:
        self._work, self._times = work, times
        self.cpu_seconds: list[float] = []

    def __call__(self) -> None:
        start = process_time()
        for _ in range(self._times):
            self._work()
        self.cpu_seconds.append(process_time() - start)


def _loader(workers: int, loader: DataLoader[Any], size: int, budget: Budget) -> LoaderTimes:
    batches = _endless(loader)
    # Each worker makes whole batches, so batches arrive in bursts of as many as there are workers.
    block = _Block(lambda: next(batches), max(1, workers))
    (times,) = interleave([block], CPU, budget)
    return LoaderTimes(workers, [t / (size * max(1, workers)) for t in times])


def _endless(loader: DataLoader[Any]) -> Iterator[Batch]:
    for epoch in count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, as a worker process does."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _judge(loader: LoaderTimes, need: float) -> Verdict:
    workers = f"{loader.workers} worker{'' if loader.workers == 1 else 's'}"
    verdict = "met" if loader.rate >= need else "not met: the loader is the bottleneck"
    return Verdict(f"loader with {workers}, images/s, >= {need:g}", f"{loader.rate:.1f}", verdict)


def print_findings(found: InputFindings) -> None:
    """Print the tables and, if the need of training is known, the verdicts."""
    console, about = wide_console(), found.data
    cache = "with" if about["cached"] else "no"
    console.print(f"{found.environment['device']}; {about['name']}, {about['images']} training images, "
                  f"batches of {about['batch_size']}, {cache} cache")  # fmt: skip
    console.print("\nThe stages in one thread; medians, with quartiles\n")
    stages = [
        (s.name, f"{1000 * median(s.seconds):.2f}", _rates(s.seconds), _rates(s.cpu_seconds), len(s.seconds))
        for s in found.stages
    ]
    console.print(markdown("stage | ms an image | images/s | images/s a core (CPU time) | blocks", stages))
    console.print(f"\nThe stages that training runs, together: {1 / found.cpu_seconds:.1f} images/s a core")
    console.print("\nThe training loader\n")
    loaders = [(loader.workers, _rates(loader.seconds), len(loader.seconds)) for loader in found.loaders]
    console.print(markdown("workers | images/s | blocks", loaders))
    if found.need is None:
        console.print("\nGive the images/s that training consumes with --need for a verdict on the loader")
        return
    console.print(f"\nFeeding {found.need:g} images/s takes {found.need * found.cpu_seconds:.2f} of a CPU "
                  "core, beside what training itself uses\n")  # fmt: skip
    console.print(verdict_table(found.verdicts))


def _rates(seconds: list[float]) -> str:
    low, high = quantiles(seconds, n=4, method="inclusive")[::2] if len(seconds) > 1 else seconds * 2
    return f"{1 / median(seconds):.1f} [{1 / high:.1f}, {1 / low:.1f}]"
