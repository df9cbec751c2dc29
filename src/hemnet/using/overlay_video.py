"""The overlays of a video's frames as one MP4 file, with a record of what it was made from.

Shapes: H and W pixels of a frame.
"""

import json
import os
import secrets
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hemnet.figures import ORIGIN
from hemnet.storage.files import replacing

MARK = b"free" + ORIGIN.encode() + b"\0"
"""How a box at the end of the file begins, after its length; players pass over boxes of the type "free"."""
TAIL_BYTES = 1 << 16


class OverlayVideo:
    """Joins frames to a file, which appears when it is whole.

    Where OpenCV can write no MP4 files, none is written.

    Args:
        path: the file.
        rate: frames per second.
        origin: an object in JSON, what the video was made from; `record_of_video` reads it.
    """

    def __init__(self, path: Path, rate: float, origin: str) -> None:
        self.path, self.rate, self.origin = path, rate, origin
        self._part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
        self._out: cv2.VideoWriter | None = None
        self._count = 0

    def add(self, frame_HW3: np.ndarray) -> None:
        """Add a frame, (H, W, 3) uint8 RGB; all frames have one size."""
        if self._out is None:
            size, code = frame_HW3.shape[1::-1], cv2.VideoWriter.fourcc(*"mp4v")
            self._out = cv2.VideoWriter(str(self._part), code, self.rate, size)
        if self._out.isOpened():
            self._out.write(np.ascontiguousarray(frame_HW3[..., ::-1]))
            self._count += 1

    def close(self) -> None:
        """End the file, and put it in its place.

        Raises:
            OSError: the file lacks frames, or cannot be written.
        """
        if self._out is None:
            return
        self._out.release()
        if not self._count:
            return
        written = int(cv2.VideoCapture(str(self._part)).get(cv2.CAP_PROP_FRAME_COUNT))
        if written != self._count:  # OpenCV itself does not say that the disk is full
            raise OSError(f"{max(0, written)} of {self._count} frames were written")
        about = MARK + self.origin.encode()
        with self._part.open("ab") as file:
            file.write(struct.pack(">I", 4 + len(about)) + about)
        with replacing(self.path) as new:
            os.replace(self._part, new)

    def discard(self) -> None:
        """Remove what is left of a file that did not become whole."""
        if self._out is not None:
            self._out.release()
        self._part.unlink(missing_ok=True)


def record_of_video(path: Path) -> dict[str, Any] | None:
    """Return the origin inside a file of `OverlayVideo`; None if it has none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        _, mark, text = file.read().rpartition(MARK)
    try:
        found = json.loads(text) if mark else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
