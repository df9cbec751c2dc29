"""``hemnet init``: from a folder of photographs to a recipe and a table of its files."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hemnet.config.compose import register_recipe
from hemnet.config.paths import EXPERIMENTS
from hemnet.data.listing import require_text
from hemnet.data.sets.table import COLUMNS, read_rows
from hemnet.data.spec import DataError
from hemnet.planning.classes import choose_classes
from hemnet.planning.labels import read_all
from hemnet.planning.measuring import measure
from hemnet.planning.pairs import Pair, Pairs, find_pairs
from hemnet.planning.recipe import Plan, recipe_name, recipe_text
from hemnet.planning.settings import settings_for, steps_in
from hemnet.planning.splitting import choose_val, groups_of
from hemnet.storage.files import replacing, write_table
from hemnet.wording import counted, examples

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """What a user may say; all has a default that is read off the folder.

    Attributes:
        name: of the recipe; None is the folder's.
        classes: names of the labels in ascending order, or NAME=LABEL each.
        images, masks: patterns of the paths, see `find_files`.
        groups: a regular expression, see `groups_of`.
        val_share: the part of the images for validation, 0 < val_share < 1.
        seed: of the split.
        minutes: training is to take about so long, > 0.
    """

    name: str | None = None
    classes: Sequence[str] = ()
    images: str | None = None
    masks: str | None = None
    groups: str | None = None
    val_share: float = 0.2
    seed: int = 0
    minutes: float = 10.0


@dataclass(frozen=True)
class Written:
    """The files of a recipe, and the plan; None if the files were there already."""

    recipe: Path
    table: Path
    plan: Plan | None
    notes: Sequence[str] = ()


def init(root: Path, wishes: Wishes, folder: Path) -> Written:
    """Write ``NAME.yaml`` and ``NAME.csv`` for a folder of photographs and masks; existing files stay.

    Args:
        root: the folder of the photographs and masks, which exists.
        wishes: what the user says.
        folder: where the files are written: ``experiments`` of the working folder.

    Raises:
        DataError: the folder cannot be trained on, or other files of these names exist.
        HemnetError: the recipe cannot be trained with on this machine.
    """
    if not 0 < wishes.val_share < 1 or not wishes.minutes > 0:
        raise DataError(
            f"--val-share is {wishes.val_share}, --minutes {wishes.minutes}; give the first between 0 and 1, "
            "the second above 0"
        )
    for part in (root.absolute(), *root.absolute().parents):
        require_text(part.parent, part.name)
    name = wishes.name or recipe_name(root)
    recipe, table = folder / f"{name}.yaml", folder / f"{name}.csv"
    _require_name(name, recipe)
    found = find_pairs(root, wishes.images, wishes.masks)
    if recipe.exists() or table.exists():
        _require_same(recipe, table, found)
        return Written(recipe, table, None)
    log.info("%s: reading %s and their masks", root, counted(len(found.pairs), "photograph"))
    plan = _planned(root, table, found, wishes)
    plan = _with_time(plan, name, wishes.minutes)
    try:
        write_table(table, COLUMNS, _rows(plan.pairs))
        with replacing(recipe) as part:
            part.write_text(recipe_text(plan, name), "utf-8")
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error}); work in another folder") from error
    return Written(recipe, table, plan, found.notes)


def _require_name(name: str, recipe: Path) -> None:
    if recipe_name(Path(name)) != name:
        raise DataError(f"--name {name!r}: give letters, digits, _ and - alone")
    if not recipe.exists() and (EXPERIMENTS / recipe.name).exists():
        raise DataError(f"{name} is a recipe that hemnet has; give another with --name")


def _rows(pairs: Sequence[Pair]) -> list[tuple[str, str, str]]:
    return [
        (pair.split, pair.image, pair.mask)
        for pair in sorted(pairs, key=lambda pair: (pair.split, pair.image))
    ]


def _require_same(recipe: Path, table: Path, found: Pairs) -> None:
    """Raise unless both files exist and the table has the photographs that were found, in whatever splits."""
    remedy = (
        "--name NAME makes another recipe; or remove both files first, which loses what you changed in them"
    )
    for path, other in ((recipe, table), (table, recipe)):
        if not path.exists():
            raise DataError(f"{other} exists and {path} does not, and nothing was written; {remedy}")
    has = {(row["image"], row["mask"]) for row in read_rows(table)}
    now = {(pair.image, pair.mask) for pair in found.pairs}
    if more := sorted(image for image, _ in now - has):
        raise DataError(
            f"{table} exists, and lacks {counted(len(more), 'photograph')} that the folder has with a mask "
            f"({examples(more)}); add the rows, or {remedy}"
        )
    if gone := sorted(image for image, _ in has - now):
        raise DataError(
            f"{table} exists, and {counted(len(gone), 'row')} of it names files that are not in the folder "
            f"({examples(gone)}); remove the rows, or {remedy}"
        )


def _planned(root: Path, table: Path, found: Pairs, wishes: Wishes) -> Plan:
    labels = read_all(root, found.pairs)
    classes = choose_classes(root, labels, wishes.classes)
    pairs, split_by = list(found.pairs), "as the folder had them"
    if not found.split:
        presence = [[label in pixels for label in classes.labels.values()] for pixels in labels.pixels]
        pairs = _dealt(root, pairs, np.array(presence), wishes)
        split_by = f"dealt by class with seed {wishes.seed}"
        split_by += f", groups {wishes.groups!r} kept together" if wishes.groups else ""
    train = [size for pair, size in zip(pairs, labels.sizes, strict=True) if pair.split != "test"]
    count = sum(pair.split == "train" for pair in pairs)
    where = _as_written(root)
    return Plan(
        where, _as_written(table), pairs, labels, classes, split_by, settings_for(train, count), None
    )  # fmt: skip


def _as_written(path: Path) -> str:
    """Return a path as a recipe names it: from the working folder, if it is below."""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def _dealt(root: Path, pairs: list[Pair], presence_NK: np.ndarray, wishes: Wishes) -> list[Pair]:
    """Return the pairs, those without a split being dealt to train and val."""
    own = [i for i, pair in enumerate(pairs) if not pair.split]
    if len(own) < 2:
        raise DataError(
            f"{root}: {counted(len(own), 'photograph')} with a mask, and two are needed: one to train on "
            "and one to validate on; label more (some 50 are a good start)"
        )
    groups = groups_of([pairs[i].image for i in own], wishes.groups)
    number = {group: g for g, group in enumerate(dict.fromkeys(groups))}
    group_N = np.array([number[group] for group in groups])
    counts_GK = np.zeros((len(number), presence_NK.shape[1]), int)
    np.add.at(counts_GK, group_N, presence_NK[own])
    val_G = choose_val(counts_GK, np.bincount(group_N), wishes.val_share, wishes.seed)
    for i, g in zip(own, group_N, strict=True):
        pairs[i] = pairs[i]._replace(split="val" if val_G[g] else "train")
    return pairs


def _with_time(plan: Plan, name: str, minutes: float) -> Plan:
    """Return the plan with what training costs here, and with as many steps as fit into the time."""
    with tempfile.TemporaryDirectory(prefix="hemnet-") as folder:
        table, recipe = Path(folder) / f"{name}.csv", Path(folder) / f"{name}.yaml"
        write_table(table, COLUMNS, _rows(plan.pairs))
        recipe.write_text(recipe_text(replace(plan, table=str(table)), name), "utf-8")
        register_recipe(recipe)
        log.info("measuring two steps of training")
        measured = measure(name)
    settings, images = plan.settings, plan.count("val")
    steps, every = steps_in(
        60 * minutes, measured.seconds_per_step, images * measured.seconds_per_image, settings.steps
    )
    return replace(plan, measured=measured, settings=replace(settings, steps=steps, every=every))


def summary(plan: Plan) -> list[tuple[str, str, str, str, str]]:
    """Return a row for each class: name, label, percentage of the pixels, images of train and of val."""
    shares, train, val = plan.shares(), plan.images_with("train"), plan.images_with("val")
    return [
        (name, str(label), f"{100 * shares[name]:.2f}", str(train[name]), str(val[name]))
        for name, label in plan.classes.labels.items()
    ]
