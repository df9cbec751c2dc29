"""Which files of a folder are photographs, and which are masks; and which splits their folders name.

Folders' names decide where they say it (images, labels, JPEGImages, SegmentationClass, ...); else files'
names; else what is in the files: a mask has few colours, and most of its pixels have that of their neighbour.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from hemnet.data.colors import read_colors
from hemnet.data.listing import IMAGE_SUFFIXES, MASK_SUFFIXES, require_text
from hemnet.data.spec import DataError
from hemnet.wording import counted, examples

Role = Literal["image", "mask"]

_BETWEEN = r"(?<![a-z])(?:{})(?![a-z])"
_MASK = re.compile(
    r"segmentation(?:class|object)?s?|ground[ _-]?truths?|annotations?|annots?|labelids?|labell?ed|labels?|"
    r"masks?|gtfine|" + _BETWEEN.format("gts?|segs?|lbls?|truths?|targets?")
)  # fmt: skip
_IMAGE = re.compile(
    r"jpegimages|images?|photographs?|photos?|pictures?|leftimg8bit|"
    + _BETWEEN.format("imgs?|pics?|rgb|inputs?|originals?|raw")
)
_BESIDE = re.compile(r"instance|object|visuali[sz]|overlay|colou?r|preview|" + _BETWEEN.format("viz|vis"))
"""What names of files beside the masks say: drawings of them, or masks that tell objects apart."""
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_LARGEST, _FEW_COLORS, _FLAT = 512, 64, 0.6


class Found(NamedTuple):
    """The files of a folder.

    Attributes:
        images, masks: paths from the folder, with "/", sorted.
        notes: sentences on files that were left out.
    """

    images: list[str]
    masks: list[str]
    notes: list[str]


class Place(NamedTuple):
    """Where a file is, without what its folders say of its role: what images and masks have in common.

    ``folders`` are the names of its folders, each without the words of a role, in lower case; ``split`` is
    train, val, test or "".
    """

    folders: tuple[str, ...]
    split: str


def place_of(path: str) -> Place:
    """Return the place of a path from the data set's folder."""
    folders, split = [], ""
    for part in PurePosixPath(path).parts[:-1]:
        rest = _IMAGE.sub("", _MASK.sub("", part.lower())).strip(" _-.")
        named = _SPLITS.get(re.sub(r"[\W\d_]+", "", rest))
        split = named or split
        if rest and not named:
            folders.append(rest)
    return Place(tuple(folders), split)


def find_files(root: Path, images: str | None = None, masks: str | None = None) -> Found:
    """Return which files below a folder are photographs, and which are masks.

    Args:
        root: an existing folder. Hidden entries and run directories are passed over.
        images: pattern of the photographs' paths, such as "photos/*.png"; "*" also matches "/".
        masks: pattern of the masks' paths.

    Raises:
        DataError: there are no photographs or no masks.
    """
    paths, others = _walk(root)
    roles = _roles(root, paths, images, masks)
    found: dict[Role, list[str]] = {"image": [], "mask": []}
    for path in paths:
        if path in roles:
            found[roles[path]].append(path)
    notes = _without_drawings(found) if masks is None else []
    if others:
        notes.append(f"{counted(len(others), 'other file')} left out: {_kinds(others)}")
    _require_both(root, found, others)
    return Found(found["image"], found["mask"], notes)


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Return the paths of the files that may be images, and the endings of the others."""
    paths, others, seen = [], [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or {"config.yaml", "checkpoints"} <= {*files, *folders}:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(name for name in files if not name.startswith(".")):
            if name.lower().endswith(IMAGE_SUFFIXES):
                paths.append((Path(folder) / name).relative_to(root).as_posix())
                require_text(root, paths[-1])
            else:
                others.append(Path(name).suffix.lower() or name)
    return paths, others


def _roles(root: Path, paths: Sequence[str], images: str | None, masks: str | None) -> dict[str, Role]:
    """Return the role of each path that has one."""
    if masks is not None:
        roles: dict[str, Role] = {path: "mask" for path in paths if fnmatch(path, masks)}
        rest = [path for path in paths if path not in roles and fnmatch(path, images or "*")]
        return roles | dict.fromkeys(rest, "image")
    if images is not None:
        chosen = {path for path in paths if fnmatch(path, images)}
        return {path: "image" if path in chosen else "mask" for path in paths}
    roles = {path: role for path in paths if (role := _folder_role(path))}
    if len(roles) == len(paths) and len({*roles.values()}) < 2:
        roles = {}  # one word for all tells nothing apart, as in segmentation_project/photo_1.jpg
    in_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path not in roles:
            in_folder[str(PurePosixPath(path).parent)].append(path)
    for undecided in in_folder.values():
        roles |= _by_files(root, undecided)
    return roles


def _folder_role(path: str) -> Role | None:
    """Return what the deepest folder says that names a role; a folder that names both says nothing."""
    for part in reversed(PurePosixPath(path).parts[:-1]):
        mask, image = _MASK.search(part.lower()), _IMAGE.search(part.lower())
        if mask or image:
            return None if mask and image else "mask" if mask else "image"
    return None


def _by_files(root: Path, paths: Sequence[str]) -> Iterator[tuple[str, Role]]:
    """Yield the roles of the files of one folder, whose name does not tell."""
    lossless = [path for path in paths if path.lower().endswith(MASK_SUFFIXES)]
    named = {path for path in lossless if _MASK.search(PurePosixPath(path).stem.lower())}
    if not 0 < len(named) < len(paths):
        named = {path for path in lossless if _looks_like_a_mask(root / path)}
    for path in paths:
        yield path, "mask" if path in named else "image"


def _looks_like_a_mask(path: Path) -> bool:
    """Return whether a file has few colours, in areas; False if it cannot be read."""
    try:
        color_HW = read_colors(path)
    except DataError:
        return False
    color_HW = color_HW[:_LARGEST, :_LARGEST]
    flat = (color_HW[:, 1:] == color_HW[:, :-1]).mean() if color_HW.shape[1] > 1 else 1.0
    return len(np.unique(color_HW)) <= _FEW_COLORS and bool(flat >= _FLAT)


def _without_drawings(found: dict[Role, list[str]]) -> list[str]:
    """Leave out of the masks what is no mask of classes, if there is another of the same; return notes."""
    masks, notes = found["mask"], []
    drawn = [path for path in masks if _BESIDE.search(path.lower())]
    if 0 < len(drawn) < len(masks):
        masks = [path for path in masks if not _BESIDE.search(path.lower())]
        notes.append(
            f"{counted(len(drawn), 'file')} beside the masks left out, since their names say that they are "
            f"drawings or tell objects apart ({examples(drawn)}); --masks PATTERN chooses"
        )
    lossy = [path for path in masks if not path.lower().endswith(MASK_SUFFIXES)]
    if 0 < len(lossy) < len(masks):
        masks = [path for path in masks if path.lower().endswith(MASK_SUFFIXES)]
        notes.append(f"{counted(len(lossy), 'JPEG or WebP file')} left out of the masks ({examples(lossy)})")
    found["mask"] = masks
    return notes


def _kinds(others: Iterable[str]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in Counter(others).most_common(4))


def _require_both(root: Path, found: dict[Role, list[str]], others: Iterable[str]) -> None:
    images, masks = found["image"], found["mask"]
    has = _kinds(others) or "no other file"
    if not images and not masks:
        raise DataError(f"{root}: no image in it ({has}); name the folder of the photographs and their masks")
    if not masks:
        hint = (
            "; LabelMe's JSON files become masks with its command labelme_json_to_dataset or labelme2voc"
            if ".json" in others
            else ""
        )
        raise DataError(
            f"{root}: {counted(len(images), 'photograph')} ({examples(images)}) and no mask ({has}). A mask "
            "is an image of its photograph's size that holds a class for each pixel, as PNG, in a folder "
            f"such as masks/ or beside it as NAME_mask.png; --masks PATTERN says which files they are{hint}"
        )
    if lossy := [path for path in masks if not path.lower().endswith(MASK_SUFFIXES)]:
        raise DataError(
            f"{root}: the masks are JPEG or WebP files ({examples(lossy)}), which change the labels of "
            "pixels: export them as PNG from the program that made them"
        )
    if not images:
        raise DataError(
            f"{root}: {counted(len(masks), 'mask')} ({examples(masks)}) and no photograph; "
            "--images PATTERN says which files they are"
        )
