"""Which mask belongs to which image.

A mask has the name of its image, or that name with one addition that is the same for all: x_mask, label-x,
x.seg. The addition is found from the names, so any will do.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    added = _addition(found, masks)
    if split == UNLABELLED_SPLIT and not any(added.to(name) in masks for name in found):
        return images_alone(found, images)
    of_mask = {name: masks[added.to(name)] for name in found if added.to(name) in masks}
    if len(of_mask) < len(found):
        complain(_missing("mask", found, of_mask, masks, images, added))
    return [Files(name, images[name], of_mask[name]) for name in found if name in of_mask]


def images_alone(names: Iterable[str], images: Mapping[str, str]) -> list[Files]:
    """Return samples without masks."""
    return [Files(name, images[name], None) for name in names]


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
