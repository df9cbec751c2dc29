"""Of which setting a run is that did not finish, and so has not recorded all that its setting is told by."""

from collections.abc import Sequence

from hemnet.report.own_settings import labelled_pixels
from hemnet.report.record import Record
from hemnet.runs.run_settings import BATCH_SIZE, DIMENSIONS, FOLLOWED, UNKNOWN, followed

AMBIGUOUS = "several settings may be its own, so it is counted as a lost seed of none"


def settings_of(lost: Record, rivals: Sequence[Sequence[Record]]) -> list[int]:
    """Return which settings, each given by its finished runs, that of a run may be which did not finish.

    Those with runs of equal settings go before those of which it has not recorded enough, and among such
    those with runs on data at the same path.
    """
    fits = {
        i: max(found)
        for i, finished in enumerate(rivals)
        if (found := [_fit(lost, run) for run in finished if _may_be_alike(lost, run)])
    }
    return [i for i, fit in fits.items() if fit == max(fits.values())]


def _fit(lost: Record, finished: Record) -> tuple[bool, bool]:
    roots = [(record.config.get("data") or {}).get("root") for record in (lost, finished)]
    return lost.settings == finished.settings, roots[0] == roots[1]


def _may_be_alike(lost: Record, finished: Record) -> bool:
    """Return whether a run that did not finish may have the settings of one that did.

    A run that was killed has recorded neither how many processes it had, nor the labelled pixels. Then it is
    taken to have those of a run with the same batch size per process on data in a folder of the same name.
    """
    if _head(lost) != _head(finished):
        return False
    if labelled_pixels(lost) not in ("", labelled_pixels(finished)):
        return False
    mine, theirs = dict(lost.settings), dict(finished.settings)
    if mine.get(BATCH_SIZE, "").endswith(UNKNOWN):
        mine[BATCH_SIZE], theirs[BATCH_SIZE] = _per_process(lost), _per_process(finished)
    for key in FOLLOWED:
        if key in mine or key in theirs:
            mine.setdefault(key, str(followed(lost.config, key)))
            theirs.setdefault(key, str(followed(finished.config, key)))
    return _rest(mine) == _rest(theirs)


def _head(record: Record) -> tuple[object, ...]:
    who = record.identity
    return who.head, who.iterations, who.highway_scale, who.gradient


def _rest(settings: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key not in DIMENSIONS}


def _per_process(record: Record) -> str:
    data, trainer = record.config.get("data") or {}, record.config.get("trainer") or {}
    return f"{data.get('batch_size')}, {bool(trainer.get('sync_batchnorm'))}"
