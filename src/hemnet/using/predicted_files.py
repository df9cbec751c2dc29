"""The files written of segmented images: masks, overlays, confidence, probabilities, a contact sheet.

Shapes: K classes, H and W pixels, h and w of the network's input, C = 3 colour channels.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image
from torch import Tensor

from hemnet.data import DatasetSpec
from hemnet.data.transforms import Target, resize_image, resize_mask
from hemnet.figures.predictions import Shown, contact_sheet, legend, overlay, record_of, write_mask, write_png
from hemnet.runs.outputs import Origin
from hemnet.storage.destinations import named_by
from hemnet.storage.files import file_digest, replacing
from hemnet.using.overlay_video import OverlayVideo, record_of_video
from hemnet.using.pictures import Picture, Source

ON_SHEET = 12
"""How many images a contact sheet shows."""
THUMBNAIL = 320
"""Longer side of an image on the contact sheet, in pixels."""


class Prepared(NamedTuple):
    """An image that was read: (H, W, 3) uint8, (3, h, w) as given to the network, and its origin in JSON."""

    picture: Picture
    image: np.ndarray
    given: Tensor
    origin: str


class Maps(NamedTuple):
    """What was found for an image: ``classes`` (H, W) uint8, and what else is wanted, or None.

    confidence: (H, W) uint8, 255 times the probability of the class. p: (K, H, W) float16, of each class.
    """

    classes: np.ndarray
    confidence: np.ndarray | None
    p: np.ndarray | None


class Writer:
    """Writes the files of each image, of one origin, into one folder; a context that ends when all are there.

    Args:
        folder: the folder, which is made.
        origin: what the files are made from.
        spec: the classes.
        source: the images.

    Raises:
        HemnetError: the folder cannot be written to; or its legend, contact sheet or video is another's.
    """

    def __init__(self, folder: Path, origin: Origin, spec: DatasetSpec, source: Source) -> None:
        self.folder, self.origin, self.spec = folder, origin, spec
        self.about = json.dumps(origin.record())
        places = np.linspace(0, source.total - 1, min(ON_SHEET, source.total)).astype(int)
        self._on_sheet, self._sheet = {*places.tolist()}, list[Shown]()
        self._seen = 0
        self._legend, self._contact_sheet = folder / "legend.png", folder / "contact_sheet.png"
        own = [self._legend] if source.total == 1 else [self._legend, self._contact_sheet]
        for path in own:
            origin.require_own(path, record_of)
        self._several = len(own) > 1
        self._video = None if source.video is None else self._overlays(source.video, source.frames_per_second)
        with named_by("--output", folder):
            legend(self.spec, self._legend, self.about)

    def _overlays(self, video: Path, rate: float) -> OverlayVideo:
        path, hashed = self.path(video.stem, "overlay.mp4"), {"video_sha256": file_digest(video, "sha256")}
        self.origin.require_own(path, record_of_video, **hashed)
        return OverlayVideo(path, rate, json.dumps(self.origin.record() | hashed))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the contact sheet, if there were several images, and end the video.

        Raises:
            HemnetError: they cannot be written.
        """
        try:
            if kind is None:
                with named_by("--output", self.folder):
                    self._finish()
        finally:
            if self._video is not None:
                self._video.discard()

    def _finish(self) -> None:
        if self._sheet and self._several:
            contact_sheet(self._sheet, self.spec, self._contact_sheet, self.about)
        if self._video is not None:
            self._video.close()

    def path(self, name: str, addition: str) -> Path:
        """Return the path of a file of the image with this name."""
        return self.folder / f"{name}_{addition}"

    def require_own(self, name: str, image_HWC: np.ndarray) -> str:
        """Return the origin of an image's files, as JSON; it has a hash of the image too.

        Raises:
            HemnetError: the files exist, and have another origin or are of another image.
        """
        content = f"{image_HWC.shape}".encode() + image_HWC.tobytes()
        image = {"image_sha256": hashlib.sha256(content).hexdigest()}
        for addition in ("mask.png", "overlay.png", "confidence.png"):
            self.origin.require_own(self.path(name, addition), record_of, **image)
        self.origin.require_own(self.path(name, "probabilities.npz"), _record_of_numbers, **image)
        return json.dumps(self.origin.record() | image)

    def write(self, item: Prepared, maps: Maps) -> np.ndarray:
        """Write the files of an image; return its overlay. May be called by several threads."""
        name = item.picture.name
        self.path(name, "mask.png").parent.mkdir(parents=True, exist_ok=True)
        painted_HWC = overlay(item.image, maps.classes, self.spec)
        write_png(self.path(name, "overlay.png"), Image.fromarray(painted_HWC), item.origin, fast=True)
        write_mask(self.path(name, "mask.png"), maps.classes, self.spec, item.origin)
        if maps.confidence is not None:
            write_png(self.path(name, "confidence.png"), Image.fromarray(maps.confidence), item.origin)
        if maps.p is not None:
            with replacing(self.path(name, "probabilities.npz")) as part, part.open("wb") as file:
                np.savez_compressed(
                    file, probabilities=maps.p, classes=np.array(self.spec.classes), origin=item.origin
                )
        return painted_HWC

    def follow(self, item: Prepared, maps: Maps, painted_HWC: np.ndarray) -> None:
        """Take an image that was written, in the order of the source, for the contact sheet and the video."""
        if self._seen in self._on_sheet:
            longest = min(THUMBNAIL, max(maps.classes.shape))
            size = Target("size", None, longest).of(*maps.classes.shape)
            image, mask = resize_image(item.image, size), resize_mask(maps.classes, size)
            self._sheet.append(Shown(item.picture.shown, image, mask))
        self._seen += 1
        if self._video is not None:
            self._video.add(painted_HWC)


def _record_of_numbers(path: Path) -> dict[str, Any] | None:
    """Return the origin inside a file of probabilities; None if it has none."""
    try:
        with np.load(path) as found:
            record = json.loads(str(found["origin"]))
    except Exception:  # of many types: anything can be at the path
        return None
    return record if isinstance(record, dict) else None
