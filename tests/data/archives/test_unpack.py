"""Archives, good, damaged and hostile: what is unpacked is whole, and nothing lands outside."""

import contextlib
import gzip
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from _helpers.tar_files import entry, write, write_tar

from hemnet.data.archives.unpack import ArchiveError, unpack

CONTENT = {"set/a.png": random.Random(0).randbytes(3000), "set/sub/b.txt": b"b" * 700, "c.txt": b""}
KINDS = ["tar", "tgz", "zip"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "folder"
    folder.mkdir(parents=True)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_packed_comes_out(kind: str, tmp_path: Path, folder: Path) -> None:
    done = unpack(write(kind, tmp_path / "x", CONTENT), folder)
    assert tree(folder) == CONTENT
    assert (done.files, done.size, done.links) == (3, 3700, [])


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_is_cut_or_damaged_it_is_found_out(kind: str, tmp_path: Path, folder: Path) -> None:
    whole = write(kind, tmp_path / "x", CONTENT).read_bytes()
    end = len(whole) if kind != "tar" else len(whole.rstrip(b"\0")) + 512
    draw = random.Random(1)
    cuts = [0, 1, *(draw.randrange(end) for _ in range(40))]
    if kind == "tar":
        cuts += list(range(512, end, 512))  # between blocks, where an entry may end
    for number, cut in enumerate(cuts):
        (tmp_path / "y").write_bytes(whole[:cut])
        place = folder / str(number)
        place.mkdir()
        with pytest.raises(ArchiveError, match="corrupt or cut short"):
            unpack(tmp_path / "y", place)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_or_harmless(kind: str, tmp_path: Path, folder: Path) -> None:
    whole, draw = write(kind, tmp_path / "x", CONTENT).read_bytes(), random.Random(2)
    found = 0
    for number in range(120):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        (tmp_path / "y").write_bytes(damaged)
        place = folder / str(number)
        place.mkdir()
        try:
            unpack(tmp_path / "y", place)
        except ArchiveError:
            found += 1
        else:
            # A tar has no checksums of content, and dates do not matter; but no file may be missing.
            assert len(tree(place)) == 3
    assert found > 20
    assert sorted(path.name for path in folder.parent.iterdir()) == ["folder"]


def test_a_damaged_header_does_not_end_a_tar(tmp_path: Path, folder: Path) -> None:
    damaged = bytearray(write("tar", tmp_path / "x", CONTENT).read_bytes())
    damaged[damaged.index(b"set/sub/b.txt")] ^= 1
    (tmp_path / "x").write_bytes(damaged)
    with pytest.raises(ArchiveError, match="between two entries"):
        unpack(tmp_path / "x", folder)


HOSTILE: dict[str, tuple[Callable[[], tarfile.TarInfo], str]] = {
    "absolute": (lambda: entry("/tmp/hemnet-escaped"), "no plain relative path"),
    "parent": (lambda: entry("../escaped"), "leads out"),
    "hidden parent": (lambda: entry("set/../../escaped"), "leads out"),
    "drive": (lambda: entry("c:/escaped"), "no plain relative path"),
    "backslash": (lambda: entry("..\\escaped"), "no plain relative path"),
    "folder out": (lambda: entry("../escaped", tarfile.DIRTYPE), "leads out"),
    "symlink out": (lambda: entry("set/link", tarfile.SYMTYPE, "../../escaped"), "link out"),
    "symlink to root": (lambda: entry("set/link", tarfile.SYMTYPE, "/etc"), "link out"),
    "hard link out": (lambda: entry("link", tarfile.LNKTYPE, "../victim"), "link out"),
    "hard link to root": (lambda: entry("link", tarfile.LNKTYPE, "/etc/passwd"), "link out"),
    "character device": (lambda: entry("null", tarfile.CHRTYPE), "device"),
    "block device": (lambda: entry("disk", tarfile.BLKTYPE), "device"),
    "fifo": (lambda: entry("pipe", tarfile.FIFOTYPE), "device"),
    "twice": (lambda: entry("c.txt"), "comes twice"),
    "twice by another name": (lambda: entry("set/./a.png"), "comes twice"),
    "file for a folder": (lambda: entry("set"), "comes twice"),
    "folder for a file": (lambda: entry("c.txt/d"), "comes twice"),
    "too long a name": (lambda: entry("x" * 300), "names that cannot be"),
    "too deep": (lambda: entry("a/" * 40 + "b", tarfile.DIRTYPE), "more than 32 folders deep"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused(case: str, tmp_path: Path, folder: Path) -> None:
    make, said = HOSTILE[case]
    (folder.parent / "victim").write_text("untouched")
    with pytest.raises(ArchiveError, match=said):
        unpack(write_tar(tmp_path / "x", CONTENT, make()), folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["folder", "victim"]
    assert (folder.parent / "victim").stat().st_nlink == 1
    assert not Path("/tmp/hemnet-escaped").exists()


def test_a_folder_over_a_file_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ArchiveError, match="comes twice"):
        unpack(write_tar(tmp_path / "x", CONTENT, entry("c.txt", tarfile.DIRTYPE)), folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [("../escaped", "leads out"), ("/tmp/hemnet-escaped", "no plain relative"), ("a//../../b", "leads out")],
)
def test_a_hostile_zip_is_refused(name: str, said: str, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ArchiveError, match=said):
        unpack(write("zip", tmp_path / "x", {**CONTENT, name: b"x"}), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("kind", "target", "said"),
    [
        (stat.S_IFLNK, "../../escaped", "link out"),
        (stat.S_IFLNK, "/etc", "link out"),
        (stat.S_IFIFO, "", "device"),
    ],
)
def test_a_zip_with_links_out_or_devices_is_refused(
    kind: int, target: str, said: str, tmp_path: Path, folder: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        info = zipfile.ZipInfo("set/link")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, target)
    with pytest.raises(ArchiveError, match=said):
        unpack(tmp_path / "x", folder)


def test_links_within_are_left_out_and_nothing_is_written_through_them(tmp_path: Path, folder: Path) -> None:
    links = [entry("set/sub/link", tarfile.SYMTYPE, "../a.png"), entry("hard", tarfile.LNKTYPE, "set/a.png")]
    done = unpack(write_tar(tmp_path / "x", CONTENT, *links), folder)
    assert done.links == ["set/sub/link", "hard"]
    assert tree(folder) == CONTENT
    # The classic: a link, then a file "through" it. No link was made: the file lands in a plain folder.
    with tarfile.open(tmp_path / "y", "w") as archive:
        archive.addfile(entry("through", tarfile.SYMTYPE, "set"))
        archive.addfile(entry("through/x"))
    (folder / "2").mkdir()
    unpack(tmp_path / "y", folder / "2")
    assert not (folder / "2" / "through").is_symlink()
    assert (folder / "2" / "through" / "x").is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_stopped(kind: str, tmp_path: Path, folder: Path) -> None:
    bomb = write(kind, tmp_path / "x", {"zeros": bytes(4_000_000)})
    with pytest.raises(ArchiveError, match="over the 1000000 bytes allowed"):
        unpack(bomb, folder, limit=1_000_000)
    assert sum(map(len, tree(folder).values())) <= 1_000_000


def test_a_bomb_behind_the_end_is_stopped(tmp_path: Path, folder: Path) -> None:
    tar = write("tar", tmp_path / "x", CONTENT).read_bytes()
    (tmp_path / "y").write_bytes(gzip.compress(tar + bytes(9_000_000)))
    with pytest.raises(ArchiveError, match="what follows the last entry, exceed"):
        unpack(tmp_path / "y", folder, limit=1_000_000)


def test_permissions_are_those_of_new_files(tmp_path: Path, folder: Path) -> None:
    special = entry("run")
    special.mode = 0o6777
    unpack(write_tar(tmp_path / "x", CONTENT, special), folder)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((folder / "run").stat().st_mode) == 0o666 & ~mask


def test_an_encrypted_zip_is_refused(tmp_path: Path, folder: Path) -> None:
    whole = bytearray(write("zip", tmp_path / "x", {"a": b"a"}).read_bytes())
    whole[6] |= 1
    whole[whole.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x").write_bytes(whole)
    with pytest.raises(ArchiveError, match="encrypted"):
        unpack(tmp_path / "x", folder)


def test_folders_and_links_are_counted_too(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemnet.data.archives.unpack.MOST_FILES", 9)
    folders = [entry(f"d{i}", tarfile.DIRTYPE) for i in range(5)]
    links = [entry(f"l{i}", tarfile.SYMTYPE, "c.txt") for i in range(5)]
    with pytest.raises(ArchiveError, match="is more than the 9 that an archive may have"):
        unpack(write_tar(tmp_path / "x", CONTENT, *folders, *links), folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_not_blamed_on_the_disk(method: int, tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w", method) as archive:
        archive.writestr("a", b"hello" * 99)
    whole, draw = (tmp_path / "x").read_bytes(), random.Random(3)
    for number in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] = draw.randrange(256)
        (tmp_path / "y").write_bytes(damaged)
        (folder / str(number)).mkdir()
        with contextlib.suppress(ArchiveError):  # and not an OSError, which tells to make room
            unpack(tmp_path / "y", folder / str(number))
