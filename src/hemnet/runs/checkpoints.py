"""Checkpoint files: written whole, verified by their hash, and read without executing anything in them.

FILE.ckpt.sha256 holds the hash of FILE.ckpt in the format of sha256sum. Before last.ckpt is replaced it
becomes previous.ckpt, so that one of the two is complete at every moment; last.ckpt.sha256 has both hashes.
"""

import hashlib
import io
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any, NamedTuple

from hemnet.errors import HemnetError
from hemnet.storage.files import file_digest, remove_abandoned, replacing, require_unpacked

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2
"""To be raised when older versions of hemnet cannot read new checkpoints, or this version older ones."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class CheckpointError(HemnetError):
    """A checkpoint cannot be written or read, or its hash is not the recorded one."""


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint to ``path``; if that fails, the file at ``path`` is unchanged.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written to.
    """
    import torch  # here, and below: slow to import

    try:
        with replacing(path) as part:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
            lines = [f"{file_digest(part, 'sha256')}  {path.name}", *_keep(path)]
            with replacing(_hashes(path)) as hashes:
                hashes.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    except (OSError, RuntimeError) as error:
        # torch raises a RuntimeError about the incomplete file; the OSError behind it is the cause.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        before = "; the previous one is unchanged" if path.is_file() else ""
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({cause.strerror or cause}){before}. Make room or "
            "give permission, and resume with resume=auto and the same run_dir"
        ) from error


def _keep(path: Path) -> list[str]:
    """Copy last.ckpt to previous.ckpt, and return the lines to keep in the file of hashes.

    The hash of the checkpoint at ``path`` is kept, because that checkpoint stays if the new one is never
    renamed to ``path``.
    """
    known = _known(path)
    if path.name != LAST:
        return [f"# {line}" for line in _line(path, known, path.name)]  # sha256sum ignores comments
    if lines := _line(path, known, PREVIOUS):
        _keep_previous(path)
        return lines
    return _line(path.with_name(PREVIOUS), known, PREVIOUS)  # last.ckpt is damaged: keep previous.ckpt


def _line(path: Path, known: list[str], name: str) -> list[str]:
    """Return the line for a checkpoint, under ``name``, in a file of hashes; [] if it is damaged."""
    digest = file_digest(path, "sha256") if path.is_file() else None
    return [f"{digest}  {name}"] if digest and (digest in known or not known) else []


def _keep_previous(path: Path) -> None:
    kept = path.with_name(PREVIOUS)
    link = path.with_name(f".{PREVIOUS}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        os.replace(link, kept)
    except OSError:  # a file system without links: `latest` uses previous.ckpt for a moment
        os.replace(path, kept)


def _hashes(path: Path) -> Path:
    return path.with_name(f"{LAST if path.name == PREVIOUS else path.name}.sha256")


def _known(path: Path) -> list[str]:
    """Return the hashes that a checkpoint may have, the newest first; [] if none are recorded."""
    file = _hashes(path)
    text = file.read_text(errors="replace", encoding="utf-8") if file.is_file() else ""
    return re.findall(r"^(?:# )?([0-9a-f]{64})  ", text, re.MULTILINE)


def fingerprint(path: Path) -> str | None:
    """Return the hash of a checkpoint; None if none is recorded.

    It is the recorded one, without reading the checkpoint, if the file is as old as that of `write` must be.
    A file that was put in its place since is read.
    """
    known = _known(path)
    if known and path.is_file() and not _as_written(path, several=len(known) > 1):
        return file_digest(path, "sha256")
    return next(iter(known), None)


def _as_written(path: Path, *, several: bool) -> bool:
    """Return whether a checkpoint is older than its record, and not the previous one under its name."""
    own, previous = path.stat().st_mtime_ns, path.with_name(PREVIOUS)
    if path.name == LAST and several and not (previous.is_file() and previous.stat().st_mtime_ns < own):
        return False
    return own <= _hashes(path).stat().st_mtime_ns


class Loaded(NamedTuple):
    """The contents of a checkpoint, and the hash of the bytes that they were read from, SHA-256 in hex."""

    content: dict[str, Any]
    digest: str


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, see `load`."""
    return load(path).content


def load(path: Path) -> Loaded:
    """Return the contents of a checkpoint, tensors on the CPU and plain containers, and its hash.

    Raises:
        CheckpointError: there is no such file, it was changed or truncated since it was written, it holds
            more than plain data, or it has another format.
    """
    import torch

    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        file = io.BytesIO(path.read_bytes())  # read once: the file may change at any time
        known, digest = _known(path), hashlib.sha256(file.getbuffer()).hexdigest()
        if known and digest not in known:
            raise CheckpointError(
                f"{path} does not have the hash in {_hashes(path).name}: it was changed or truncated; "
                "use another checkpoint"
            )
        require_unpacked(file)
        file.seek(0)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, since it holds more than tensors and plain data") from error
    # The type of torch's error depends on where the file is damaged.
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_first_line(error)})") from error
    about = checkpoint.get("hemnet") if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: a file of tensors, but not a checkpoint of hemnet")
    if about.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {about.get('format')}, this version of hemnet reads "
            f"{CHECKPOINT_FORMAT}: use the version named in the run's environment.json, or train anew"
        )
    return Loaded(checkpoint, digest)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def clean(folder: Path) -> None:
    """Remove incomplete files that killed processes left. No other process may be writing there now."""
    for path in folder.glob("*.ckpt"):
        for file in (path, _hashes(path)):
            remove_abandoned(file)
    (folder / f".{PREVIOUS}.link").unlink(missing_ok=True)


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest usable checkpoint to resume from, and its contents; None if there is none at all.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            found = path, read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            log.warning("%s; resuming from %s instead", problems[0], path.name)
        return found
    if problems:
        raise CheckpointError(f"{'; '.join(problems)}. Train anew in another run_dir")
    return None
