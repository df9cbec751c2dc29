"""Training and validation images, dealt so that each class is in both, by the share that each is to have.

The method is iterative stratification (Sechidis, Tsoumakas and Vlahavas, *On the Stratification of
Multi-Label Data*, ECML 2011): the rarest class is dealt first, each image to the part that lacks most of it.

Shapes: G groups of images, K classes.
"""

import re
from collections.abc import Sequence

import numpy as np

from hemnet.data.spec import DataError
from hemnet.wording import counted, examples


def groups_of(names: Sequence[str], pattern: str | None) -> list[str]:
    """Return the group of each file: what a regular expression finds in its name, or the file itself.

    Args:
        names: the paths.
        pattern: a regular expression; its first group in parentheses counts, or without any the whole match.

    Raises:
        DataError: it is no regular expression, a name has no match, or all names are in one group.
    """
    if pattern is None:
        return list(names)
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise DataError(
            f"--groups {pattern!r} is no regular expression ({error}); such as '(.*)_[0-9]+'"
        ) from None
    if bare := [name for name, match in zip(names, found, strict=True) if not match]:
        raise DataError(
            f"--groups {pattern!r} matches nothing in {counted(len(bare), 'name')} ({examples(bare)}); give "
            "a regular expression that finds in each name what images of one group have in common"
        )
    groups = [(match[1] if match.re.groups else match[0]) or "" for match in found if match]
    if len(set(groups)) < 2:
        raise DataError(
            f"--groups {pattern!r} finds {groups[0]!r} in every name, so there is one group, which cannot be "
            "split; give a regular expression that tells groups apart"
        )
    return groups


def choose_val(has_class_GK: np.ndarray, images_G: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which groups are for validation.

    Args:
        has_class_GK: (G, K) int: of each group, the number of its images that show each class. G >= 2.
        images_G: (G,) int: number of images of each group.
        share: the part of the images that validation is to have, 0 < share < 1.
        seed: of the order in which equal choices are made.

    Returns:
        (G,) bool, with at least one True and one False. A class that is in two groups or more is in both
        parts, as far as the groups allow it.
    """
    count, classes = has_class_GK.shape
    # The number of images is a class that all have; it is dealt last.
    wanted_GK = np.concatenate([has_class_GK, images_G[:, None]], axis=1).astype(float)
    shares = np.array([1 - share, share])
    lacking_2K = shares[:, None] * wanted_GK.sum(0)
    groups_K = (wanted_GK > 0).sum(0)
    # Each part is to have an image of a class in two groups or more; of one in a single group, training.
    least_K = np.where(groups_K > 1, np.where(wanted_GK > 0, wanted_GK, np.inf).min(0, initial=np.inf), 0)
    lacking_2K = np.maximum(lacking_2K, least_K)
    lacking_2K[1, groups_K < 2] = 0
    part_G = np.full(count, -1)
    order = np.random.default_rng(seed).permutation(count)
    while (left := order[part_G[order] < 0]).size:
        remaining_K = (wanted_GK[left] > 0).sum(0)
        remaining_K[:classes] = np.where(remaining_K[:classes] > 0, remaining_K[:classes], count + 2)
        remaining_K[classes] = count + 1
        k = int(remaining_K.argmin())
        for group in left[wanted_GK[left, k] > 0]:
            lacks = lacking_2K[:, k], lacking_2K[:, classes]
            part = max((1, 0), key=lambda p: (lacks[0][p], lacks[1][p]))
            part_G[group] = part
            lacking_2K[part] -= wanted_GK[group]
    if (part_G == part_G[0]).all():
        part_G[order[0]] = 1 - part_G[0]
    return part_G == 1
