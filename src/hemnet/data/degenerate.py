"""Labels from which nothing can be learnt, or against which a score says little, found from their counts.

A mask whose objects are all ignored, or a split without a class, is no error of a file: training and scores
look well. So the counts are looked at: all of them in ``hemnet data check``, those that training and
evaluation meet in theirs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from hemnet.data.spec import IGNORE_INDEX, DatasetSpec
from hemnet.wording import counted, examples

NEARLY_ALL = 0.99
"""Share of ignored pixels from which on a split is said to be all but unlabelled."""
_FEWEST = 2


@dataclass
class LabelCounts:
    """How many pixels of a split, or of the part of it that was seen, have each mask value.

    Attributes:
        images: number of images seen.
        pixels: (256,) int64: pixels of each class, and at IGNORE_INDEX of those ignored.
        unit: what was seen, "image" or "crop".
        whole: whether the whole split was seen, so that a class without a pixel is in none of its images.
    """

    images: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    unit: str = "image"
    whole: bool = False

    def add(self, images: int, pixels: np.ndarray) -> None:
        """Add the (256,) counts of more images."""
        self.images += images
        self.pixels = self.pixels + pixels

    def absent(self, spec: DatasetSpec) -> list[str]:
        """Return the classes without a pixel."""
        return [name for name, count in zip(spec.classes, self.pixels, strict=False) if not count]


def too_few_classes(spec: DatasetSpec) -> str | None:
    """Return what is wrong with a set of fewer than two classes: its loss is 0 and its score 1 at once."""
    if spec.num_classes >= _FEWEST:
        return None
    return (
        f"{spec.name} has {counted(spec.num_classes, 'class', 'classes')} ({examples(spec.classes)}), and a "
        "network needs two or more to tell apart; declare the others too, such as "
        f"data.train.classes='[background,{spec.classes[0]}]'"
    )


def degenerate(spec: DatasetSpec, found: Mapping[str, LabelCounts]) -> dict[str, str]:
    """Return what is wrong with the labels of each split, with the remedy; sound splits are left out.

    Args:
        spec: the classes.
        found: the counts of each split, by its name; "train" is what the others are compared with.
    """
    return {
        split: f"{'; '.join(said)}{_remedy(spec, split, counts)}"
        for split, counts in found.items()
        if (said := [*_said_of(spec, split, counts, found)])
    }


def _said_of(
    spec: DatasetSpec, split: str, counts: LabelCounts, found: Mapping[str, LabelCounts]
) -> Iterator[str]:
    absent, pixels = counts.absent(spec), counts.pixels.sum()
    ignored = counts.pixels[IGNORE_INDEX] / max(1, pixels)
    images = f"{'all ' if counts.whole else ''}{counted(counts.images, counts.unit)}"
    if not pixels:
        return
    if ignored == 1:
        yield f"every pixel of {images} is ignored, so nothing is learnt or scored there"
        return
    if ignored >= NEARLY_ALL:
        yield f"{100 * ignored:.2f} % of the pixels of {images} are ignored"
    alone = len(absent) == spec.num_classes - 1
    if alone and absent:
        (only,) = set(spec.classes) - set(absent)
        yield f"every labelled pixel of {images} is {only}, so the loss and the scores say nothing"
    if absent and (counts.whole or alone):
        others = [name for name, other in found.items() if name != split and other.images]
        known = [name for name in absent if any(name not in found[other].absent(spec) for other in others)]
        yield (
            f"in {images} no pixel of: {examples(absent, 8)} ({len(absent)} of {spec.num_classes} "
            f"classes); what is absent {'cannot be learnt' if split == 'train' else 'has no true score'}"
            + (f", though {' and '.join(others)} has {examples(known, 8)}" if known else "")
        )


def _remedy(spec: DatasetSpec, split: str, counts: LabelCounts) -> str:
    if not counts.pixels[IGNORE_INDEX]:
        dealt = ", move some here from train (hemnet init deals images so that each split shows every class)"
        move = "" if split == "train" else dealt
        return f". Add images that show what is absent{move}, or leave it out of the list of classes"
    share = 100 * counts.pixels[IGNORE_INDEX] / counts.pixels.sum()
    return (
        f". {share:.1f} % of the pixels have a label that is ignored (255, unless declared otherwise): if "
        "that label means a class, declare the label of each class in a YAML file, such as "
        f"names: [{', '.join(spec.classes[:2])}{', ...' if spec.num_classes > 2 else ''}], "
        f"labels: [0, 255{', ...' if spec.num_classes > 2 else ''}], and name the file in data.train.classes "
        "(see conf/data/folder.yaml); else add images that show what is absent"
    )
