"""Predictions as PNG files: pages beside the truth, overlays, legends and masks.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hemnet.data import IGNORE_INDEX, DatasetSpec
from hemnet.figures import ORIGIN, caption, save, styled
from hemnet.storage.files import replacing

ERROR_COLOUR = (214, 39, 40)
OPACITY = 0.55
MOST_PATCHES = 30
"""With more classes, a legend names only those that the figure shows."""


class Row(NamedTuple):
    """One sample: ``image`` (h, w, 3) uint8; ``truth`` and ``prediction`` (H, W) class indices."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


@styled
def predictions_page(
    rows: Sequence[Row],
    spec: DatasetSpec,
    path: Path,
    *,
    show_images: bool = True,
    title: str = "",
    origin: str = "{}",
) -> None:
    """Write truth, prediction and errors of each row, with a legend of the classes below, ``title`` above.

    With ``show_images`` the image comes first, and in grey behind the errors. Without photographs the page
    may be shared more freely. The origin is inside, see `write_mask`.
    """
    titles = ("image", "truth", "prediction", "errors")[0 if show_images else 1 :]
    aspects = [row.truth.shape[0] / row.truth.shape[1] for row in rows]
    patches = _patches(spec, [mask for row in rows for mask in (row.truth, row.prediction)])
    columns = min(6, len(patches))
    legend_height = 0.2 + 0.3 * -(-len(patches) // columns)
    height = 9.8 / len(titles) * sum(aspects) + legend_height + 0.3
    figure = Figure(figsize=(10, height), layout="constrained", dpi=110)
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=aspects)
    for row, cells in zip(rows, axes, strict=True):
        for cell, picture in zip(cells, _pictures(row, spec, show_images), strict=True):
            cell.imshow(picture, interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        cells[0].set_ylabel(caption(row.name, 19), fontsize=7)
    for cell, heading in zip(axes[0], titles, strict=True):
        cell.set_title(heading, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=7, wrap=True)
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False)
    save(figure, path, origin)


def _pictures(row: Row, spec: DatasetSpec, show_images: bool) -> list[np.ndarray]:
    image = cv2.resize(row.image, row.truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    grey = 128 + cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] // 2 if show_images else np.full(1, 235)
    wrong = ((row.prediction != row.truth) & (row.truth != IGNORE_INDEX))[..., None]
    errors = np.where(wrong, ERROR_COLOUR, grey).astype(np.uint8)
    maps = [spec.colorize(mask.astype(np.uint8)) for mask in (row.truth, row.prediction)]
    return [image, *maps, errors] if show_images else [*maps, errors]


def overlay(image_HWC: np.ndarray, mask_HW: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """Return an (H, W, 3) uint8 image blended with the colours of its (H, W) uint8 mask."""
    return cv2.addWeighted(spec.colorize(mask_HW), OPACITY, image_HWC, 1 - OPACITY, 0)


class Shown(NamedTuple):
    """An image of a contact sheet: ``image`` (h, w, 3) uint8, ``mask`` (h, w) class indices or ignored."""

    name: str
    image: np.ndarray
    mask: np.ndarray


@styled
def contact_sheet(items: Sequence[Shown], spec: DatasetSpec, path: Path, origin: str = "{}") -> None:
    """Write images, each beside its grey image blended with its mask, three in a row, and a legend below.

    The origin is inside, see `write_mask`.
    """
    patches = _patches(spec, [item.mask for item in items])
    patches.append(_patch("ignored", spec.ignore_color))
    rows, columns = -(-len(items) // 3), min(6, len(patches))
    aspect = max(item.mask.shape[0] / item.mask.shape[1] for item in items)
    legend_height = 0.2 + 0.3 * -(-len(patches) // columns)
    size = (10, rows * (10 / 3 * min(aspect, 2) / 2 + 0.25) + legend_height)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    for cell in (cells := figure.subplots(rows, 3, squeeze=False).ravel()):
        cell.set_axis_off()
    for item, cell in zip(items, cells, strict=False):
        grey = np.repeat(cv2.cvtColor(item.image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        painted = overlay(grey, item.mask, spec)
        cell.imshow(np.concatenate([item.image, painted], axis=1), interpolation="nearest")
        cell.set_title(caption(item.name, 39), fontsize=7)
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False)
    save(figure, path, origin)


@styled
def legend(spec: DatasetSpec, path: Path, origin: str = "{}") -> None:
    """Write a legend of the classes and their colours, with its origin inside, see `write_mask`."""
    columns = -(-spec.num_classes // 20)
    figure = Figure(figsize=(2.2 * columns, 0.24 * -(-spec.num_classes // columns) + 0.2), dpi=110)
    figure.legend(handles=_patches(spec), loc="center", ncols=columns, frameon=False)
    save(figure, path, origin)


def _patches(spec: DatasetSpec, masks: Sequence[np.ndarray] = ()) -> list[Patch]:
    """Return a legend of all classes, or of those in the masks if there are more than `MOST_PATCHES`."""
    shown: Iterable[int] = range(spec.num_classes)
    if masks and spec.num_classes > MOST_PATCHES:
        shown = set(np.concatenate([np.unique(mask) for mask in masks]).tolist()) - {IGNORE_INDEX}
    return [_patch(spec.classes[k], spec.palette[k]) for k in sorted(shown)]


def _patch(name: str, colour: tuple[int, int, int]) -> Patch:
    return Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="0.5", linewidth=0.5, label=name)


def write_mask(path: Path, classes_HW: np.ndarray, spec: DatasetSpec, origin: str = "{}") -> None:
    """Write class indices, (H, W) uint8, as a palette PNG, which viewers show in the classes' colours.

    Args:
        path: the file, which is replaced only if writing succeeds.
        classes_HW: the mask.
        spec: the classes.
        origin: an object in JSON, what the mask was made from; `record_of` reads it.
    """
    mask = Image.fromarray(classes_HW, mode="P")
    mask.putpalette([channel for colour in spec.palette for channel in colour])
    write_png(path, mask, origin)


def write_png(path: Path, picture: Image.Image, origin: str = "{}", *, fast: bool = False) -> None:
    """Write a picture with its origin inside, see `write_mask`.

    Args:
        path: the file, which is replaced only if writing succeeds.
        picture: the picture.
        origin: see `write_mask`.
        fast: whether to compress little: less than half of the time, and up to a sixth more space.
    """
    about = PngInfo()
    about.add_text(ORIGIN, origin)
    with replacing(path) as part:
        picture.save(part, format="PNG", pnginfo=about, compress_level=1 if fast else 6)


def record_of(path: Path) -> dict[str, Any] | None:
    """Return the origin inside a PNG file of `write_png` or `hemnet.figures.save`; None if it has none."""
    if not path.is_file():  # reading a pipe could wait for ever
        return None
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            found = json.loads(picture.info[ORIGIN])
    except Exception:  # of many types: anything can be at the path
        return None
    return found if isinstance(found, dict) else None
