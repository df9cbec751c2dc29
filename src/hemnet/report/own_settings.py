"""The settings of runs that are seen together: what the files of one run alone do not tell.

A folder of data may be another on another machine, a value may be what its key would be without it, and a
run that was killed has not recorded all.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hemnet.report.collect import Record
from hemnet.runs.canonical import digits, text
from hemnet.runs.identity import below
from hemnet.runs.moved import ROOT
from hemnet.runs.run_settings import BATCH_SIZE, DIMENSIONS, HEAD, ITERATIONS_EVAL, UNKNOWN, VALIDATION

NOT_RECORDED = "images not recorded"
OF_THE_IMAGES = (ROOT, VALIDATION, "data.eval_transform", "model.num_classes")
"""Settings that decide on how many labelled pixels of which class a run is scored."""
DATA_SEED = "data.seed"


def own_settings(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return the settings of each run, alike for the runs that are of one setting.

    Different data sets in folders of one name differ in them. What tells these apart is how many labelled
    pixels of each class the validation split has, whatever else differs between the runs. Runs of older
    versions did not record that.
    """
    every = [dict(record.settings) for record in records]
    _keep_fixed(every, DATA_SEED, [record.identity.seed for record in records])
    _keep_fixed(every, ITERATIONS_EVAL, [record.identity.iterations for record in records])
    pixels = [_pixels(record) for record in records]
    sides = [tuple(sorted((k, v) for k, v in own.items() if below(k, OF_THE_IMAGES))) for own in every]
    seen: dict[Any, set[str]] = defaultdict(set)
    for side, counts in zip(sides, pixels, strict=True):
        seen[side] |= {counts} - {""}
    for own, side, counts in zip(every, sides, pixels, strict=True):
        if len(seen[side]) > 1:
            which = digits(counts) if counts else NOT_RECORDED
            own[ROOT] = f"{own.get(ROOT, '')} ({which})"
    return every


def _pixels(record: Record) -> str:
    return str(record.result.get("labelled_pixels") or "")


def _keep_fixed(every: Sequence[dict[str, str]], key: str, followed: Sequence[int | None]) -> None:
    """Give runs a key that their settings lack, as `settings` leaves it out where it has the usual value.

    The usual value is that of another key: the seed of the data is that of the run. If a sweep fixes it for
    all runs, one of them has the usual value by chance, and is of the setting of the others. A run is such
    a one if all alike that lack the key have a value that others fix.

    Args:
        every: settings, which are changed.
        key: the key that is given.
        followed: the usual value of each run.
    """
    alike: dict[Any, list[int]] = defaultdict(list)
    for i, own in enumerate(every):
        alike[frozenset((k, v) for k, v in own.items() if k != key and k not in DIMENSIONS)].append(i)
    for mine in alike.values():
        fixed = {every[i][key] for i in mine if key in every[i]}
        usual = {i: text(followed[i]) for i in mine if key not in every[i] and followed[i] is not None}
        if fixed and fixed.issuperset(usual.values()):
            for i, value in usual.items():
                every[i][key] = value


def may_be_alike(lost: Record, finished: Record) -> bool:
    """Return whether a run that did not finish may have the settings of one that did, its head aside.

    A run that was killed has recorded neither how many processes it had, nor the labelled pixels. Then it is
    taken to have those of a run with the same batch size per process on data in a folder of the same name.
    """
    mine, theirs = dict(lost.settings), dict(finished.settings)
    if mine.get(BATCH_SIZE, "").endswith(UNKNOWN):
        mine[BATCH_SIZE], theirs[BATCH_SIZE] = _per_process(lost), _per_process(finished)
    if _pixels(lost) and _pixels(lost) != _pixels(finished):
        return False
    return _without_head(mine) == _without_head(theirs)


def _per_process(record: Record) -> str:
    data, trainer = record.config.get("data") or {}, record.config.get("trainer") or {}
    return f"{data.get('batch_size')}, {bool(trainer.get('sync_batchnorm'))}"


def _without_head(settings: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if not key.startswith(HEAD)}
