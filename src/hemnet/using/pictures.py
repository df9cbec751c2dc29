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

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


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
    why, see `hemnet.data.listing.scan`. frames_per_second: of a video; None for images.
    """

    pictures: Iterable[Picture]
    total: int
    left_out: str = ""
    frames_per_second: float | None = None


def open_source(path: Path, output: Path) -> Source:
    """Return the images at a path.

    Args:
        path: an image, a video, or a folder.
        output: the folder to write to, which is left out if it is inside.

    Raises:
        DataError: there is nothing there, or the video cannot be opened.
    """
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _video(path)
        return Source([Picture(path.stem, path.name, partial(read_image, path))], 1)
    if not path.is_dir():
        raise DataError(f"no image or folder at {path}: name an image, a video, or a folder of images")
    files, left_out = scan_tree(path, IMAGE_SUFFIXES, without=output)
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
    return Source(_frames(path, capture), count, frames_per_second=capture.get(cv2.CAP_PROP_FPS) or 25.0)


def _frames(path: Path, capture: cv2.VideoCapture) -> Iterator[Picture]:
    """Yield the frames, which are in memory: they can only be read one after another."""
    number = 0
    while True:
        found, frame_HWC = capture.read()
        if not found:
            break
        number += 1
        name = f"{path.stem}/{number:06d}"
        yield Picture(name, f"frame {number}", partial(np.ascontiguousarray, frame_HWC[..., ::-1]))
    capture.release()
    if not number:
        raise DataError(f"{path}: OpenCV reads no frame of this video; restore the file")
