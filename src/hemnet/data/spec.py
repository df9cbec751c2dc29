"""The classes of a data set, their colours, and the value that marks an ignored pixel.

Shapes: H, W image height and width.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from hemnet.errors import HemnetError
from hemnet.wording import counted, examples

IGNORE_INDEX = 255
"""Mask value of a pixel that the loss and every metric leave out."""

Split = Literal["train", "val", "test"]

# Black, white, middle grey, and all others, so that one is left whatever the colours of the classes are.
_GREYS = tuple((level, level, level) for level in (0, 255, 128, *range(1, 255)))


class DataError(HemnetError, RuntimeError):
    """The data on disk (or their settings) are not as expected. The message names the file and the remedy."""


@dataclass(frozen=True)
class DatasetSpec:
    """Names and colours of the classes of a data set; class k is mask value k.

    Args:
        name: short name of the data set.
        classes: class names, distinct, 1 to 255 of them.
        palette: one distinct RGB colour per class, each channel an integer in 0..255.

    Raises:
        ValueError: one of these conditions is broken.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        where = f"DatasetSpec {self.name!r}"
        if not 1 <= len(self.classes) <= IGNORE_INDEX:
            raise ValueError(f"{where}: needs 1 to {IGNORE_INDEX} classes, got {len(self.classes)}")
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"{where}: {counted(len(self.classes), 'class', 'classes')} but "
                f"{counted(len(self.palette), 'colour')}; give one each"
            )
        if repeated := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise ValueError(f"{where}: class names repeat ({examples(repeated)}); make them distinct")
        if len(set(self.palette)) != len(self.palette):
            raise ValueError(f"{where}: palette colours repeat; make them distinct")
        if any(len(rgb) != 3 or not all(0 <= channel <= 255 for channel in rgb) for rgb in self.palette):
            raise ValueError(f"{where}: a palette colour is three integers in 0..255")

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain containers, for checkpoints."""
        return {"name": self.name, "classes": list(self.classes), "palette": [list(c) for c in self.palette]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Return the spec that `to_dict` wrote."""
        palette = tuple((r, g, b) for r, g, b in content["palette"])
        return cls(content["name"], tuple(content["classes"]), palette)

    def require_same_classes(self, other: "DatasetSpec") -> None:
        """Raise a DataError unless `other` has the same class names in the same order."""
        if self.classes != other.classes:
            raise DataError(
                f"training has the {counted(self.num_classes, 'class', 'classes')} of {self.name} "
                f"({examples(self.classes)}), the evaluation's data the {other.num_classes} of "
                f"{other.name} ({examples(other.classes)}): choose data with the same classes, in one order"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, ignored pixels not counted."""
        return len(self.classes)

    @property
    def ignore_color(self) -> tuple[int, int, int]:
        """RGB colour of ignored pixels: the first of black, white and the greys that is no class's colour."""
        return next(grey for grey in _GREYS if grey not in self.palette)

    def colorize(self, mask_HW: np.ndarray) -> np.ndarray:
        """Paint a mask.

        Args:
            mask_HW: (H, W) uint8, values 0..num_classes-1 or IGNORE_INDEX.

        Returns:
            (H, W, 3) uint8 RGB.

        Raises:
            ValueError: the mask is not (H, W) uint8, or has a value that is neither a class nor ignored.
        """
        if mask_HW.dtype != np.uint8 or mask_HW.ndim != 2:
            raise ValueError(f"colorize: the mask must be (H, W) uint8, got {mask_HW.shape} {mask_HW.dtype}")
        unknown = set(np.unique(mask_HW).tolist()) - set(range(self.num_classes)) - {IGNORE_INDEX}
        if unknown:
            raise ValueError(
                f"colorize: {self.name} has classes 0..{self.num_classes - 1}, got {sorted(unknown)}"
            )
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.palette
        table[IGNORE_INDEX] = self.ignore_color
        return table[mask_HW]


def voc_colors(first: int, count: int) -> tuple[tuple[int, int, int], ...]:
    """Return colours `first`, ..., `first + count - 1` of the PASCAL VOC colour map, which do not repeat.

    Bit 3j + c of the index is bit 7 - j of channel c, so neighbouring indices get distant colours; 0 is
    black, and no colour is white.

    Args:
        first: index of the first colour, >= 0.
        count: how many, first + count <= 256.
    """
    return tuple(
        tuple(sum((index >> (3 * j + c) & 1) << (7 - j) for j in range(3)) for c in range(3))  # type: ignore[misc]
        for index in range(first, first + count)
    )
