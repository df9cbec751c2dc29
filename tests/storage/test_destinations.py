"""What may be replaced, and where something can be written."""

import json
import os
from pathlib import Path

import pytest

from hemnet.errors import HemnetError
from hemnet.storage.destinations import JsonOutput, require_own, require_writable, writing
from hemnet.storage.files import read_json, replacing_in

OURS = {"made_by": "us", "seed": 1}


def claim(path: Path) -> None:
    require_own(path, read_json, OURS, maker="hemnet", option="--here")


def test_only_the_same_output_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    claim(path)  # nothing is there
    path.write_text(json.dumps(OURS | {"more": [1]}))
    claim(path)
    for other in ({}, {"made_by": "us"}, "text", [OURS]):
        path.write_text(json.dumps(other))
        with pytest.raises(
            HemnetError, match=r"a\.json exists, and does not say that hemnet made it: choose an"
        ):
            claim(path)
    path.write_text(json.dumps(OURS | {"seed": 2}))
    with pytest.raises(HemnetError, match=r"a\.json was made with seed 2, not 1: choose another --here"):
        claim(path)
    with pytest.raises(HemnetError, match="not 1"):
        require_own(path, read_json, OURS, maker="hemnet", needed=())
    path.write_text(json.dumps({"seed": 1}))
    require_own(path, read_json, OURS, maker="hemnet", needed=["seed"])


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to read it would wait for ever
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(HemnetError, match=f"{name} exists"):
            claim(tmp_path / name)


def test_what_cannot_be_written_is_known_before_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    require_writable(tmp_path / "new" / "folder" / "a.json")
    require_writable(tmp_path / "new" / "folder", folder=True)
    for place, folder in (
        (tmp_path, False), (tmp_path / "file", True), (tmp_path / "file" / "a" / "b.json", False),
        (tmp_path / ("n" * 245), False), (tmp_path / ("n" * 300), True),
        (tmp_path / ("n" * 300) / "a", False),
    ):  # fmt: skip
        with pytest.raises(OSError, match=r"folder|too long"):
            require_writable(place, folder=folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="may not be written to"):
        require_writable(tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_results_as_json_are_claimed_before_the_work_and_a_full_disk_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    JsonOutput(path, "--json", OURS).write({"found": 3})
    assert json.loads(path.read_text()) == OURS | {"found": 3}
    again = JsonOutput(path, "--json", OURS)
    with pytest.raises(HemnetError, match="was made with seed 1, not 4"):
        JsonOutput(path, "--json", OURS | {"seed": 4})
    JsonOutput(None, "--json", OURS).write({})

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HemnetError, match=r"cannot write .*a\.json .*No space left.*: choose another --json"):
        again.write({"found": 4})
    assert json.loads(path.read_text())["found"] == 3
    with pytest.raises(HemnetError, match="make room"), writing(path):
        full(0)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_files_that_belong_together_are_all_new_or_all_old(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = tmp_path / "x" / "y", ("a.csv", "result.json", "z.csv")
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: moved.append(Path(new).name) or replace(old, new))

    def write(text: str, fails: bool) -> None:
        with replacing_in(folder, last="result.json") as part:
            for name in names:
                (part / name).write_text(text)
            if fails:
                raise error

    write("first", fails=False)
    assert moved == ["a.csv", "z.csv", "result.json"]
    with pytest.raises(error):
        write("second", fails=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys(names, "first")
