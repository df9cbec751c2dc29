"""The files of a data set: listings, split lists, and pairs of image and mask.

Every error names the path. Only file names are read, a folder at a time, so that 118,000 images are listed in
a fraction of a second.
"""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hemnet.data.spec import DataError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_PIXELS = 2**26
"""The largest image or mask: 8192 x 8192 pixels, 192 MiB as RGB. A header may claim any size."""
_REMEDY = "set data.root=<folder> or the environment variable HEMNET_DATA"


class Files(NamedTuple):
    """A sample's name, unique in the split, and the paths of its image and its mask."""

    name: str
    image: str
    mask: str


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


def list_files(folder: Path, endings: tuple[str, ...], layout: str) -> dict[str, str]:
    """Return stem -> path of the files in `folder`, sorted by stem; hidden files are skipped.

    Args:
        folder: where to look, not recursively.
        endings: accepted endings of names, in any case; the stem is the name without its ending.
        layout: the expected folder tree, quoted in errors.

    Raises:
        DataError: the folder is missing, holds no such file, or holds two with one stem.
    """
    lower = tuple(ending.lower() for ending in endings)
    files: dict[str, str] = {}
    for name in sorted(os.listdir(require_folder(folder, layout))):
        ending = next((ending for ending in lower if name.lower().endswith(ending)), None)
        if ending is None or name.startswith("."):
            continue
        stem, path = name[: -len(ending)], f"{folder}/{name}"
        if stem in files:
            raise DataError(f"{path}: {Path(files[stem]).name} has the same stem; remove one of the two")
        files[stem] = path
    if not files:
        raise DataError(f"{folder}: no {'/'.join(endings)} files; {_REMEDY}. Expected layout: {layout}")
    return dict(sorted(files.items()))


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
    """Return the sample names in a split list.

    A line is a name, or a path whose folder and image suffix are dropped; text after the first blank is
    ignored, and so are empty lines.

    Args:
        path: the text file.
        layout: the expected folder tree, quoted in errors.

    Raises:
        DataError: the file is missing, is no text, is empty, or repeats a name.
    """
    try:
        if path.exists():
            require_file(path)
        words = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{path}: no such split list; {_REMEDY}. Expected layout: {layout}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list ({error}); restore the file") from error
    bases = [word.rpartition("/")[2] for word in words]
    names = [base.rpartition(".")[0] if base.lower().endswith(IMAGE_SUFFIXES) else base for base in bases]
    if len(set(names)) != len(names) or not names:
        repeated = [name for name, count in Counter(names).items() if count > 1]
        what = f"repeats {few(repeated)}" if repeated else "names no image"
        raise DataError(f"{path}: the list {what}; restore the file, one name without blanks a line")
    return names


def match_files(names: Iterable[str], images: Mapping[str, str], masks: Mapping[str, str]) -> list[Files]:
    """Return the image and the mask of each name, in the order of `names`.

    Args:
        names: names of the samples.
        images: name -> path, at least one.
        masks: name -> path, at least one.

    Raises:
        DataError: names without an image or without a mask; the message counts them and lists the first few.
    """
    names = list(names)
    for files, what in ((images, "image"), (masks, "mask")):
        missing = [name for name in names if name not in files]
        if missing:
            folder = os.path.commonpath({os.path.dirname(path) for path in files.values()})
            raise DataError(
                f"{folder}: no {what} for {len(missing)} of {len(names)} samples ({', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}); is the set half-extracted? Extract it again, or "
                "remove these samples"
            )
    return [Files(name, images[name], masks[name]) for name in names]


def warn_count(name: str, split: str, found: int, expected: int) -> None:
    """Log a warning if the number of samples differs from the official split."""
    if found != expected:
        log.warning(
            "%s %s: %d images, the official split has %d; scores will not compare with published ones",
            name, split, found, expected,
        )  # fmt: skip


def few(items: Sequence[object]) -> str:
    """Return a list as text, cut after its first eight items."""
    return f"[{', '.join(map(str, items[:8]))}{', ...' if len(items) > 8 else ''}]"
