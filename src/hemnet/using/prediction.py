"""Segment images with a trained network: ``python -m hemnet.predict RUN INPUT``.

Shapes: B images, K classes, H and W pixels, h and w of the network's input, C = 3 colour channels.
"""

import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.machine import device_for, on_this_machine
from hemnet.config.trained import override
from hemnet.data import DataError, EvalTransform
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.runs.outputs import Origin
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.destinations import named_by, require_writable
from hemnet.training.inference import Inference, explain_memory, finite_logits
from hemnet.using.pictures import Picture, open_source
from hemnet.using.predicted_files import Maps, Prepared, Writer
from hemnet.wording import counted, shortened

log = logging.getLogger(__name__)
FOLDER = "predictions"
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """What is written of an image besides its overlay and its mask, and how many images go together.

    Attributes:
        confidence: ``x_confidence.png``, (H, W) 8-bit grey: 255 times the probability of the class.
        probabilities: ``x_probabilities.npz``, with ``probabilities`` (K, H, W) float16 and ``classes``.
        batch: images of one size that the network is given at once; None is ``data.eval_batch_size``.
    """

    confidence: bool = False
    probabilities: bool = False
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise HemnetError(f"--batch {self.batch}: give a number of 1 or more")


def predict(
    folder: str | Path,
    source: str | Path,
    which: Checkpoint,
    output: Path | None,
    assignments: Sequence[str] = (),
    wanted: Wanted | None = None,
) -> Path:
    """Write an overlay and an index mask per image, a legend, and a contact sheet; return their folder.

    Folders inside the input are kept in the output. A video has a folder of its frames, and a video of their
    overlays if OpenCV can write one. Images are read ahead and files written while the network runs.

    Each file has its origin inside, such as `hemnet.figures.predictions.record_of` reads. An image that
    cannot be segmented is logged and skipped, whatever the reason; after the others, an error names it, or a
    video that is cut short.

    Args:
        folder: the run.
        source: an image, a video, or a folder of images.
        which: the checkpoint.
        output: folder to write to; None is ``predictions`` in the run for plain inference of the last
            checkpoint, and else has the name of `Origin` too, as ``predictions-best-flip`` has.
        assignments: ``key=value`` changes to the run's config.
        wanted: what else is written; None is nothing.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or image; the folder to write to holds the
            output of another origin; or an image could not be read, segmented or written.
    """
    run = Run.open(folder)
    config = override(run.config, assignments, "predict")
    transform, inference = build_eval_transform(config), build_inference(config)
    batch = int(config.data.get("eval_batch_size", 1))
    if batch < 1:
        raise HemnetError(f"data.eval_batch_size is {batch}: give a number of 1 or more")
    origin = Origin.of(run, which, config, inference.settings)
    output = output or run.path / (FOLDER if origin.name == "last" else f"{FOLDER}-{origin.name}")
    with named_by("--output", output):
        require_writable(output, folder=True)
    pictures = open_source(Path(source))
    run.config = on_this_machine(config, assignments)
    network, spec = restore(run, which)
    network.to(device_for(run.config))
    wanted = wanted or Wanted()
    batch = wanted.batch or batch
    with Writer(output, origin, spec, pictures) as writer:
        work = Work(network, transform, inference, wanted, writer)
        done = work.segment_all(pictures.pictures, batch)
    _conclude(done, work, source, output, pictures.left_out)
    return output


def _conclude(done: int, work: "Work", source: str | Path, output: Path, left_out: str) -> None:
    failed, total = work.failed, counted(done + len(work.failed), "image")
    if work.cut_short and not done:
        raise work.cut_short
    if not done:
        raise DataError(f"none of {total} in {source} was segmented; see the messages above")
    print(f"{counted(done, 'image')} segmented, {len(failed)} not; written to {output}")
    if left_out:
        print(f"left out of {source}: {left_out}")
    if failed:
        raise DataError(
            f"{len(failed)} of {total} in {source} were not segmented: {shortened(failed, 100)}; see the "
            "messages above. All others were"
        )
    if work.cut_short:
        raise DataError(f"{work.cut_short}. What was read is segmented")


class Work:
    """Segments images: threads read and write, this one runs the network.

    Args:
        network: in eval mode, on its device.
        transform: of evaluation.
        inference: how the network is run.
        wanted: what is written.
        writer: writes it.

    Attributes:
        failed: the images that could not be read, segmented or written.
        cut_short: why there were fewer images than the source has; None if all came.
    """

    def __init__(
        self,
        network: Segmenter,
        transform: EvalTransform,
        inference: Inference,
        wanted: Wanted,
        writer: Writer,
    ) -> None:
        self.network, self.transform, self.inference = network, transform, inference
        self.wanted, self.writer = wanted, writer
        self.device = next(network.parameters()).device
        self.failed: list[str] = []
        self.cut_short: DataError | None = None

    def segment_all(self, pictures: Iterable[Picture], batch: int) -> int:
        """Segment images, ``batch`` of one size at once; return how many were."""
        done, threads = 0, min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads) as pool:
            found = self._segmented(_groups(self._read(pool, pictures, 2 * batch), batch))
            for (item, maps), writing in _ahead(
                pool, found, lambda job: self.writer.write(*job), 2 * threads
            ):
                with self._passing_over(item.picture):
                    self.writer.follow(item, maps, writing.result())
                    done += 1
        return done

    def _read(self, pool: ThreadPoolExecutor, pictures: Iterable[Picture], ahead: int) -> Iterator[Prepared]:
        for picture, reading in _ahead(pool, self._all_of(pictures), self._prepare, ahead):
            item = None
            with self._passing_over(picture):
                item = reading.result()
            if item is not None:
                yield item

    def _all_of(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        try:
            yield from pictures
        except DataError as error:  # those that came are segmented all the same
            self.cut_short = error

    def _prepare(self, picture: Picture) -> Prepared:
        image_HWC = picture.load()
        origin = self.writer.require_own(picture.name, image_HWC)
        return Prepared(picture, image_HWC, self.transform.prepare(image_HWC), origin)

    def _segmented(self, groups: Iterable[list[Prepared]]) -> Iterator[tuple[Prepared, Maps]]:
        """Segment the images of a group at once, or, if that fails, one after another."""
        for group in groups:
            found: list[Maps] = []
            try:
                found = self._maps(group) if len(group) > 1 else []
            except Exception as error:  # of any type; each image is tried, and it is said which fails
                log.debug("%d images at once: %s", len(group), error)
            if found:
                yield from zip(group, found, strict=True)
                continue
            for item in group:
                alone: list[Maps] = []
                with self._passing_over(item.picture):
                    alone = self._maps([item])
                yield from ((item, maps) for maps in alone)

    @torch.inference_mode()
    def _maps(self, group: list[Prepared]) -> list[Maps]:
        """Return what is found for images of one size.

        Raises:
            HemnetError: the network's output for one of them is not finite.
        """
        image_BChw = torch.stack([item.given for item in group]).to(self.device)
        size = group[0].image.shape[:2]
        logits_BKHW = finite_logits(lambda x, s: self.network(x, s).logits, image_BChw, size, self.inference)
        classes_BHW = logits_BKHW.argmax(1).to("cpu", torch.uint8).numpy()
        if not (self.wanted.confidence or self.wanted.probabilities):
            return [Maps(classes_HW, None, None) for classes_HW in classes_BHW]
        p_BKHW = logits_BKHW.softmax(1)
        confidence_BHW = (255 * p_BKHW.amax(1)).round().to("cpu", torch.uint8).numpy()
        half_BKHW = p_BKHW.to("cpu", torch.float16).numpy() if self.wanted.probabilities else None
        return [
            Maps(
                classes_BHW[i],
                confidence_BHW[i] if self.wanted.confidence else None,
                None if half_BKHW is None else half_BKHW[i],
            )
            for i in range(len(group))
        ]

    @contextmanager
    def _passing_over(self, picture: Picture) -> Iterator[None]:
        """Log an error in the block, and note whose it is."""
        name = picture.shown
        try:
            with explain_memory([name]):
                yield
            return
        except HemnetError as error:
            log.error("%s: %s", name, error)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                log.error("%s: its name is too long for the files to write", name)
            else:
                log.error("%s: cannot be written (%s): make room, or choose another --output", name, error)
        except Exception as error:  # the other images can still be segmented
            log.error("%s: not segmented (%s: %s)", name, type(error).__name__, error)
        self.failed.append(name)


def _size(item: Prepared) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return item.image.shape, tuple(item.given.shape)


def _groups(items: Iterable[Prepared], batch: int) -> Iterator[list[Prepared]]:
    """Yield items in lists of up to ``batch`` that follow one another and have one size."""
    group: list[Prepared] = []
    for item in items:
        if group and (len(group) == batch or _size(item) != _size(group[0])):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _ahead(
    pool: ThreadPoolExecutor, items: Iterable[T], work: Callable, most: int
) -> Iterator[tuple[T, Future]]:
    """Yield each item with the future of the work on it, in order; the work on ``most`` more has begun."""
    begun: deque[tuple[T, Future]] = deque()
    for item in items:
        begun.append((item, pool.submit(work, item)))
        if len(begun) > most:
            yield begun.popleft()
    yield from begun
