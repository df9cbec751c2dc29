"""A file is replaced whole or not at all."""

import math
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hemnet.errors import HemnetError
from hemnet.storage.files import entry, hold, read_json, remove_abandoned, replacing


@given(st.dictionaries(st.text(max_size=3), st.recursive(st.none() | st.booleans() | st.integers() | st.text()
                                                         | st.floats(), st.lists, max_leaves=3)))  # fmt: skip
@example({"steps": 2**53 + 1})  # a whole number that no float has
def test_an_entry_is_of_the_type_of_its_default(content: dict[str, object]) -> None:
    for name in (*content, "other"):
        value = content.get(name)
        for default in ("", [], {}):
            assert entry(content, name, default) == (value if type(value) is type(default) else default)
        finite = type(value) in (int, float) and math.isfinite(float(value))
        found = entry(content, name, 0.5)
        assert type(found) is float
        assert found == (float(value) if finite else 0.5)


def test_a_whole_number_beyond_any_float_is_no_entry() -> None:
    assert entry({"seconds": 10**400}, "seconds", 0.0) == 0


def test_a_json_object_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", tmp_path / ("a" * 300), Path(os.devnull)):
        assert read_json(path) == {}


def test_the_new_content_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.pt2"
    for content in (b"first", b"second"):
        before = path.read_bytes() if path.exists() else None
        with replacing(path) as part:
            part.write_bytes(content)
            assert (part.parent, part.suffix) == (path.parent, ".pt2")
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.fstat(file).st_size) or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("replace") or replace(*names))
    with replacing(tmp_path / "a") as part:
        part.write_bytes(b"12345")
    assert calls[:2] == [5, "replace"]
    assert len(calls) == 3  # then the folder, which holds the name


def test_others_may_read_it_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "a"):
        pass
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(OSError), replacing(path):  # noqa: PT011
            raise AssertionError("the block was entered")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_found(tmp_path: Path) -> None:
    script = f"""
        import os, pathlib, hemnet.storage.files
        with hemnet.storage.files.replacing(pathlib.Path({str(tmp_path)!r}) / "a[1].bin") as part:
            part.write_bytes(b"half")
            os._exit(1)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    (left,) = tmp_path.iterdir()
    others = {tmp_path / "a[1].bin", tmp_path / "b.bin", tmp_path / ".a1.0.part.bin"}
    for other in others:
        other.touch()
    remove_abandoned(tmp_path / "a[1].bin")
    assert left not in others
    assert set(tmp_path.iterdir()) == others


@pytest.mark.parametrize("name", [".", ".lock"])
def test_a_lock_is_held_once_and_then_free(tmp_path: Path, name: str) -> None:
    path, busy = tmp_path / name, "another is there"
    with hold(path), pytest.raises(HemnetError, match=busy), hold(path, busy):
        pass
    with hold(path, busy):
        pass
