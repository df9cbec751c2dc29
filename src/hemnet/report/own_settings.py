"""The settings of runs that are seen together: what the files of one run alone do not tell.

A folder of data may be another on another machine, and a value may be what its key would be without it.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hemnet.report.record import Record
from hemnet.runs.canonical import digits
from hemnet.runs.identity import below
from hemnet.runs.moved import ROOT
from hemnet.runs.run_settings import DIMENSIONS, FOLLOWED, HEAD, VALIDATION, followed

NOT_RECORDED = "images not recorded"
OF_THE_IMAGES = (ROOT, VALIDATION, "data.eval_transform", "model.num_classes")
"""Settings that decide on how many labelled pixels of which class a run is scored."""


def own_settings(records: Sequence[Record]) -> list[dict[str, str]]:
    """Return the settings of each finished run, alike for the runs that are of one setting.

    Different data sets in folders of one name differ in them. What tells these apart is how many labelled
    pixels of each class the validation split has, whatever else differs between the runs. Runs of older
    versions did not record that.
    """
    every = [dict(record.settings) for record in records]
    for key in FOLLOWED:
        _keep_fixed(every, key, [followed(record.config, key) for record in records])
    pixels = [labelled_pixels(record) for record in records]
    sides = [tuple(sorted((k, v) for k, v in own.items() if below(k, OF_THE_IMAGES))) for own in every]
    seen: dict[Any, set[str]] = defaultdict(set)
    for side, counts in zip(sides, pixels, strict=True):
        seen[side] |= {counts} - {""}
    for own, side, counts in zip(every, sides, pixels, strict=True):
        if len(seen[side]) > 1:
            which = digits(counts) if counts else NOT_RECORDED
            own[ROOT] = f"{own.get(ROOT, '')} ({which})"
    return every


def labelled_pixels(record: Record) -> str:
    """Return what a run recorded of the labels of its validation split; "" if nothing."""
    return str(record.result.get("labelled_pixels") or "")


def _keep_fixed(every: Sequence[dict[str, str]], key: str, values: Sequence[str | None]) -> None:
    """Give runs a key that their settings lack, as `settings` leaves it out where it has the usual value.

    The usual value is that of another key: the seed of the data is that of the run. If a sweep fixes it for
    all runs, one of them has the usual value by chance, and is of the setting of the others. So runs that
    lack the key are given it if others fix each of their values, and each for the whole sweep: all that is
    followed by runs that lack the key. Else they are a sweep of their own.

    Args:
        every: settings, which are changed.
        key: the key that is given.
        values: the usual value of each run.
    """
    fixed: dict[Any, set[tuple[str | None, str]]] = defaultdict(set)
    lacking: dict[Any, list[int]] = defaultdict(list)
    for i, own in enumerate(every):
        rest = {k: v for k, v in own.items() if k != key and k not in DIMENSIONS}
        shared = frozenset((k, v) for k, v in rest.items() if not k.startswith(HEAD))
        if key in own:
            fixed[shared].add((values[i], own[key]))
        elif values[i] is not None:
            lacking[shared, frozenset(rest.items())].append(i)
    for (shared, _), mine in lacking.items():
        own_values = {values[i] for i in mine}
        known = {value for _, value in fixed[shared]}
        crossed = {(one, value) for one in own_values for value in own_values if one != value}
        if own_values <= known and crossed <= fixed[shared]:
            for i in mine:
                every[i][key] = str(values[i])
