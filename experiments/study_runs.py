"""The runs that the tests of STUDY.md compare: those of a recipe, and those of a family of tests."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from study_finished import Finished, Setting

from hemnet.errors import HemnetError
from hemnet.report.collect import collect
from hemnet.runs.moved import ROOT
from hemnet.runs.run import Run

# Keys in which the runs of one family may differ, and those in which runs of different heads may.
# That of the data's folder is among the circumstances of a run.
FREE = {"data.seed", ROOT} | {
    f"model.head.{key}" for key in ("highway_scale", "iterations", "assignment", "variance")
}
# Keys of the controls, which a run's cell names.
FREE |= {"trainer.gradient_clip_val", "optim.optimizer.betas"}
FREE |= {f"model.head.{key}" for key in ("correct_momentum", "gradient", "normalize")}
KINDS = {"model.head._target_"}


class Read(NamedTuple):
    """The finished runs of a recipe, and which others, or files of theirs, are left out, with the reason."""

    finished: list[Finished]
    left_out: list[str]


def read_runs(folders: Sequence[Path], experiment: str) -> Read:
    """Return the runs of a recipe in the folders.

    Recipes that set another head in it, and nothing else (camvid_lite_em of camvid_lite_hem), count as the
    recipe: a run's cell is read off its configuration, and what runs of a family must share is compared.

    Raises:
        HemnetError: there is no finished run of the recipe.
    """
    stem = experiment.removesuffix("hem")
    names = {experiment, *(stem + head for head in ("em", "emanet", "fcn") if stem != experiment)}
    records, unreadable = collect(folders)
    own = [record for record in records if record.identity.experiment in names]
    ended = [record for record in own if record.status == "finished"]
    finished = [Finished(Run.open(record.path), record) for record in ended if record.conclusive]
    if not finished:
        others = ", ".join(sorted({record.identity.experiment for record in records} - names)) or "none"
        raise HemnetError(
            f"no finished run of {experiment} among {len(records)} runs (other recipes: {others}): name other"
            " folders, or the recipe by --experiment"
            + "".join(f"\n{each.path} is unreadable: {each.error}" for each in unreadable)
        )
    told = [f"{each.path}: its recipe says that scores tell nothing" for each in ended if not each.conclusive]
    told += [f"{each.path}: unreadable: {each.error}" for each in unreadable]
    told += [f"{each.path}: {doubt}" for each in own if each.status == "finished" for doubt in each.doubts]
    waiting: dict[str, list[str]] = {}
    for record in own:
        if record.status != "finished":
            waiting.setdefault(record.status, []).append(record.path.name)
    return Read(finished, [*(f"{status}: {', '.join(names)}" for status, names in waiting.items()), *told])


_REFUSED = "{} and {}, both of family {}, differ in {}: leave out the folder of one"


def members(
    family: str, settings: Iterable[Setting], seeds: int, runs: Iterable[Finished]
) -> dict[Setting, dict[int, Finished]]:
    """Return the runs of a family, with these settings and seeds 0 to ``seeds`` - 1, by setting and seed.

    Raises:
        HemnetError: two runs differ in what they must share, or have the same setting and seed.
    """
    found: dict[Setting, dict[int, Finished]] = {setting: {} for setting in settings}
    references: dict[str, Finished] = {}  # of each head, since heads share few keys with one another
    known: dict[str, tuple[Finished, object]] = {}
    for run in runs:
        if run.setting not in found or run.seed not in range(seeds):
            continue
        references.setdefault(run.setting.head, run)
        for other in references.values():
            if changed := _unlike(other, run):
                raise HemnetError(_REFUSED.format(run.run.path, other.run.path, family, ", ".join(changed)))
        for what, value in run.circumstances.items():
            first, theirs = known.setdefault(what, (run, value))
            if value != theirs:
                shown = what if isinstance(value, dict) else f"{what} ({value} and {theirs})"
                raise HemnetError(_REFUSED.format(run.run.path, first.run.path, family, shown))
        twin = found[run.setting].setdefault(run.seed, run)
        if twin is not run:
            raise HemnetError(
                f"{twin.run.path} and {run.run.path} are both {run.setting}, seed {run.seed}: leave out one"
            )
    return found


def _unlike(one: Finished, other: Finished) -> list[str]:
    free = FREE if one.setting.head == other.setting.head else FREE | KINDS
    heads = [run.run.config.model.head for run in (one, other)]

    def shared(key: str) -> bool:
        # A key of only one of the heads is part of the difference between the heads.
        return not key.startswith("model.head.") or all(key.split(".")[2] in head for head in heads)

    first, second = one.record.settings, other.record.settings
    keys = [key for key in sorted({*first, *second} - free) if first.get(key) != second.get(key)]
    return [key for key in keys if one.setting.head == other.setting.head or shared(key)]
