"""Classes from the labels of masks: which labels count, and what they are called."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hemnet.data.sets.table import OTHERS, Label
from hemnet.data.spec import IGNORE_INDEX, DataError
from hemnet.planning.class_names import Names, find_names
from hemnet.planning.labels import Labels
from hemnet.wording import counted, examples

MOST = 64
"""More labels are taken for smoothed edges, or for another kind of image, unless they are 0, 1, 2, ..."""
THIN = 3
"""So many labels that are lines at most are taken for smoothed edges, unless labels are 0, 1, 2, ..."""


@dataclass
class Classes:
    """The classes of a folder.

    Attributes:
        labels: name -> label, in order.
        ignore: labels that do not count, or all others.
        notes: sentences on what was assumed.
    """

    labels: dict[str, Label]
    ignore: list[Label] | Literal["others"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def choose_classes(root: Path, found: Labels, given: Sequence[str] = ()) -> Classes:
    """Return the classes of the masks.

    255 does not count, unless it is one of two labels, or of grey levels that are spread evenly. Names come
    from ``given``, or from a file in the folder, see `find_names`; without either they are background and
    object, or class_LABEL.

    Args:
        root: the folder.
        found: the labels.
        given: the names of the labels in ascending order; or NAME=LABEL each, and other labels do not count.

    Raises:
        DataError: there is one label, or there are too many; or the names do not fit.
    """
    total = found.total
    labels = sorted(total, key=_order)
    if len(labels) < 2:
        raise DataError(
            f"{root}: every pixel of every mask has the label {examples(labels)}, and a network needs two "
            "classes or more to tell apart. Are these the masks, and do they hold the classes?"
        )
    if any("=" in name for name in given):
        return _chosen(root, total, given)
    _require_classes(root, labels, found)
    names = find_names(root)
    ignore: list[Label] = [label for label in labels if label in names.ignore]
    if (
        IGNORE_INDEX in labels
        and len(labels) > 2
        and IGNORE_INDEX not in {*ignore, *names.of_label}
        and not _spread(labels)
    ):
        ignore.append(IGNORE_INDEX)
    kept = [label for label in labels if label not in ignore]
    made = _named(root, kept, names, given, found)
    made.ignore = ignore
    if ignore:
        share = sum(total[label] for label in ignore) / total.total()
        made.notes.append(f"the label {examples(ignore)} does not count ({100 * share:.1f} % of the pixels)")
    return made


def _require_classes(root: Path, labels: Sequence[Label], found: Labels) -> None:
    """Raise unless all labels can be classes, or 255 what does not count."""
    numbers = [label for label in labels if isinstance(label, int) and label != IGNORE_INDEX]
    numbered = len(numbers) >= len(labels) - 1 and numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    thin = [label for label in labels if label not in found.solid]
    what = "colours" if isinstance(labels[0], str) else "labels"
    if not numbered and len(thin) >= THIN:
        solid = [label for label in labels if label in found.solid]
        share = sum(found.total[label] for label in solid) / found.total.total()
        raise DataError(
            f"{root}: {len(thin)} of the {len(labels)} {what} of the masks are nowhere more than a line "
            f"({examples(thin, 5)}); the others have {100 * share:.1f} % of the pixels. Smoothed edges, made "
            "by resizing or by a lossy format, mix labels: save the masks without smoothing, or name the "
            f"classes, and other {what} do not count: {_option(solid[:8])}"
        )
    # No mask of classes is known that has all grey levels.
    if len(numbers) >= IGNORE_INDEX - 1 or (not numbered and len(labels) > MOST):
        raise DataError(
            f"{root}: the masks have {len(labels)} {what} ({examples(labels, 5)}), too many for classes. Are "
            "these the masks? If they are, name the classes, and other labels do not count: "
            f"{_option(sorted((label for label, _ in found.total.most_common(3)), key=_order))}"
        )
    if len(labels) == 3 and labels[2] in (IGNORE_INDEX, "#ffffff"):
        _require_one_spelling(root, labels, found)


def _require_one_spelling(root: Path, labels: Sequence[Label], found: Labels) -> None:
    """Raise if some masks call an object 1, say, and others 255."""
    if any(labels[1] in pixels and labels[2] in pixels for pixels in found.pixels):
        return
    one, other = (counted(sum(label in n for n in found.pixels), "mask") for label in labels[1:])
    raise DataError(
        f"{root}: {one} with the label {labels[1]} and {other} with {labels[2]}, none with both: is one "
        "class spelled in two ways? Write the masks alike; or, if these are two classes or one does not "
        f"count, name those that do: {_option(labels)}"
    )


def _spread(labels: Sequence[Label]) -> bool:
    """Return whether labels are grey levels spread evenly, as 0, 127, 255; then 255 is a class."""
    levels = [round(IGNORE_INDEX * k / (len(labels) - 1)) for k in range(len(labels))]
    return all(isinstance(n, int) and abs(n - level) <= 1 for n, level in zip(labels, levels, strict=True))


def _option(labels: Sequence[Label]) -> str:
    return "--classes " + " ".join(f"'class_{str(label).removeprefix('#')}={label}'" for label in labels)


def _order(label: Label) -> tuple[bool, Label]:
    return isinstance(label, str), label


def _chosen(root: Path, total: Counter[Label], given: Sequence[str]) -> Classes:
    """Return the classes that the user gives as NAME=LABEL; no other label counts."""
    labels: dict[str, Label] = {}
    for item in given:
        name, equals, text = item.rpartition("=")
        label: Label = int(text) if text.isdecimal() else text.lower()
        if not equals or not name or name in labels or label in labels.values():
            raise DataError(
                f"--classes {item!r}: give each class once, as NAME=LABEL, such as road=7 or 'sky=#80c0ff'"
            )
        if label not in total:
            known = examples([found for found, _ in total.most_common()], 8)
            raise DataError(f"--classes {item!r}: no mask in {root} has this label; they have {known}")
        labels[name] = label
    others = sorted((label for label in total if label not in labels.values()), key=str)
    share = sum(total[label] for label in others) / total.total()
    note = (
        f"{counted(len(others), 'other label')} ({examples(others)}) left out, {100 * share:.1f} % of the "
        "pixels"
    )
    return Classes(labels, OTHERS if others else [], [note] if others else [])


def _named(root: Path, kept: list[Label], names: Names, given: Sequence[str], found: Labels) -> Classes:
    """Return the labels with their names, and where these come from."""
    where = "--classes" if given else names.where
    if given and len(given) != len(kept):
        raise DataError(
            f"--classes: {counted(len(given), 'name')} for {counted(len(kept), 'label')} "
            f"({examples(kept, 8)}) in the masks of {root}; give a name each, or NAME=LABEL"
        )
    name_of = dict(zip(kept, given, strict=True)) if given else names.of(kept, found.palette)
    notes = [f"the names of the classes are from {where}"] if name_of else []
    if unnamed := [label for label in kept if label not in name_of]:
        binary = len(kept) == 2 and kept[0] in (0, "#000000")
        default = dict(zip(kept, ("background", "object"), strict=True)) if binary else {}
        name_of |= {label: default.get(label, f"class_{str(label).removeprefix('#')}") for label in unnamed}
        notes.append(
            f"no file says what {counted(len(unnamed), 'class is', 'classes are')} called; change the names "
            f"in the recipe, or give --classes{' NAME' * len(kept)}"
        )
    labels = {name_of[label]: label for label in kept}
    if len(labels) < len(kept):
        every = examples([name_of[label] for label in kept], 8)
        raise DataError(f"{where}: names of classes repeat ({every}); make them distinct")
    return Classes(labels, notes=notes)
