"""Photographs with their masks and the splits that a folder has already, from the names of its files."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from hemnet.data.listing import collecting, read_list
from hemnet.data.matching import match_files
from hemnet.data.spec import DataError
from hemnet.planning.roles import Place, find_files, place_of
from hemnet.wording import counted, examples

_Groups = dict[Place, list[str]]

LISTS = ("train.txt", "val.txt")
"""Names of the files that list the samples of a split."""


class Pair(NamedTuple):
    """A photograph and its mask: paths from the data set's folder, with "/".

    The mask is "" if the images of the test split have none. ``split`` is train, val or test, or "" where the
    folder does not say.
    """

    image: str
    mask: str
    split: str


@dataclass
class Pairs:
    """The photographs of a folder that have masks.

    Attributes:
        pairs: sorted by path.
        notes: sentences on what was left out.
    """

    pairs: list[Pair]
    notes: list[str] = field(default_factory=list)

    @property
    def split(self) -> bool:
        """Whether train and val exist already."""
        return {"train", "val"} <= {pair.split for pair in self.pairs}


def find_pairs(root: Path, images: str | None = None, masks: str | None = None) -> Pairs:
    """Return the photographs below a folder with their masks, see `find_files` and `match_files`.

    A mask is looked for in the same place as its photograph (`Place`), then in places of the same folders
    without a split, then anywhere. Photographs without a mask are left out, unless masks without a
    photograph are left too: that is a mistake in the names.

    Raises:
        DataError: there are no photographs or no masks, names repeat or do not match, or a photograph has
            several masks.
    """
    found = find_files(root, images, masks)
    mask_of = _matched(root, found.images, found.masks)
    pairs = [Pair(path, mask_of[path], place_of(path).split) for path in found.images if path in mask_of]
    bare = [path for path in found.images if path not in mask_of]
    spare = sorted({*found.masks} - {*mask_of.values()})
    if not pairs or (bare and spare):
        raise DataError(
            f"{root}: {counted(len(bare), 'photograph')} without a mask ({examples(bare)}) and "
            f"{counted(len(spare), 'mask')} without a photograph ({examples(spare)}). A mask has the name of "
            "its photograph, or that name with one addition that is the same for all, such as NAME_mask.png: "
            "rename the files, or remove what does not belong; --images and --masks PATTERN say which files "
            "are meant"
        )
    if not any(pair.split == "test" for pair in pairs):
        pairs += [Pair(path, "", "test") for path in bare if place_of(path).split == "test"]
        bare = [path for path in bare if place_of(path).split != "test"]
    notes = [*found.notes]
    if bare:
        notes.append(f"{counted(len(bare), 'photograph')} without a mask left out ({examples(bare)})")
    if spare:
        notes.append(f"{counted(len(spare), 'mask')} without a photograph left out ({examples(spare)})")
    return _with_splits(root, Pairs(sorted(pairs), notes))


def _matched(root: Path, images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Return the mask of each image that has one."""
    matched = _by_place(root, _grouped(images), _grouped(masks))
    if matched:
        return matched
    # Images and masks are in folders with nothing in common but the split, such as a/ and b/.
    splits = (_grouped(paths, lambda place: Place((), place.split)) for paths in (images, masks))
    return _by_place(root, *splits)


def _by_place(root: Path, images: _Groups, masks: _Groups) -> dict[str, str]:
    matched: dict[str, str] = {}
    for place, of_place in images.items():
        for key in (place, Place(place.folders, "")):
            if key in masks:
                matched |= _match(root, of_place, masks[key])
                break
    return matched


def _grouped(paths: Iterable[str], key: Callable[[Place], Place] = lambda place: place) -> _Groups:
    groups: _Groups = defaultdict(list)
    for path in paths:
        groups[key(place_of(path))].append(path)
    return groups


def _match(root: Path, images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    named, of_masks = _by_stem(root, images, "photographs"), _by_stem(root, masks, "masks")
    with collecting() as wrong:
        # With the folder, so that a message says where.
        found = match_files(
            named,
            {n: str(root / p) for n, p in named.items()},
            {n: str(root / p) for n, p in of_masks.items()},
        )
    if len(wrong) > (len(found) < len(named)):  # not only that some have no mask
        raise DataError(
            f"{root}: {wrong[0]}. For hemnet init, --masks PATTERN says which, such as '*_mask.png'"
        )
    back = {str(root / path): path for path in (*images, *masks)}
    return {back[files.image]: back[str(files.mask)] for files in found if files.mask is not None}


def _by_stem(root: Path, paths: Sequence[str], what: str) -> dict[str, str]:
    """Return name -> path, a name being that of the file without its ending, in one Unicode form."""
    named: dict[str, str] = {}
    for path in paths:
        name = normalize("NFC", PurePosixPath(path).stem)
        if name in named:
            raise DataError(
                f"{root}: two {what} of one name, {named[name]} and {path}, so which masks belong to them is "
                "not known: remove or rename one, put each into a folder of the same name as its partner, or "
                "say with --images or --masks PATTERN which are meant"
            )
        named[name] = path
    return named


def _with_splits(root: Path, found: Pairs) -> Pairs:
    """Return the pairs with the splits that lists name, if there are lists; without halves of a split."""
    splits = {pair.split for pair in found.pairs}
    lists = {} if splits - {""} else _lists(root, found.pairs)
    pairs, notes = found.pairs, [*found.notes]
    if lists:
        pairs = [pair._replace(split=lists[pair.image]) for pair in pairs if pair.image in lists]
        if unlisted := [pair.image for pair in found.pairs if pair.image not in lists]:
            notes.append(f"{counted(len(unlisted), 'photograph')} in no list left out ({examples(unlisted)})")
    elif {"train", "val"} <= splits and "" in splits:
        beside = [pair.image for pair in pairs if not pair.split]
        pairs = [pair for pair in pairs if pair.split]
        notes.append(
            f"{counted(len(beside), 'photograph')} beside train and val left out ({examples(beside)})"
        )
    elif not {"train", "val"} <= splits:
        # Half a split says nothing of which images are for training; those of test are kept for the end.
        pairs = [
            pair if pair.split == "test" and len(splits) > 1 else pair._replace(split="") for pair in pairs
        ]
    return Pairs(pairs, notes)


def _lists(root: Path, pairs: Sequence[Pair]) -> Mapping[str, str]:
    """Return image -> split from the lists of the folder that name most of the images; {} without lists."""
    stems = {normalize("NFC", PurePosixPath(pair.image).stem): pair.image for pair in pairs}
    best: dict[str, str] = {}
    for train in sorted(root.rglob(LISTS[0])):
        if not (train.parent / LISTS[1]).is_file():
            continue
        named = {
            name: split
            for split in ("test", "val", "train")
            if (path := train.parent / f"{split}.txt").is_file()
            for name in read_list(path, "a name a line")
        }
        of_image = {stems[name]: split for name, split in named.items() if name in stems}
        if len(of_image) > len(best) and {"train", "val"} <= {*of_image.values()}:
            best = of_image
    return best
