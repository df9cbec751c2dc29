"""What the masks of a folder hold: every photograph and every mask is read once.

Shapes: H, W image height and width.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
        labels: pixels of each label, numbers if the mask is 8-bit with one channel; else None.
        colors: pixels of each colour.
        palette: the colour of each label in the mask; of palette images alone, else {}.
        solid: labels, or colours if ``labels`` is None, that fill `BLOCK` x `BLOCK` pixels somewhere.
    """

    size: tuple[int, int]
    labels: Counter[int] | None
    colors: Counter[str]
    palette: dict[int, str]
    solid: set[int]


@dataclass(frozen=True)
class Labels:
    """The labels of a folder's masks.

    Attributes:
        sizes: (height, width) of each photograph.
        pixels: the pixels of each label in each mask; of colours if ``colored``. Without a mask, none.
        colored: whether labels are colours.
        palette: the colour of each label, if all masks that have a palette agree.
        solid: labels that fill `BLOCK` x `BLOCK` pixels in some mask. Others are lines at most, as smoothed
            edges are.
    """

    sizes: list[tuple[int, int]]
    pixels: list[Counter[Label]]
    colored: bool
    palette: dict[Label, str]
    solid: set[Label]

    @property
    def total(self) -> Counter[Label]:
        """The pixels of each label in all masks."""
        return sum(self.pixels, Counter())


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
    colored = any(one.labels is None for one in seen) or any(len(colors) > 1 for colors in palettes.values())
    pixels = [_as_labels(one.colors if colored else one.labels or {}) for one in seen]
    palette: dict[Label, str] = {label: next(iter(colors)) for label, colors in palettes.items()}
    solid: set[Label] = {_named(label, one, colored) for one in seen for label in one.solid}
    return Labels([one.size for one in seen], pixels, colored, {} if colored else palette, solid)


def _named(label: int, one: Seen, colored: bool) -> Label:
    """Return a value of a mask as a label of the folder: a number, or a colour."""
    if not colored:
        return label
    return _color(label) if one.labels is None else one.palette.get(label, _color(0x010101 * label))


def _color(value: int) -> str:
    return f"#{value:06x}"


def _as_labels(counts: Mapping[int, int] | Mapping[str, int]) -> Counter[Label]:
    return Counter(dict(counts.items()))


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
        return Seen((size[0], size[1]), Counter(), Counter(), {}, set())
    labels, palette = None, {}
    try:
        values_HW = read_labels(mask)
        labels = _counted(values_HW)
        with Image.open(mask) as picture:
            table = picture.getpalette("RGB") or [] if picture.mode == "P" else []
        palette = {
            k: "#{:02x}{:02x}{:02x}".format(*table[3 * k : 3 * k + 3]) for k in labels if 3 * k < len(table)
        }
        colors = Counter({palette.get(k, _color(0x010101 * k)): n for k, n in labels.items()})
    except DataError:
        values_HW = read_colors(mask)
        colors = Counter({_color(color): n for color, n in _counted(values_HW).items()})
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
    return Seen((size[0], size[1]), labels, colors, palette, _solid(values_HW))


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
