"""Getting a data set: download, check, unpack, move into place, and record the source."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hemnet.data.archives.catalogue import Catalogued, Source
from hemnet.data.archives.unpack import ArchiveError, unpack
from hemnet.data.spec import DataError
from hemnet.storage.download import PATIENT, Patience, download, require_digest
from hemnet.storage.files import file_digest, hold, replacing
from hemnet.wording import counted

log = logging.getLogger(__name__)
DOWNLOADS = ".download"
MARKER = ".hemnet-data.json"
UNPACKING = ".unpacking-"


def missing(entry: Catalogued, root: Path) -> list[Source]:
    """Return the files of a data set whose content is not completely in place under ``root``."""
    marks = _read_marks(root)
    return [
        source
        for source in entry.sources
        if _unfinished(marks, source) or not all((root / source.into / u).exists() for u in source.units)
    ]


def describe(
    entry: Catalogued, sources: list[Source], root: Path, mirror: str | None = None
) -> Iterator[str]:
    """Yield lines that say what will be downloaded, from where and under which terms."""
    yield f"{entry.name} into {root}"
    for source in sources:
        have = ", already here" if (root / DOWNLOADS / source.name).is_file() else ""
        check = f", {source.digest.partition(':')[0]} known" if source.digest else ""
        yield f"  {_url(source, mirror) or source.name} (size: {source.size}{check}{have})"
    yield f"  terms: {entry.licence} ({entry.page})"


def fetch(
    entry: Catalogued, root: Path, mirror: str | None = None, patience: Patience = PATIENT
) -> list[Source]:
    """Get a data set under ``root``, and return the files that had to be fetched for it.

    Downloads are kept in ``root/.download``; files already there are used. Each archive is unpacked into a
    hidden folder and its content then renamed into place, so that an incomplete set never looks complete.
    Existing content is never overwritten. ``.hemnet-data.json`` records the URL, hash and number of files.

    Args:
        entry: the data set.
        root: its folder.
        mirror: URL of a folder with files of the same names, used instead of the catalogue's URLs.
        patience: how long to wait for slow servers.

    Raises:
        hemnet.storage.download.DownloadError: a file cannot be downloaded, or its hash differs from the
            published one.
        DataError: an archive is corrupt, hostile, or not of this data set (it is then renamed, and nothing
            of it is in place); other content is in its place; a file must be downloaded by hand.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with hold(root):
            for stale in root.glob(f"{UNPACKING}*"):  # left by a killed process
                shutil.rmtree(stale)
            wanted = missing(entry, root)
            _require_by_hand(entry, wanted, root, mirror)
            for source in wanted:
                _fetch_source(source, root, _url(source, mirror), patience)
            return wanted
    except OSError as error:
        raise DataError(f"{root}: {error}; choose another folder, or make room there") from error


def _url(source: Source, mirror: str | None) -> str | None:
    return f"{mirror.rstrip('/')}/{source.name}" if mirror else source.url


def _require_by_hand(entry: Catalogued, wanted: list[Source], root: Path, mirror: str | None) -> None:
    folder = root / DOWNLOADS
    absent = [s.name for s in wanted if _url(s, mirror) is None and not (folder / s.name).is_file()]
    if absent:
        folder.mkdir(exist_ok=True)
        raise DataError(
            f"{entry.name} is behind a login, so download it by hand: log in at {entry.page}, download "
            f"{' and '.join(absent)} into {folder}, and run this command again to unpack and check them"
        )


def _fetch_source(source: Source, root: Path, url: str | None, patience: Patience) -> None:
    taken = [root / source.into / unit for unit in source.units if (root / source.into / unit).exists()]
    if taken and not _unfinished(_read_marks(root), source):
        raise DataError(
            f"{taken[0]} exists, but not all of {', '.join(source.units)} that belong to it: move it, or "
            "choose another folder"
        )
    archive = root / DOWNLOADS / source.name
    by_hand = archive.is_file()
    if url is not None:
        download(url, archive, source.digest, patience)
    if by_hand and source.digest:
        require_digest(archive, source.digest)  # `download` has checked what it downloaded
    staging = Path(tempfile.mkdtemp(prefix=UNPACKING, dir=root))
    try:
        count, top = _unpack(source, archive, staging)
        algorithm = source.digest.partition(":")[0] if source.digest else "sha256"
        mark = {"url": url, algorithm: file_digest(archive, algorithm), "files": count}
        _put_in_place(source, top, root, mark)
    except ArchiveError as error:
        aside = archive.with_name(f"{archive.name}.rejected")
        archive.replace(aside)
        raise DataError(f"{error}; it was renamed to {aside.name}: remove it and try again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    log.info("%s: %s in place; %s can be removed", source.name, counted(count, "file"), archive)


def _unpack(source: Source, archive: Path, staging: Path) -> tuple[int, Path]:
    """Return the number of unpacked files, and the folder that holds the units."""
    if not source.packed:
        shutil.copyfile(archive, staging / source.name)
        return 1, staging
    log.info("%s: unpacking", source.name)
    done = unpack(archive, staging)
    if done.links:
        log.warning("%s: left out %d links, such as %s", source.name, len(done.links), done.links[0])
    folders = [staging, *sorted(staging.glob("*/")), *sorted(staging.glob("*/*/"))]
    for top in folders:
        if all((top / unit).exists() for unit in source.units):
            _check_counts(source, archive, top)
            return done.files, top
    raise ArchiveError(f"{archive}: does not contain {', '.join(source.units)}")


def _check_counts(source: Source, archive: Path, top: Path) -> None:
    for pattern, expected in source.counts:
        found = sum(1 for _ in top.glob(pattern))
        if not found:
            raise ArchiveError(f"{archive}: contains no {pattern}, expected {expected}")
        if found != expected:
            log.warning("%s: contains %d of %s, expected %d", source.name, found, pattern, expected)


def _put_in_place(source: Source, top: Path, root: Path, mark: dict[str, Any]) -> None:
    """Rename the units into place; the mark tells a later call whether all were renamed."""
    _write_mark(root, source, mark | {"whole": False})
    for unit in source.units:
        place = root / source.into / unit
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)  # of a killed call: `_fetch_source` refuses any other
        (top / unit).replace(place)
    _write_mark(root, source, mark | {"whole": True})


def _unfinished(marks: dict[str, Any], source: Source) -> bool:
    return not marks.get(source.name, {}).get("whole", True)


def _read_marks(root: Path) -> dict[str, Any]:
    path = root / MARKER
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it and run the command again") from error


def _write_mark(root: Path, source: Source, mark: dict[str, Any]) -> None:
    marks = _read_marks(root) | {source.name: mark}
    with replacing(root / MARKER) as new:
        new.write_text(json.dumps(marks, indent=2) + "\n", "utf-8")
