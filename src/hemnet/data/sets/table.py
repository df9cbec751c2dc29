"""Users' own data sets, from a table of their files, which ``hemnet init`` writes and a spreadsheet can edit.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hemnet.data.colors import packed, read_colors
from hemnet.data.listing import UNLABELLED_SPLIT, complain, require_file, require_folder
from hemnet.data.matching import Files
from hemnet.data.readers import FileReader, Fingerprint, Sample
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec, voc_colors
from hemnet.data.transforms import Target, resize_image, resize_mask
from hemnet.wording import counted, examples

COLUMNS = ("split", "image", "mask")
_LAYOUT = "any; the table has the paths of the files, from this folder"
_REMEDY = "hemnet init FOLDER writes such a table"

OTHERS: Literal["others"] = "others"
"""The value of ``ignore`` by which all labels but those of classes do not count."""
Label = int | str
"""What a class is in the masks: a grey level or palette index 0..255, or a colour, "#rrggbb"."""


class Table(FileReader):
    """Images and masks that a table names: a CSV file with the columns split, image and mask.

    Args:
        root: the folder that the paths of the table start from.
        split: the value of the column "split" in the rows that are read.
        classes: name -> label of the classes, in order. Labels that are colours say that the masks are read
            as RGB, whatever their format; labels that are numbers, as grey levels or palette indices.
        table: the CSV file, separated by commas, semicolons or tabs.
        ignore: labels that the loss and every metric leave out; "others" is every label that no class has;
            None is 255, unless that is a class or labels are colours.
        longest: samples whose longer side has more pixels are shrunk to it as they are read, the image by
            area average, the mask by the nearest label: photographs of 12 megapixels are large for a cache,
            and slow to score. None reads them as they are.

    Raises:
        DataError: the folder, the table, a column, the split or a file is missing; a row repeats an image, or
            an image is in two splits; a sample has no mask, except that all of the split "test" may have
            none; or the classes are wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: dict[str, Label],
        table: str | Path,
        ignore: list[Label] | Literal["others"] | None = None,
        longest: int | None = None,
    ) -> None:
        root = require_folder(Path(root), _LAYOUT)
        name = root.resolve().name or "table"
        spec, labels = _classes(name, classes, ignore if ignore != OTHERS else [])
        self._others = ignore == OTHERS
        # Pixels of colour masks become the position of their colour in this list, which is sorted.
        colors = sorted(label for label in labels if not isinstance(label, int))
        self._colors = np.array([packed(color) for color in colors], np.int32)
        positions = {color: i for i, color in enumerate(colors)}
        class_of_label = {positions[n] if isinstance(n, str) else n: k for n, k in labels.items()}
        if self._others:
            class_of_label = dict.fromkeys(range(256), IGNORE_INDEX) | class_of_label
        self._target, self._longest = Target("longest", None, longest), longest
        super().__init__(spec, _files(root, Path(table), split), class_of_label)

    def read(self, index: int) -> Sample:
        """Return sample `index`, in the order of the table; raises as `FileReader.read` does."""
        sample = super().read(index)
        if self._longest is None or max(sample.mask_HW.shape) <= self._longest:
            return sample
        size = self._target.of(*sample.mask_HW.shape)
        return Sample(resize_image(sample.image_HWC, size), resize_mask(sample.mask_HW, size), sample.name)

    def read_raw(self, mask: str) -> np.ndarray:
        """Return the (H, W) labels of a mask file; of a colour, its position among the declared ones."""
        if not len(self._colors):
            return super().read_raw(mask)
        color_HW = read_colors(mask)
        found_HW = np.minimum(np.searchsorted(self._colors, color_HW), len(self._colors) - 1)
        is_other_HW = self._colors[found_HW] != color_HW
        if self._others:
            found_HW[is_other_HW] = IGNORE_INDEX
        elif (unknown := np.unique(color_HW[is_other_HW])).size:
            names = [f"#{color:06x}" for color in unknown.tolist()]
            raise DataError(
                f"{mask}: {counted(len(names), 'colour')} that no class has ({examples(names)}); add the "
                "colours to data.train.classes or data.train.ignore, or correct the mask (smoothed edges mix "
                "colours)"
            )
        return found_HW.astype(np.uint8)

    def fingerprint(self) -> Fingerprint:
        """Return digests of what the samples depend on, see `FileReader.fingerprint`."""
        settings, files = super().fingerprint()
        own = repr((settings, self._colors.tolist(), self._others, self._longest))
        return Fingerprint(hashlib.sha256(own.encode()).hexdigest(), files)


def _classes(
    name: str, classes: Mapping[str, Label], ignore: Sequence[Label] | None
) -> tuple[DatasetSpec, dict[Label, int]]:
    """Return the classes, and the class of each label; colours are in lower case."""
    where = f"the classes of {name}"
    every = [_label(where, label) for label in (*classes.values(), *(ignore or ()))]
    if len({type(label) for label in every}) > 1:
        raise DataError(f"{where}: some labels are numbers and some are colours; give one kind")
    if repeated := [label for label, count in Counter(every).items() if count > 1]:
        raise DataError(f"{where}: labels repeat ({examples(repeated)}); give each label one meaning")
    labels: dict[Label, int] = {label: k for k, label in enumerate(every[: len(classes)])}
    ignored: Sequence[Label] = every[len(classes) :]
    if ignore is None and isinstance(every[0] if every else 0, int) and 255 not in labels:
        ignored = [255]
    colors = [label for label in labels if not isinstance(label, int)]
    palette = [((rgb := packed(color)) >> 16, rgb >> 8 & 255, rgb & 255) for color in colors] or voc_colors(
        0 if next(iter(classes), "") == "background" else 1, len(classes)
    )
    try:
        spec = DatasetSpec(name, tuple(classes), tuple(palette))
    except ValueError as error:
        raise DataError(f"data.train.classes: {error}; such as {{sky: 0, road: 1}}") from error
    return spec, labels | dict.fromkeys(ignored, IGNORE_INDEX)


def _label(where: str, label: Label) -> Label:
    if isinstance(label, int) and 0 <= label <= 255:
        return label
    if isinstance(label, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", label):
        return label.lower()
    raise DataError(f"{where}: the label {label!r} is no number in 0..255 and no colour such as '#ff8000'")


def read_rows(table: Path) -> list[dict[str, str]]:
    """Return the rows of a table of files, each with the columns `COLUMNS`.

    Raises:
        DataError: there is no such file, it is no text, or a column is missing.
    """
    try:
        require_file(table)
        text = table.read_text("utf-8-sig")
    except DataError as error:
        raise DataError(f"{error}; {_REMEDY}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: not a readable table ({error}); save it as CSV in UTF-8") from error
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise DataError(
            f"{table}: the first line names no column {' and no column '.join(missing)}; it must name "
            f"{', '.join(COLUMNS)}; {_REMEDY}"
        )
    return [
        {name: row[name] or "" for name in COLUMNS} | {"split": (row["split"] or "").strip()} for row in rows
    ]


def _files(root: Path, table: Path, split: str) -> list[Files]:
    """Return the samples of a split; see `Table` for what is raised."""
    rows = [row for row in read_rows(table) if any(row.values())]
    of_split: dict[str, set[str]] = {}
    for row in rows:
        of_split.setdefault(row["image"], set()).add(row["split"])
    if shared := [f"{image} in {' and '.join(sorted(s))}" for image, s in of_split.items() if len(s) > 1]:
        complain(
            f"{table}: {counted(len(shared), 'image')} in more than one split ({examples(shared)}), so "
            "scores would be of images that were trained on; remove the rows of one"
        )
    own = [row for row in rows if row["split"] == split]
    if not own:
        known = ", ".join(dict.fromkeys(row["split"] for row in rows)) or "no row"
        raise DataError(f"{table}: no row of the split {split!r}; it has {known}")
    images = [row["image"] for row in own]
    if repeated := [image for image, count in Counter(images).items() if count > 1]:
        complain(f"{table}: rows repeat an image ({examples(repeated)}); remove one of each two")
    bare = [row["image"] for row in own if not row["mask"]]
    if bare and not (split == UNLABELLED_SPLIT and len(bare) == len(own)):
        complain(
            f"{table}: {len(bare)} of {counted(len(own), f'image of {split}', f'images of {split}')} have no "
            f"mask ({examples(bare)}); add the masks, or remove the rows"
        )
    for column in ("image", "mask"):
        named = [row[column] for row in own if row[column]]
        if gone := [path for path in named if not (root / path).is_file()]:
            complain(
                f"{root}: {len(gone)} of {counted(len(named), f'{column} file')} of {table} are not there "
                f"({examples(gone)}); restore them, or set data.root to the folder that they are in"
            )
    stems = [Path(image).stem for image in images]
    count = Counter(stems)
    return [
        Files(
            stem if count[stem] == 1 else row["image"].replace("/", "-"),
            str(root / row["image"]),
            str(root / row["mask"]) if row["mask"] else None,
        )
        for row, stem in zip(own, stems, strict=True)
    ]
