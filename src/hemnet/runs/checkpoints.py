"""Checkpoint files: written whole, known by their hash, and read without running anything that is in them.

Beside FILE.ckpt stands FILE.ckpt.sha256, in the format of sha256sum. Before last.ckpt is replaced it becomes
previous.ckpt, so that one of the two is always whole.
"""

import hashlib
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from hemnet.errors import HemnetError
from hemnet.storage.files import remove_abandoned, replacing, require_unpacked

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2
"""Goes up when an earlier version of hemnet could not read a checkpoint, or this one those of before."""
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class CheckpointError(HemnetError):
    """A checkpoint cannot be written or read, or is not what was written."""


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in place of ``path``, which stays as it was if this fails.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written to.
    """
    try:
        with replacing(path) as part:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
            lines = [f"{_digest(part)}  {path.name}", *_keep(path)]
            with replacing(_hashes(path)) as hashes:
                hashes.write_text("".join(f"{line}\n" for line in lines))
    except (OSError, RuntimeError) as error:
        # torch's own complaint about the unfinished file hides why it is unfinished.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        before = "; the one before is untouched" if path.is_file() else ""
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({cause.strerror or cause}){before}. Make room or "
            "give permission, and go on with resume=auto and the same run_dir"
        ) from error


def _keep(path: Path) -> list[str]:
    """Keep last.ckpt as previous.ckpt; return the lines of hashes by which the one before stays known.

    Until the new one takes its name, and for good if it never does, the one before is what is there.
    """
    known = _known(path)
    if path.name != LAST:
        return [f"# {line}" for line in _line(path, known, path.name)]  # sha256sum passes it by
    if lines := _line(path, known, PREVIOUS):
        _keep_previous(path)
        return lines
    return _line(path.with_name(PREVIOUS), known, PREVIOUS)  # a damaged one does not take its place


def _line(path: Path, known: list[str], name: str) -> list[str]:
    """Return the line with the hash of a checkpoint, under ``name``; none if it is damaged."""
    digest = _digest(path) if path.is_file() else None
    return [f"{digest}  {name}"] if digest and (digest in known or not known) else []


def _keep_previous(path: Path) -> None:
    kept = path.with_name(PREVIOUS)
    link = path.with_name(f".{PREVIOUS}.link")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        os.replace(link, kept)
    except OSError:  # a file system without links; `latest` finds the one before until the new one is there
        os.replace(path, kept)


def _hashes(path: Path) -> Path:
    return path.with_name(f"{LAST if path.name == PREVIOUS else path.name}.sha256")


def _known(path: Path) -> list[str]:
    """Return the hashes that a checkpoint may have, the newest first; [] if none were written."""
    file = _hashes(path)
    text = file.read_text(errors="replace") if file.is_file() else ""
    return re.findall(r"^(?:# )?([0-9a-f]{64})  ", text, re.MULTILINE)


def fingerprint(path: Path) -> str | None:
    """Return the hash that was written with a checkpoint, which is not read; None if none was written."""
    return next(iter(_known(path)), None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint: tensors and plain containers, on the CPU.

    Raises:
        CheckpointError: there is no such file, it was altered or cut short since it was written, holds more
            than plain data, or is of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint")
    try:
        with path.open("rb") as file:  # once: training may give its name to another at any time
            known = _known(path)
            if known and hashlib.file_digest(file, "sha256").hexdigest() not in known:
                raise CheckpointError(
                    f"{path}: not what was written, by the hash in {_hashes(path).name}: it was altered or "
                    "cut short"
                )
            require_unpacked(file)
            file.seek(0)
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, since it holds more than tensors and plain data") from error
    # What torch raises for a damaged file depends on where the damage is.
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
    return checkpoint


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def clean(folder: Path) -> None:
    """Remove what killed processes left half written; only for who alone writes there."""
    for path in folder.glob("*.ckpt"):
        for file in (path, _hashes(path)):
            remove_abandoned(file)
    (folder / f".{PREVIOUS}.link").unlink(missing_ok=True)


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint to go on from, and its contents; None if none was written.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
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
            log.warning("%s; going on from %s instead", problems[0], path.name)
        return found
    if problems:
        raise CheckpointError(f"{'; '.join(problems)}. Train anew in another run_dir")
    return None
