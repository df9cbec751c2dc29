"""Images per second of the input path: reading, augmentation, batches, and the whole training loader.

The stages run in turns in one thread; what they take of a core is measured in CPU time, which a busy machine
changes less than the clock. Then the loader of training runs with nothing else to do, for each number of
workers. Figures are medians over blocks of batches, after one that is not counted.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count as numbers
from itertools import cycle
from pathlib import Path
from statistics import median, quantiles
from time import process_time
from typing import Any

import cv2
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from hemnet.bench.options import positive, require_place, say, setting, whole
from hemnet.bench.report import Verdict
from hemnet.bench.tables import WIDTH, markdown, verdict_table
from hemnet.bench.timing import Budget, interleave
from hemnet.config.build import build_data, build_train_transform
from hemnet.config.command_line import log_to_terminal
from hemnet.config.compose import load
from hemnet.data import Batch, Cached, Reader, SegmentationData, Transform, collate
from hemnet.data.streams import stream
from hemnet.storage.files import write_json

CPU = torch.device("cpu")
MOST_BLOCKS = 1000
DECODE, READ_CACHE, AUGMENT, COLLATE = "decode", "read the cache", "augment", "collate"


@dataclass(frozen=True)
class Stage:
    """A stage in one thread: seconds an image by the clock and of CPU time, one of each a block."""

    name: str
    seconds: list[float]
    cpu_seconds: list[float]


@dataclass(frozen=True)
class Loader:
    """The training loader: seconds an image by the clock, one a block."""

    workers: int
    seconds: list[float]

    @property
    def rate(self) -> float:
        """Images per second."""
        return 1 / median(self.seconds)


@dataclass
class DataReport:
    """Everything that was measured.

    Attributes:
        environment: as in a run directory.
        data: name, training images, batch size and whether there is a cache.
        stages: in the order of the path; with a cache, training does without the first.
        loaders: by number of workers, as asked for.
        need: images per second that training takes, if known.
        verdicts: whether each loader gives that.
    """

    environment: dict[str, Any]
    data: dict[str, Any]
    stages: list[Stage] = field(default_factory=list)
    loaders: list[Loader] = field(default_factory=list)
    need: float | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def cpu_seconds(self) -> float:
        """CPU time that an image of a training batch takes."""
        unused = DECODE if self.data["cached"] else READ_CACHE
        return sum(median(stage.cpu_seconds) for stage in self.stages if stage.name != unused)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option("overrides", nargs="+", metavar="key=value", help="as for training: data=NAME data.root=FOLDER, "
           "experiment=NAME, data.cache=FOLDER ...")  # fmt: skip
    option("--workers", type=whole, nargs="+", default=[0, 1, 2], metavar="N", help="of the loader; "
           "default: 0 1 2")  # fmt: skip
    option("--seconds", type=positive, default=10.0, help="for the stages, and for each loader; up to four "
           "times that to complete five blocks; default: 10")  # fmt: skip
    option("--need", type=positive, metavar="R", help="images per second that training takes, which is "
           "batch size over seconds a step: says whether the loader gives them")  # fmt: skip
    option("--json", type=Path, metavar="FILE", help="write everything that was measured there")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what was asked for.

    Raises:
        hemnet.errors.HemnetError: the configuration or the data are wrong, or no folder for the file.
    """
    require_place(options.json)
    log_to_terminal()
    report = measure(options)
    print_report(report)
    if options.json is not None:
        write_json(options.json, asdict(report))
        print(f"\nwritten to {options.json}")


def measure(options: argparse.Namespace) -> DataReport:
    """Measure the stages, then the loader with each number of workers."""
    config = load(options.overrides)
    data = build_data(config)
    size, reader = config.data.batch_size, data.train_dataset.reader
    about = {"name": data.spec.name, "images": len(reader), "batch_size": size,
             "cached": isinstance(reader, Cached)}  # fmt: skip
    report = DataReport(setting(), about, need=options.need)
    budget = Budget(options.seconds, MOST_BLOCKS)
    with _one_thread():
        if isinstance(reader, Cached):
            reader.prepare()
        say("measuring the stages")
        report.stages = _stages(data, build_train_transform(config), size, budget)
        for workers in options.workers:
            say(f"measuring the loader, workers={workers}")
            data.num_workers = workers
            report.loaders.append(_loader(workers, data.train_dataloader(), size, budget))
    if report.need is not None:
        report.verdicts = [_judge(loader, report.need) for loader in report.loaders]
    return report


def _stages(data: SegmentationData, transform: Transform, size: int, budget: Budget) -> list[Stage]:
    dataset = data.train_dataset
    reader, length = dataset.reader, len(dataset)
    readers: dict[str, Reader] = {DECODE: reader}
    if isinstance(reader, Cached):
        readers = {DECODE: reader.reader, READ_CACHE: reader}
    samples = [reader.read(i) for i in range(min(size, length))]
    items = [dataset[i % length] for i in range(size)]
    order = stream(0, "bench").permutation(length).tolist()

    def reading(source: Reader) -> Callable[[], object]:
        turns = cycle(order)
        return lambda: source.read(next(turns))

    turns = numbers()

    def augment() -> None:
        i = next(turns)
        transform(samples[i % len(samples)], stream(0, "augment", i))

    once = {name: reading(source) for name, source in readers.items()} | {AUGMENT: augment}
    blocks = {name: _Block(work, size) for name, work in once.items()}
    blocks[COLLATE] = _Block(lambda: collate(items), 1)
    clock = interleave(list(blocks.values()), CPU, budget)
    return [
        Stage(name, [t / size for t in times], [t / size for t in block.cpu_seconds[1:]])
        for (name, block), times in zip(blocks.items(), clock, strict=True)
    ]


class _Block:
    """Some work, several times over, whose CPU time is noted."""

    def __init__(self, work: Callable[[], object], times: int) -> None:
        self._work, self._times = work, times
        self.cpu_seconds: list[float] = []

    def __call__(self) -> None:
        start = process_time()
        for _ in range(self._times):
            self._work()
        self.cpu_seconds.append(process_time() - start)


def _loader(workers: int, loader: DataLoader[Any], size: int, budget: Budget) -> Loader:
    batches = _endless(loader)
    # A worker makes whole batches, so that they come in bursts of as many as there are workers.
    block = _Block(lambda: next(batches), max(1, workers))
    (times,) = interleave([block], CPU, budget)
    return Loader(workers, [t / (size * max(1, workers)) for t in times])


def _endless(loader: DataLoader[Any]) -> Iterator[Batch]:
    for epoch in numbers():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker process."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _judge(loader: Loader, need: float) -> Verdict:
    workers = f"{loader.workers} worker{'' if loader.workers == 1 else 's'}"
    verdict = "met" if loader.rate >= need else "not met: the loader is the bottleneck"
    return Verdict(f"loader with {workers}, images/s, >= {need:g}", f"{loader.rate:.1f}", verdict)


def print_report(report: DataReport) -> None:
    """Print the tables and, if it is known what training needs, the verdicts."""
    console = Console(width=WIDTH, highlight=False, markup=False)
    about, cache = report.data, "with" if report.data["cached"] else "no"
    console.print(f"{report.environment['device']}; {about['name']}, {about['images']} training images, "
                  f"batches of {about['batch_size']}, {cache} cache")  # fmt: skip
    console.print("\nThe stages in one thread; medians, with quartiles\n")
    table = markdown("stage | ms an image | images/s | images/s a core (CPU time) | blocks")
    for stage in report.stages:
        milliseconds, rate = 1000 * median(stage.seconds), _rates(stage.seconds)
        blocks = str(len(stage.seconds))
        table.add_row(stage.name, f"{milliseconds:.2f}", rate, _rates(stage.cpu_seconds), blocks)
    console.print(table)
    console.print(f"\nAll that training takes of these: {1 / report.cpu_seconds:.1f} images/s a core")
    console.print("\nThe training loader\n")
    table = markdown("workers | images/s | blocks")
    for loader in report.loaders:
        table.add_row(str(loader.workers), _rates(loader.seconds), str(len(loader.seconds)))
    console.print(table)
    if report.need is None:
        console.print("\nSay what training takes with --need for a verdict on the loader")
        return
    console.print(f"\nFeeding {report.need:g} images/s takes {report.need * report.cpu_seconds:.2f} of a "
                  "core, which training has to spare or does without\n")  # fmt: skip
    console.print(verdict_table(report.verdicts))


def _rates(seconds: list[float]) -> str:
    low, high = quantiles(seconds, n=4, method="inclusive")[::2] if len(seconds) > 1 else seconds * 2
    return f"{1 / median(seconds):.1f} [{1 / high:.1f}, {1 / low:.1f}]"
