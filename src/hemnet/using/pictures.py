"""What is to be segmented: an image, the images of a folder and the folders in it, frames of a video.

Shapes: H, W image height and width, C = 3 colour channels.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hemnet.data import IMAGE_SUFFIXES, DataError, read_image
from hemnet.data.listing import require_file, scan_tree
from hemnet.figures.predictions import record_of
from hemnet.wording import counted, examples

COUNTED = (".mp4", ".avi", ".mov", ".m4v")
"""The endings of videos whose header has the number of frames."""
VIDEO_SUFFIXES = (*COUNTED, ".mkv", ".webm", ".mpg", ".mpeg")


class Picture(NamedTuple):
    """An image to be segmented.

    name: of the files to write, without their additions and endings, such as ``trip/one``. shown: the name
    in messages. load: returns (H, W, 3) uint8 RGB, or raises.
    """

    name: str
    shown: str
    load: Callable[[], np.ndarray]


class Source(NamedTuple):
    """Images in their order.

    total: how many there are; of a video, what its header says. left_out: what of a folder is left out, and
    why, see `hemnet.data.listing.scan`. video: the file, whose frames the images are; None for images.
    """

    pictures: Iterable[Picture]
    total: int
    left_out: str = ""
    video: Path | None = None
    frames_per_second: float = 0.0


def open_source(path: Path) -> Source:
    """Return the images at a path; of a folder, without those that hemnet wrote, such as masks and overlays.

    Args:
        path: an image, a video, or a folder.

    Raises:
        DataError: there is nothing there, or the video cannot be opened.
    """
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _video(path)
        return Source([Picture(path.stem, path.name, partial(read_image, path))], 1)
    if not path.is_dir():
        raise DataError(f"no image or folder at {path}: name an image, a video, or a folder of images")
    files, left_out = scan_tree(path, IMAGE_SUFFIXES)
    if made := [name for name, file in files.items() if record_of(Path(file)) is not None]:
        left_out = "; ".join(filter(None, [left_out, f"{len(made)} that hemnet wrote ({examples(made)})"]))
        files = {name: file for name, file in files.items() if name not in {*made}}
    if not files:
        held = f", and it holds {left_out}" if left_out else ""
        raise DataError(
            f"no images in {path}: it should hold files ending in {', '.join(IMAGE_SUFFIXES)}{held}"
        )
    pictures = [
        Picture(name, str(Path(file).relative_to(path)), partial(read_image, Path(file)))
        for name, file in files.items()
    ]
    return Source(pictures, len(pictures), left_out)


def _video(path: Path) -> Source:
    require_file(path)
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(
            f"{path}: OpenCV cannot open this video; make images of it first, such as with "
            "ffmpeg -i VIDEO frames/%06d.png"
        )
    count = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    return Source(_frames(path, capture, count, rate), count, "", path, rate)


def _frames(path: Path, capture: cv2.VideoCapture, total: int, rate: float) -> Iterator[Picture]:
    """Yield the frames, which are in memory: they can only be read one after another.

    Raises:
        DataError: after the last frame that can be read, if the header of the file announces more.
    """
    number = 0
    while True:
        found, frame_HWC = capture.read()
        if not found:
            break
        number += 1
        name = f"{path.stem}/{number:06d}"
        yield Picture(name, f"frame {number}", partial(np.ascontiguousarray, frame_HWC[..., ::-1]))
    capture.release()
    # Where the header has no number of frames, it is estimated from the duration, of the sound too.
    slack = 0 if path.suffix.lower() in COUNTED else rate
    if number < max(1, total - slack):
        raise DataError(
            f"{path}: OpenCV reads {number} of {counted(total, 'frame')}, so the video is cut short or "
            "damaged; restore the file"
        )
