"""Checkpoints: complete or unchanged, verified by their hash, and never executed."""

import hashlib
import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hemnet.runs.checkpoints import (
    CHECKPOINT_FORMAT,
    CheckpointError,
    clean,
    fingerprint,
    latest,
    load,
    read,
    write,
)


def checkpoint(step: int, size: int = 10) -> dict[str, Any]:
    return {
        "global_step": step,
        "hemnet": {"format": CHECKPOINT_FORMAT},
        "weights": torch.full((size,), float(step)),
    }


def step(found: tuple[Path, dict[str, Any]] | None) -> tuple[str, int]:
    assert found is not None
    return found[0].name, found[1]["global_step"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in (1, 2, 3):
        write(checkpoint(n), tmp_path / "last.ckpt")
    return tmp_path


def test_the_last_and_the_one_before_are_kept(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "last.ckpt.sha256", "previous.ckpt"}
    assert step(latest(folder)) == ("last.ckpt", 3)
    assert read(folder / "previous.ckpt")["global_step"] == 2
    subprocess.run(["sha256sum", "--check", "--quiet", "last.ckpt.sha256"], cwd=folder, check=True)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("how", ["cut", "altered"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(
    folder: Path, where: float, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "last.ckpt"
    content = bytearray(path.read_bytes())
    at = int(where * len(content))
    if how == "cut":
        del content[at:]
    else:
        content[at] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt does not have the hash"):
        read(path)
    assert step(latest(folder)) == ("previous.ckpt", 2)
    assert "resuming from previous.ckpt instead" in caplog.text


def test_without_a_hash_a_damaged_file_is_still_no_checkpoint(folder: Path) -> None:
    (folder / "last.ckpt.sha256").unlink()
    assert step(latest(folder)) == ("last.ckpt", 3)
    with (folder / "last.ckpt").open("r+b") as file:
        file.truncate(700)
    assert step(latest(folder)) == ("previous.ckpt", 2)


def test_none_and_none_that_can_be_used(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert latest(tmp_path_factory.mktemp("empty")) is None
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt does not .*previous\.ckpt does not .*anew"):
        latest(folder)


@pytest.mark.parametrize("stage", ["link", "hashes", "rename"])
def test_a_process_that_dies_while_it_writes_leaves_one_to_go_on_from(folder: Path, stage: str) -> None:
    """At each renaming of a file, the process is killed; then there is a checkpoint to resume from."""
    code = f"""
import os, sys, torch
from pathlib import Path
import hemnet.runs.checkpoints as c, hemnet.storage.files as f
sys.path[:0] = {sys.path!r}
calls = {{"link": 1, "hashes": 2, "rename": 3}}[{stage!r}]
plain = os.replace
def replace(*names):
    global calls
    calls -= 1
    if not calls:
        os._exit(9)
    plain(*names)
os.replace = replace
c.write({{"global_step": 4, "hemnet": {{"format": c.CHECKPOINT_FORMAT}}}}, Path("last.ckpt"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, check=False)
    assert done.returncode == 9
    assert step(latest(folder)) == ("last.ckpt", 3)
    clean(folder)
    assert not list(folder.glob(".*"))
    write(checkpoint(5), folder / "last.ckpt")
    assert step(latest(folder)) == ("last.ckpt", 5)
    assert read(folder / "previous.ckpt")["global_step"] == 3


def refuse(*_: object) -> None:
    raise PermissionError("no links here")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("name", ["last", "damaged last", "best"])
def test_what_was_good_stays_good_whenever_the_writer_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, calls: int, links: bool
) -> None:
    """Also if only previous.ckpt is good; and for best.ckpt, which has no previous one."""
    path = tmp_path / f"{name.split()[-1]}.ckpt"
    for n in (1, 2, 3):
        write(checkpoint(n), path)
    if name == "damaged last":
        path.write_bytes(path.read_bytes()[:-9])
    if not (process := os.fork()):
        plain, count = os.replace, iter(range(calls))

        def replace(*names: Any) -> None:
            if next(count) == calls - 1:
                os._exit(9)
            plain(*names)

        try:
            monkeypatch.setattr(os, "replace", replace)
            if not links:
                monkeypatch.setattr(os, "link", refuse)
            write(checkpoint(4), path)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) in (0, 9)
    if name == "best":
        assert read(path)["global_step"] == (3 if calls < 3 else 4)
    else:
        before = 3 if name == "last" else 2
        assert step(latest(tmp_path))[1] in ((before,) if calls < 3 else (before, 4))
    write(checkpoint(5), path)
    assert read(path)["global_step"] == 5
    subprocess.run(["sha256sum", "--check", "--quiet", f"{path.name}.sha256"], cwd=tmp_path, check=True)


def test_a_damaged_list_of_hashes_stops_nobody(folder: Path) -> None:
    (folder / "last.ckpt.sha256").write_bytes(b"\xff\xfe")
    assert step(latest(folder)) == ("last.ckpt", 3)
    write(checkpoint(4), folder / "last.ckpt")
    assert step(latest(folder)) == ("last.ckpt", 4)


def test_a_file_system_without_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    write(checkpoint(4), folder / "last.ckpt")
    assert step(latest(folder)) == ("last.ckpt", 4)
    assert read(folder / "previous.ckpt")["global_step"] == 3
    (folder / "last.ckpt").unlink()  # killed between the two renames
    assert step(latest(folder)) == ("previous.ckpt", 3)


def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, room[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"last\.ckpt: .*could not be written \(File too large\); the previous one"
        ):
            write(checkpoint(4, size=100_000), folder / "last.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_without_permission(folder: Path) -> None:
    code = (
        "import os, torch; from pathlib import Path; from hemnet.runs.checkpoints import write\n"
        "os.setuid(65534) if os.getuid() == 0 else None\n"  # root has all permissions
        "write({}, Path('last.ckpt'))"
    )
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
        )
    finally:
        folder.chmod(mode)
    assert "could not be written (Permission denied); the previous one is unchanged" in done.stderr
    assert step(latest(folder)) == ("last.ckpt", 3)


class Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_pickled_code_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(checkpoint(1) | {"attack": Attack()}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Attack()))
    torch.save(Attack(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    for name in ("zip", "plain", "old"):
        with pytest.raises(CheckpointError, match=f"{name}.ckpt: refused, since it holds more than tensors"):
            read(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "executed").exists()


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "tensors.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"hemnet": {"format": 1}}, tmp_path / "older.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("a.txt", "hello")
    (tmp_path / "folder.ckpt").mkdir()
    for name, message in {
        "tensors": "not a checkpoint of hemnet", "list": "not a checkpoint of hemnet",
        "older": f"has checkpoint format 1, this version of hemnet reads {CHECKPOINT_FORMAT}: use",
        "text": "refused|cannot be read", "other": "cannot be read", "folder": "there is no such checkpoint",
        "missing": "there is no such checkpoint",
    }.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"{name}\.ckpt.*({message})"):
            read(tmp_path / f"{name}.ckpt")


def test_the_hash_is_that_of_the_bytes_which_were_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for number in range(2):
        write(checkpoint(number), whole / "last.ckpt")
        for name in ("last.ckpt", "last.ckpt.sha256"):
            os.utime(whole / name, ns=(number, number))  # moments apart, however fast the disk is
    recorded, other = (
        hashlib.sha256((whole / name).read_bytes()).hexdigest() for name in ("last.ckpt", "previous.ckpt")
    )
    assert load(whole / "last.ckpt").digest == fingerprint(whole / "last.ckpt") == recorded
    for put in (shutil.copy, shutil.copy2, shutil.move):
        folder = shutil.copytree(whole, tmp_path / put.__name__)
        put(folder / "previous.ckpt", folder / "last.ckpt")
        assert load(folder / "last.ckpt").digest == fingerprint(folder / "last.ckpt") == other
