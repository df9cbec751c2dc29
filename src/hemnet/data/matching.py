"""Which mask belongs to which image.

A mask has the name of its image, or that name with one addition that is the same for all: x_mask, label-x,
x.seg. The addition is found from the names, so any will do. If that leaves an image without a mask, names
that differ in case alone are equal; and if one is still left, images too may have an addition without digits:
x_sat and x_mask. Each of the two holds only if it gives every image a mask of its own, the second only if it
also leaves no mask over.
"""

import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hemnet.data.listing import UNLABELLED_SPLIT, complain
from hemnet.wording import counted, examples

log = logging.getLogger(__name__)
PROBES = 20
"""How many names are looked for within the names of the masks."""


class Files(NamedTuple):
    """A sample's name, unique in the split, and the paths of its image and mask; the latter may be None."""

    name: str
    image: str
    mask: str | None


class Addition(NamedTuple):
    """What the name of every mask has before and behind that of its image."""

    before: str = ""
    behind: str = ""

    @property
    def sides(self) -> int:
        """How many of the two parts are empty or set off from the name: 2 for x_mask, 0 for the a of mask."""
        return (not self.before[-1:].isalnum()) + (not self.behind[:1].isalnum())

    def to(self, name: str) -> str:
        """Return the name of an image's mask."""
        return f"{self.before}{name}{self.behind}"


NOTHING = Addition()


def match_files(
    names: Iterable[str], images: Mapping[str, str], masks: Mapping[str, str], split: str = ""
) -> list[Files]:
    """Return the image and the mask of each name, in the order of `names`.

    Args:
        names: names of the samples.
        images: name -> path.
        masks: name -> path; masks of no sample are left out.
        split: if this is `UNLABELLED_SPLIT` and no sample has a mask, the samples have images alone.

    Raises:
        DataError: names without an image or without a mask, or with several masks. The message counts both
            sides and shows three examples of each.
    """
    names = list(names)
    found = [name for name in names if name in images]
    if len(found) < len(names):
        complain(_missing("image", names, images, images))
    of_mask, added = _masks_of(found, masks)
    if split == UNLABELLED_SPLIT and not of_mask:
        return images_alone(found, images)
    if len(of_mask) < len(found):
        complain(_missing("mask", found, of_mask, masks, images, added))
    return [Files(name, images[name], of_mask[name]) for name in found if name in of_mask]


def images_alone(names: Iterable[str], images: Mapping[str, str]) -> list[Files]:
    """Return samples without masks."""
    return [Files(name, images[name], None) for name in names]


def _masks_of(names: Sequence[str], masks: Mapping[str, str]) -> tuple[dict[str, str], Addition]:
    """Return the mask of each name, and the addition: by the first rule that finds all, else by the first."""
    exact = _paired(dict(zip(names, names, strict=True)), dict(zip(masks, masks, strict=True)), masks)
    if len(exact[0]) == len(names):
        return exact
    folded, of_masks = ({name: name.casefold() for name in group} for group in (names, masks))
    paired = _paired(folded, of_masks, masks)
    if len(paired[0]) == len(names):
        log.info("%s: the names of masks and images differ in case", _folder(masks))
        return paired
    paired = _paired(_cores(folded), _cores(of_masks), masks)
    if len(paired[0]) == len(names) == len(masks):
        first = names[0]
        pair = Path(paired[0][first]).name
        log.info("%s: images and masks are named like %s and %s", _folder(masks), first, pair)
        return paired
    return exact


def _paired(
    keys: Mapping[str, str], of_masks: Mapping[str, str], masks: Mapping[str, str]
) -> tuple[dict[str, str], Addition]:
    """Match names by a key of each; nothing matches if two names have one key.

    Args:
        keys: name -> key of the images.
        of_masks: name -> key of the masks.
        masks: name -> path.
    """
    keyed = {key: masks[name] for name, key in of_masks.items()}
    if len(keyed) < len(masks) or len({*keys.values()}) < len(keys):
        return {}, NOTHING
    added = _addition([*keys.values()], keyed)
    return {name: keyed[added.to(key)] for name, key in keys.items() if added.to(key) in keyed}, added


def _cores(names: Mapping[str, str]) -> dict[str, str]:
    """Return each name without what all have at their beginning and end; {} if that leaves one empty."""
    texts = [*names.values()]
    before = len(_common(texts))
    behind = len(_common([text[before:][::-1] for text in texts]))
    cores = {name: text[before : len(text) - behind] for name, text in names.items()}
    return cores if all(cores.values()) else {}


def _common(texts: Sequence[str]) -> str:
    """Return the common beginning as far as it can be an addition: without digits, ending as in img|12."""
    same = itertools.takewhile(lambda column: len({*column}) == 1, zip(*texts, strict=False))
    start = "".join(itertools.takewhile(lambda one: not one.isdigit(), (column[0] for column in same)))
    following = {_kind(text[len(start)]) for text in texts if len(text) > len(start)}
    while start and _kind(start[-1]) in following:
        following = {_kind(start[-1])}
        start = start[:-1]
    return start


def _kind(character: str) -> str:
    return "digit" if character.isdigit() else "letter" if character.isalpha() else character


def _addition(names: Sequence[str], masks: Mapping[str, str]) -> Addition:
    """Return what makes the names of most masks from those of their images; nothing if one is equal."""
    if any(name in masks for name in names):
        return NOTHING
    possible = Counter(
        Addition(mask[: at.start()], mask[at.end() :])
        for name in sorted(names, key=len, reverse=True)[:PROBES]
        for mask in masks
        for at in re.finditer(re.escape(name), mask)
    )
    # An addition beside a digit would take the mask of sample 12 for that of sample 1.
    matched = {
        added: (sum(added.to(name) in masks for name in names), added.sides)
        for added, _ in possible.most_common(PROBES)
        if not (added.before[-1:].isdigit() or added.behind[:1].isdigit())
    }
    most = max(matched.values(), default=(0, 0))
    best = [added for added, value in matched.items() if value == most]
    if not best:
        return NOTHING
    if len(best) > 1:
        complain(
            f"{_folder(masks)}: {counted(most[0], 'image')} with several masks each, named "
            f"{examples([added.to('NAME') for added in best])}; say which with a pattern, such as "
            f"data.train.masks='masks/{{split}}/{best[0].to('{name}')}'"
        )
    log.info("%s: the masks are named %s", _folder(masks), best[0].to("NAME"))
    return best[0]


def _missing(
    what: str,
    names: Sequence[str],
    found: Mapping[str, str],
    files: Mapping[str, str],
    images: Mapping[str, str] | None = None,
    added: Addition = NOTHING,
) -> str:
    """Return the message on names without a file, with examples of the files that belong to no image."""
    missing = [name for name in names if name not in found]
    said = (
        f"{_folder(files)}: no {what} for {len(missing)} of {counted(len(names), 'sample')} "
        f"({examples(missing)})"
    )
    needed = {added.to(name) for name in (names if images is None else images)}
    spare = [name for name in files if name not in needed]
    if not spare or what == "image":
        has = f"; the folder has {counted(len(files), what)} ({examples([*files])})"
        return (
            f"{said}{has}; is the set half-extracted? Extract it again, or remove these samples from the set"
        )
    return (
        f"{said}, and {counted(len(spare), 'mask')} of {len(files)} without an image ({examples(spare)}). A "
        "mask has the name of its image, or that name with one addition that is the same for all, such as "
        "NAME_mask; is the set half-extracted? Rename or restore the files, or for data=folder give the "
        "patterns of both, such as data.train.masks='masks/{split}/{name}_mask.png'"
    )


def _folder(files: Mapping[str, str]) -> str:
    return os.path.commonpath({os.path.dirname(path) for path in files.values()} or {"(no file)"})
