"""Names of classes from the files that annotation programs write beside masks."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hemnet.data.sets.folder import own_classes
from hemnet.data.sets.table import Label
from hemnet.data.spec import IGNORE_INDEX


class Names(NamedTuple):
    """Names of classes.

    Attributes:
        of_label: the name of each label, a number or a colour "#rrggbb".
        ordered: the names of the labels 0, 1, ..., if the file has no labels.
        ignore: labels that do not count.
        where: the file.
    """

    of_label: dict[Label, str]
    ordered: list[str]
    ignore: list[Label]
    where: str

    def of(self, labels: Sequence[Label], palette: Mapping[Label, str]) -> dict[Label, str]:
        """Return the name of each of these labels that has one, by itself or by its colour in the palette."""
        found: dict[Label, str] = {}
        for label in labels:
            if name := self.of_label.get(label) or self.of_label.get(palette.get(label, "")):
                found[label] = name
            elif isinstance(label, int) and label < len(self.ordered):
                found[label] = self.ordered[label]
        return found


def find_names(root: Path) -> Names:
    """Return the names in the first of these files in a folder or in one of its folders; else none.

    - classes.yaml or classes.yml: as for data=folder, see `hemnet.data.sets.folder.own_classes`;
    - labelmap.txt of CVAT: NAME:RED,GREEN,BLUE:...;
    - a CSV file whose name has "class": with the columns name, r, g, b, or "Pixel Value" and "Class";
    - classes.txt, labels.txt, class_names.txt or obj.names: a name a line.

    Raises:
        DataError: a YAML file of classes is wrong.
    """
    readers: tuple[tuple[str, Callable[[Path], Names | None]], ...] = (
        ("classes.y*ml", _yaml), ("labelmap.txt", _cvat), ("*class*.csv", _table), ("classes.txt", _lines),
        ("labels.txt", _lines), ("class_names.txt", _lines), ("obj.names", _lines),
    )  # fmt: skip
    for pattern, read in readers:
        for path in (*sorted(root.glob(pattern)), *sorted(root.glob(f"*/{pattern}"))):
            if (names := read(path)) is not None:
                return names
    return Names({}, [], [], "")


def _yaml(path: Path) -> Names:
    spec, class_of_label = own_classes(path, path.parent)
    ignore: list[Label] = [label for label, k in class_of_label.items() if k == IGNORE_INDEX]
    of_label: dict[Label, str] = {
        label: spec.classes[k] for label, k in class_of_label.items() if k != IGNORE_INDEX
    }
    return Names(of_label, [], ignore, path.name)


def _text(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _cvat(path: Path) -> Names | None:
    found: dict[Label, str] = {}
    for line in _text(path):
        name, _, rest = line.partition(":")
        channels = rest.partition(":")[0].split(",")
        if color := _color(channels):
            found[color] = name.strip()
    return Names(found, [], [], path.name) if found else None


def _table(path: Path) -> Names | None:
    rows = list(csv.DictReader(_text(path), skipinitialspace=True))
    found: dict[Label, str] = {}
    for row in rows:
        cells = {(key or "").strip().lower(): str(value).strip() for key, value in row.items()}
        name = cells.get("name") or cells.get("class") or cells.get("label") or ""
        color = _color([cells.get(channel, "") for channel in "rgb"])
        color = color or _color([cells.get(channel, "") for channel in ("red", "green", "blue")])
        if name and color:
            found[color] = name
        elif name and cells.get("pixel value", "").isdecimal():
            found[int(cells["pixel value"])] = name
    return Names(found, [], [], path.name) if found else None


def _lines(path: Path) -> Names | None:
    names = [line for line in _text(path) if line != "__ignore__"]
    return Names({}, [name.strip("_") for name in names], [], path.name) if names else None


def _color(channels: list[str]) -> str | None:
    values = [int(channel) for channel in channels if channel.strip().isdecimal()]
    if len(values) != 3 or max(values) > 255:
        return None
    return "#{:02x}{:02x}{:02x}".format(*values)
