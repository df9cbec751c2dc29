"""Downloads from a server that misbehaves give the right file or an error."""

import hashlib
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from _helpers.server import Handler, Served, fail, serve, stall, truncate
from _helpers.waiting import CEILING

from hemnet.storage.download import DownloadError, Patience, download

BODY = random.Random(0).randbytes(300_000)
MD5 = "md5:" + hashlib.md5(BODY).hexdigest()
# For a server that responds, even on a busy machine; and for one that is silent on purpose.
PATIENT = Patience(timeout=60.0, attempts=3, pause=0.01)
QUICK = Patience(timeout=0.3, attempts=3, pause=0.01)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as served:
        served.files["set.tar"] = BODY
        yield served


def get(served: Served, folder: Path, digest: str | None = MD5, patience: Patience = PATIENT) -> Path:
    download(f"{served.url}/set.tar", folder / "set.tar", digest, patience)
    return folder / "set.tar"


def assert_whole(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["set.tar"]
    assert (folder / "set.tar").read_bytes() == BODY


def ranges(served: Served) -> list[str | None]:
    return [wanted for _, wanted in served.seen]


def test_a_file_arrives_once(served: Served, tmp_path: Path) -> None:
    get(served, tmp_path / "new" / "folder")
    assert_whole(tmp_path / "new" / "folder")
    get(served, tmp_path / "new" / "folder")
    assert ranges(served) == [None]


def test_a_file_url_works_too(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    download((tmp_path / "source").as_uri(), tmp_path / "out" / "set.tar", MD5, PATIENT)
    assert_whole(tmp_path / "out")


def test_a_broken_download_resumes_where_it_ended(served: Served, tmp_path: Path) -> None:
    served.plan = [truncate(100_000), truncate(50_000), stall(20_000, CEILING)]
    get(served, tmp_path, patience=Patience(timeout=3.0, attempts=3, pause=0.01))
    assert_whole(tmp_path)
    assert ranges(served) == [None, "bytes=100000-", "bytes=150000-", "bytes=170000-"]


def test_progress_earns_patience_and_a_standstill_does_not(served: Served, tmp_path: Path) -> None:
    served.plan = [truncate(10_000)] * 9
    get(served, tmp_path)
    assert_whole(tmp_path)
    served.plan, served.seen[:] = [truncate(10_000)] + [truncate(0)] * 9, []
    with pytest.raises(
        DownloadError, match=r"ended after 10000 of 300000 bytes; the first 10000 bytes are kept"
    ):
        get(served, tmp_path / "b")
    assert len(served.seen) == PATIENT.attempts


def test_a_later_call_resumes(served: Served, tmp_path: Path) -> None:
    served.plan = [truncate(200_000), *[fail(503)] * 3]
    with pytest.raises(DownloadError, match="503"):
        get(served, tmp_path)
    assert (tmp_path / "set.tar.part").read_bytes() == BODY[:200_000]
    served.plan, served.seen[:] = [], []
    get(served, tmp_path)
    assert_whole(tmp_path)
    assert ranges(served) == ["bytes=200000-"]


def test_a_part_that_is_whole_is_not_fetched_again(served: Served, tmp_path: Path) -> None:
    served.plan = [truncate(200_000), *[fail(503)] * 3]
    with pytest.raises(DownloadError):
        get(served, tmp_path)
    (tmp_path / "set.tar.part").write_bytes(BODY)  # as if the process had been killed before the last step
    served.seen.clear()
    get(served, tmp_path)
    assert_whole(tmp_path)
    assert served.seen == []


@pytest.mark.parametrize("lack", ["ranges", "tags"])
def test_a_server_that_cannot_resume_starts_anew(served: Served, tmp_path: Path, lack: str) -> None:
    setattr(served, lack, False)
    served.plan = [truncate(100_000)]
    get(served, tmp_path)
    assert_whole(tmp_path)


def test_a_server_that_always_breaks_off_and_cannot_resume_is_given_up(
    served: Served, tmp_path: Path
) -> None:
    served.ranges, served.plan = False, [truncate(100_000)] * 99
    with pytest.raises(DownloadError, match="100000 of 300000"):
        get(served, tmp_path)
    assert len(served.seen) == PATIENT.attempts


@pytest.mark.parametrize("honest", [True, False], ids=["honours_if_range", "sends_the_piece_all_the_same"])
def test_a_file_that_changes_between_attempts_is_not_mixed(
    served: Served, tmp_path: Path, honest: bool
) -> None:
    def change(handler: Handler) -> bool:
        served.files["set.tar"] = BODY
        handler.answer(honour_if_range=honest)
        return True

    served.files["set.tar"] = bytes(400_000)
    served.plan = [truncate(100_000), change]
    get(served, tmp_path, digest=None)
    assert_whole(tmp_path)


def test_a_part_of_another_url_is_not_resumed(served: Served, tmp_path: Path) -> None:
    served.plan = [truncate(100_000), *[fail(503)] * 3]
    with pytest.raises(DownloadError):
        get(served, tmp_path)
    served.files["other.tar"] = bytes(50)
    download(f"{served.url}/other.tar", tmp_path / "set.tar", None, PATIENT)
    assert (tmp_path / "set.tar").read_bytes() == bytes(50)


def test_a_part_longer_than_the_file_is_dropped(served: Served, tmp_path: Path) -> None:
    served.plan = [truncate(100_000), *[fail(503)] * 3]
    with pytest.raises(DownloadError):
        get(served, tmp_path)
    with (tmp_path / "set.tar.part").open("ab") as part:
        part.write(bytes(300_000))
    get(served, tmp_path)
    assert_whole(tmp_path)
    assert "bytes=400000-" in ranges(served)


def test_a_damaged_note_costs_a_fresh_start_only(served: Served, tmp_path: Path) -> None:
    (tmp_path / "set.tar.part").write_bytes(b"x" * 1000)
    for text in ("", "{", "[]", '{"url": 3}'):
        (tmp_path / "set.tar.part.json").write_text(text)
        get(served, tmp_path)
        assert_whole(tmp_path)
        (tmp_path / "set.tar").rename(tmp_path / "set.tar.part")


def test_a_corrupt_file_is_removed_with_an_error(served: Served, tmp_path: Path) -> None:
    served.files["set.tar"] = b"x" + BODY[1:]
    with pytest.raises(DownloadError, match=r"invalid hash value \(md5.*the download was removed"):
        get(served, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_is_final(served: Served, tmp_path: Path, code: int) -> None:
    served.plan = [fail(code)]
    with pytest.raises(DownloadError, match=str(code)):
        get(served, tmp_path)
    assert len(served.seen) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [429, 500, 503])
def test_trouble_passes(served: Served, tmp_path: Path, code: int) -> None:
    served.plan = [fail(code), fail(code)]
    get(served, tmp_path)
    assert_whole(tmp_path)


@pytest.mark.parametrize("after", [0, 1000])
def test_a_server_that_stays_silent_is_given_up(served: Served, tmp_path: Path, after: int) -> None:
    served.plan = [stall(after, CEILING), *[stall(0, CEILING)] * 4]
    with pytest.raises(DownloadError, match="sent nothing for too long"):
        get(served, tmp_path, patience=QUICK)


def test_no_server(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(DownloadError, match="refused"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/x", tmp_path / "x", None, PATIENT)
    for url in ("no url", "http://127.0.0.1/with space", "file:///nowhere/at/all"):
        with pytest.raises(DownloadError, match=url):
            download(url, tmp_path / "x", None, PATIENT)
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_the_disk_is_not_begun(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 299_999, 299_999)
    )
    with pytest.raises(DownloadError, match="300000 bytes are missing and the disk has 299999 free"):
        get(served, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot be stored in"):
        get(served, tmp_path / "file")


def test_two_that_want_one_file_take_turns(served: Served, tmp_path: Path) -> None:
    served.slowness = 0.01
    threads = [threading.Thread(target=get, args=(served, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(tmp_path)
    assert len(served.seen) == 1
