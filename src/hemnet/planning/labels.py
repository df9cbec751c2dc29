"""What the masks of a folder hold: every photograph and every mask is read once.

Shapes: H, W image height and width.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from hemnet.data.colors import read_colors
from hemnet.data.decoding import read_image, read_labels
from hemnet.data.sets.table import Label
from hemnet.data.spec import DataError
from hemnet.data.survey import by_cause
from hemnet.planning.pairs import Pair
from hemnet.wording import counted

BLOCK = 3
_SHOWN = 3
"""Examples of each cause in an error."""


class Seen(NamedTuple):
    """A photograph and its mask, as read.

    Attributes:
        size: (height, width).
        pixels: pixels of each label, or of each colour if ``colored``.
        colored: whether the mask holds colours, 0xrrggbb; else it is 8-bit with one channel.
        palette: the colour of each label in the mask; of palette images alone, else {}.
        solid: labels or colours that fill `BLOCK` x `BLOCK` pixels somewhere.
    """

    size: tuple[int, int]
    pixels: Counter[int]
    colored: bool
    palette: dict[int, str]
    solid: set[int]


@dataclass(frozen=True)
class Labels:
    """The labels of a folder's masks.

    Attributes:
        sizes: (height, width) of each photograph.
        pixels: the pixels of each label in each mask; labels are all numbers, or all colours. Without a mask,
            none.
        palette: the colour of each label, if all masks that have a palette agree.
        solid: labels that fill `BLOCK` x `BLOCK` pixels in some mask. Others are lines at most, as smoothed
            edges are.
    """

    sizes: list[tuple[int, int]]
    pixels: list[Counter[Label]]
    palette: dict[Label, str]
    solid: set[Label]

    @cached_property
    def total(self) -> Counter[Label]:
        """The pixels of each label in all masks."""
        whole: Counter[Label] = Counter()
        for pixels in self.pixels:
            whole.update(pixels)
        return whole


def read_all(root: Path, pairs: Sequence[Pair]) -> Labels:
    """Read every photograph and mask.

    Raises:
        DataError: some cannot be used; the message has each cause, with its count and examples.
    """
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda pair: _try_look(root, pair), pairs))
    if wrong := [message for message in found if isinstance(message, str)]:
        groups = by_cause(wrong)
        listed = [line for group in groups for line in (*group[:_SHOWN], *_more(len(group) - _SHOWN))]
        raise DataError(
            f"{root}: {len(wrong)} of {counted(len(pairs), 'photograph')} cannot be used; restore or remove "
            "each with its mask:\n  " + "\n  ".join(listed)
        )
    seen = [one for one in found if isinstance(one, Seen)]
    palettes: dict[int, set[str]] = {}
    for one in seen:
        for label, color in one.palette.items():
            palettes.setdefault(label, set()).add(color)
    # Files whose palettes differ number their colours each in its own way.
    colored = any(one.colored for one in seen) or any(len(colors) > 1 for colors in palettes.values())
    pixels = [_counts(one, colored) for one in seen]
    palette: dict[Label, str] = {label: next(iter(colors)) for label, colors in palettes.items()}
    solid: set[Label] = {_named(label, one, colored) for one in seen for label in one.solid}
    return Labels([one.size for one in seen], pixels, {} if colored else palette, solid)


def _counts(one: Seen, colored: bool) -> Counter[Label]:
    found: Counter[Label] = Counter()
    for value, pixels in one.pixels.items():
        found[_named(value, one, colored)] += pixels  # several values of a palette may be one colour
    return found


def _named(label: int, one: Seen, colored: bool) -> Label:
    """Return a value of a mask as a label of the folder: a number, or a colour."""
    if not colored:
        return label
    return _color(label) if one.colored else one.palette.get(label, _color(0x010101 * label))


def _color(value: int) -> str:
    return f"#{value:06x}"


def _more(count: int) -> list[str]:
    return [f"... and {count} more"] if count > 0 else []


def _try_look(root: Path, pair: Pair) -> Seen | str:
    try:
        return _look(root / pair.image, root / pair.mask if pair.mask else None)
    except DataError as error:
        return str(error)


def _look(image: Path, mask: Path | None) -> Seen:
    size = read_image(image).shape[:2]
    if mask is None:
        return Seen((size[0], size[1]), Counter(), False, {}, set())
    palette: dict[int, str] = {}
    try:
        values_HW, colored = read_labels(mask), False
    except DataError:
        values_HW, colored = read_colors(mask), True
    pixels = _counted(values_HW)
    if not colored:
        with Image.open(mask) as picture:
            table = picture.getpalette("RGB") or [] if picture.mode == "P" else []
        palette = {k: f"#{bytes(table[3 * k : 3 * k + 3]).hex()}" for k in pixels if 3 * k < len(table)}
    if values_HW.shape != size:
        turned = values_HW.shape == size[::-1]
        raise DataError(
            f"{mask}: the mask is {values_HW.shape} (height, width) but its photograph {image} is {size}; "
            + (
                "the photograph is turned by what its EXIF data say, and its mask is not: turn the mask"
                if turned
                else "the sizes must be equal: replace the wrong file"
            )
        )
    return Seen((size[0], size[1]), pixels, colored, palette, _solid(values_HW))


def _solid(values_HW: np.ndarray) -> set[int]:
    """Return the values that fill `BLOCK` x `BLOCK` pixels somewhere."""
    if min(values_HW.shape) < BLOCK:
        return set(np.unique(values_HW).tolist())
    middle_HW, whole_HW = values_HW[1:-1, 1:-1], np.True_
    for down in range(BLOCK):
        for right in range(BLOCK):
            moved_HW = values_HW[down : down + middle_HW.shape[0], right : right + middle_HW.shape[1]]
            whole_HW = whole_HW & (moved_HW == middle_HW)
    return set(np.unique(middle_HW[whole_HW]).tolist())


def _counted(values_HW: np.ndarray) -> Counter[int]:
    values, counts = np.unique(values_HW, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
