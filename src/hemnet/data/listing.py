"""The files of a data set: listings of folders, and split lists.

Every error names the path. Only file names are read, a folder at a time, so that 118,000 images are listed in
a fraction of a second. Names are compared in one Unicode form (NFC): macOS writes "ü" as two characters
where Linux writes one.
"""

import logging
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple
from unicodedata import category, normalize

from hemnet.data.spec import DataError
from hemnet.wording import counted, examples

log = logging.getLogger(__name__)

LOSSLESS = {"PNG": (".png",), "BMP": (".bmp",), "GIF": (".gif",), "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
            "TIFF": (".tif", ".tiff")}  # fmt: skip
"""The file formats of masks, by Pillow's names, with the endings of such files."""
READABLE = LOSSLESS | {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "WEBP": (".webp",)}
"""The file formats of images, likewise."""
MASK_SUFFIXES = tuple(suffix for suffixes in LOSSLESS.values() for suffix in suffixes)
IMAGE_SUFFIXES = tuple(suffix for suffixes in READABLE.values() for suffix in suffixes)
UNLABELLED_SPLIT = "test"
"""The split whose labels a benchmark may keep to itself: without any mask, its images are read alone."""
MOST_PIXELS = 2**26
"""The largest image or mask: 8192 x 8192 pixels, 192 MiB as RGB. A header may claim any size."""
_REMEDY = (
    "set data.root=<folder> or the environment variable HEMNET_DATA. To get a published set: make data "
    "DATASET=NAME, or hemnet data get NAME"
)

_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


def complain(message: str) -> None:
    """Raise a DataError; in a block of `collecting`, note the message and go on without what is wrong."""
    noted = _noted.get()
    if noted is None:
        raise DataError(message)
    noted.append(message)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Return the messages of all `complain` in the block, so that a check can report more than the first."""
    messages: list[str] = []
    token = _noted.set(messages)
    try:
        yield messages
    finally:
        _noted.reset(token)


class Listing(NamedTuple):
    """The entries of a folder: name -> path of those listed, sorted by name, and why others are left out.

    Args:
        files: the names are in NFC, without their beginning and ending.
        left_out: a sentence part that counts and names the entries left out; "" if there are none.
    """

    files: dict[str, str]
    left_out: str


def scan(folder: Path, endings: tuple[str, ...], beginning: str = "", apart: Collection[str] = ()) -> Listing:
    """List a folder, for training and prediction alike; hidden entries and unknown endings are left out.

    Args:
        folder: an existing folder; the folders in it are not searched.
        endings: accepted endings of names, in any case; a name is that of the file without it.
        beginning: what the names must begin with; left out of the names too.
        apart: entries that are neither listed nor counted, such as folders that are listed on their own.

    Raises:
        DataError: two files have one name.
    """
    lower = tuple(ending.lower() for ending in endings)
    files: dict[str, str] = {}
    hidden: list[str] = []
    others: list[str] = []
    for entry in sorted({*os.listdir(folder)} - {*apart}):
        ending = next((ending for ending in lower if entry.lower().endswith(ending)), None)
        if entry.startswith("."):
            hidden.append(entry)
        elif ending is None or not entry.startswith(beginning):
            others.append(entry)
        else:
            name, path = normalize("NFC", entry[len(beginning) : -len(ending)]), f"{folder}/{entry}"
            if name in files:
                complain(
                    f"{path}: {Path(files[name]).name} has the same stem, so both would be the sample "
                    f"{name}; remove or rename one of the two"
                )
            files[name] = path
    reasons = ((f"of another ending than {', '.join(endings)}", others), ("hidden", hidden))
    left_out = [f"{len(names)} {reason} ({examples(names)})" for reason, names in reasons if names]
    return Listing(dict(sorted(files.items())), " and ".join(left_out))


def scan_tree(folder: Path, endings: tuple[str, ...]) -> Listing:
    """List a folder and the folders in it, see `scan`; names are relative, such as ``trip/one``.

    Hidden folders, links to folders, and folders whose names end as files do are not searched.

    Args:
        folder: an existing folder.
        endings: accepted endings of names, in any case.

    Raises:
        DataError: two files have one name.
    """
    lower = tuple(ending.lower() for ending in endings)
    files: dict[str, str] = {}
    left_out: list[str] = []
    for place, inside, _ in os.walk(folder):
        inside[:] = sorted(
            name for name in inside
            if not name.startswith(".") and not name.lower().endswith(lower)
            and not os.path.islink(f"{place}/{name}")
        )  # fmt: skip
        found = scan(Path(place), endings, apart=inside)
        relative = Path(place).relative_to(folder)
        files |= {normalize("NFC", (relative / name).as_posix()): path for name, path in found.files.items()}
        if found.left_out:
            left_out.append(found.left_out if relative == Path() else f"in {relative}: {found.left_out}")
    return Listing(files, "; ".join(left_out))


def list_images(folder: Path, layout: str) -> dict[str, str]:
    """Return name -> path of the images in `folder`, of every kind that can be read, see `list_files`."""
    return list_files(folder, IMAGE_SUFFIXES, layout)


def list_masks(
    folder: Path, layout: str, split: str, endings: tuple[str, ...] = MASK_SUFFIXES
) -> dict[str, str]:
    """Return name -> path of the masks in `folder`, see `list_files`; a test split may have none."""
    return list_files(folder, endings, layout, optional=split == UNLABELLED_SPLIT)


def list_files(
    folder: Path, endings: tuple[str, ...], layout: str, beginning: str = "", optional: bool = False
) -> dict[str, str]:
    """Return name -> path of the files in `folder`, sorted by name, see `scan`.

    Entries that are left out are logged, unless a part of the names (such as "_labelIds.png") says which of
    several files of a sample are meant.

    Args:
        folder: where to look, not recursively.
        endings: accepted endings of names, in any case.
        layout: the expected folder tree, quoted in errors.
        beginning: what the names must begin with.
        optional: whether the folder may be missing or empty; the result is {} then.

    Raises:
        DataError: the folder is missing, holds no such file, two with one name, or one whose name is no text.
    """
    if optional and not folder.is_dir():
        return {}
    found = scan(require_folder(folder, layout), endings, beginning)
    for path in found.files.values():
        require_text(folder, os.path.basename(path))
    if not found.files and not optional:
        left_out = f" ({found.left_out})" if found.left_out else ""
        raise DataError(
            f"{folder}: no {beginning}{'/'.join(endings)} files{left_out}; {_REMEDY}. "
            f"Expected layout: {layout}"
        )
    if found.left_out and not beginning and all(ending.startswith(".") for ending in endings):
        log.warning("%s: %s listed, left out: %s", folder, counted(len(found.files), "file"), found.left_out)
    return found.files


def require_folder(folder: Path, layout: str) -> Path:
    """Return `folder`; raise a DataError that quotes the expected layout if there is no such folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {_REMEDY}. Expected layout: {layout}")
    return folder


def require_split(split: str, known: Iterable[str], name: str) -> None:
    """Raise a DataError if a data set called `name` has no such split."""
    *others, last = known
    if split not in (*others, last):
        raise DataError(f"{name} has the splits {', '.join(others)} and {last}, got {split!r}")


def require_text(folder: str | Path, name: str) -> None:
    """Complain of a file name that no table or page can hold: of undecodable bytes, or with line breaks.

    Raises:
        DataError: see above.
    """
    # Letters one by one only where it may matter: a data set has 100,000 names.
    if not name.isprintable() and any(category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
        complain(f"{folder}/{name!a}: the name has characters that are not text; rename it")


def require_file(path: str | Path) -> None:
    """Raise a DataError unless `path` is a regular file: opening a pipe could wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the path") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or the like"
        raise DataError(f"{path}: {kind}, not a file; check the path")


def read_list(path: Path, layout: str) -> list[str]:
    """Return the sample names in a split list, in NFC.

    A line is a name, or a path whose folder and image suffix are dropped; text after the first blank is
    ignored, and so are empty lines and a byte-order mark.

    Args:
        path: the text file, UTF-8.
        layout: the expected folder tree, quoted in errors.

    Raises:
        DataError: the file is missing, is no text, is empty, or repeats a name.
    """
    try:
        if path.exists():
            require_file(path)
        text = normalize("NFC", path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such split list; {_REMEDY}. Expected layout: {layout}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a readable list ({error}); restore the file, or save it as UTF-8"
        ) from error
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    bases = [word.replace("\\", "/").rpartition("/")[2] for word in words]
    names = [base.rpartition(".")[0] if base.lower().endswith(IMAGE_SUFFIXES) else base for base in bases]
    if not names:
        raise DataError(f"{path}: the list names no image; restore the file, one name without blanks a line")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        complain(
            f"{path}: the list repeats {few(repeated)}; restore the file, one name without blanks a line"
        )
    return list(dict.fromkeys(names))


def warn_count(name: str, split: str, found: int, expected: int) -> None:
    """Log a warning if the number of samples differs from the official split."""
    if found != expected:
        log.warning(
            "%s %s: %s, the official split has %d; scores will not compare with published ones",
            name, split, counted(found, "image"), expected,
        )  # fmt: skip


def few(items: Sequence[object]) -> str:
    """Return a list as text, cut after its first eight items."""
    return f"[{examples(items, 8)}]"
