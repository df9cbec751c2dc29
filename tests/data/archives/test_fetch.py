"""Getting a data set from a local server: whole and recorded, or nothing of it in place."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from _helpers.server import Served, serve, truncate
from _helpers.tar_files import entry, write, write_tar

from hemnet.data.archives.catalogue import CATALOGUE, Catalogued, Source
from hemnet.data.archives.fetch import describe, fetch, missing
from hemnet.data.spec import DataError
from hemnet.storage.download import DownloadError, Patience

QUICK = Patience(timeout=60.0, attempts=2, pause=0.01)
IMAGES = {"top/set/a.png": b"a" * 900, "top/set/b.png": b"b" * 900, "top/README": b"r"}


class Shop:
    """A server with a data set of two archives and a plain file, and the folder where it is to go."""

    def __init__(self, served: Served, tmp_path: Path) -> None:
        self.served, self.root, self._tmp = served, tmp_path / "data" / "mini", tmp_path
        served.files["images.tar"] = write("tar", tmp_path / "i", IMAGES).read_bytes()
        served.files["masks.zip"] = write("zip", tmp_path / "m", {"one/x": b"x", "two/y": b"y"}).read_bytes()
        served.files["names.txt"] = b"names"
        images = Source("images.tar", f"{served.url}/images.tar", ("set",), counts=(("set/*.png", 2),))
        masks = Source("masks.zip", f"{served.url}/masks.zip", ("one", "two"), into="masks")
        names = Source("names.txt", f"{served.url}/names.txt", ("names.txt",), packed=False)
        self.entry = Catalogued("mini", "free", "http://page", (images, masks, names))

    def change(self, **changes: object) -> None:
        """Change the first source."""
        first, *others = self.entry.sources
        self.entry = replace(self.entry, sources=(replace(first, **changes), *others))

    def fetch(self) -> list[str]:
        return [source.name for source in fetch(self.entry, self.root, patience=QUICK)]

    def tree(self) -> set[str]:
        """The files in place, downloads and the marker apart."""
        paths = {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}
        return {p for p in paths if not p.startswith(".download/") and p != ".hemnet-data.json"}


ALL = {"set/a.png", "set/b.png", "masks/one/x", "masks/two/y", "names.txt"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as served:
        yield Shop(served, tmp_path)


def test_everything_is_put_in_place_once_and_recorded(shop: Shop) -> None:
    assert shop.fetch() == ["images.tar", "masks.zip", "names.txt"]
    assert shop.tree() == ALL
    marks = json.loads((shop.root / ".hemnet-data.json").read_text())
    body = shop.served.files["images.tar"]
    assert marks["images.tar"] == {
        "url": f"{shop.served.url}/images.tar", "sha256": hashlib.sha256(body).hexdigest(), "files": 3,
        "whole": True,
    }  # fmt: skip
    requests = len(shop.served.seen)
    assert missing(shop.entry, shop.root) == []
    assert shop.fetch() == []
    assert len(shop.served.seen) == requests


def test_only_what_is_missing_is_fetched(shop: Shop) -> None:
    shop.fetch()
    (shop.root / "names.txt").unlink()
    (shop.root / ".download" / "names.txt").unlink()
    assert shop.fetch() == ["names.txt"]


def test_data_put_there_by_hand_is_left_alone(shop: Shop) -> None:
    (shop.root / "set").mkdir(parents=True)
    (shop.root / "set" / "own.png").write_text("own")
    assert shop.fetch() == ["masks.zip", "names.txt"]
    assert (shop.root / "set" / "own.png").read_text() == "own"


def test_what_half_lies_there_is_never_overwritten(shop: Shop) -> None:
    (shop.root / "masks" / "one").mkdir(parents=True)
    with pytest.raises(DataError, match=r"masks/one exists, but not all of one, two"):
        shop.fetch()
    assert list((shop.root / "masks").rglob("*")) == [shop.root / "masks" / "one"]


def test_a_download_placed_by_hand_is_used_if_it_is_the_right_one(shop: Shop) -> None:
    body = shop.served.files.pop("images.tar")
    shop.change(digest="md5:" + hashlib.md5(body).hexdigest())
    (shop.root / ".download").mkdir(parents=True)
    (shop.root / ".download" / "images.tar").write_bytes(body + b"\0")
    with pytest.raises(DownloadError, match="invalid hash value"):
        shop.fetch()
    assert (shop.root / ".download" / "images.tar").exists()
    (shop.root / ".download" / "images.tar").write_bytes(body)
    shop.fetch()
    assert shop.tree() == ALL
    assert json.loads((shop.root / ".hemnet-data.json").read_text())["images.tar"]["md5"]


def test_a_wrong_published_hash_stops_it_before_anything_is_unpacked(shop: Shop) -> None:
    shop.change(digest="md5:" + "0" * 32)
    with pytest.raises(DownloadError, match="the download was removed"):
        shop.fetch()
    assert shop.tree() == set()
    assert list((shop.root / ".download").iterdir()) == []


@pytest.mark.parametrize("case", ["cut", "hostile", "empty", "other content", "web page"])
def test_a_bad_archive_is_set_aside_and_leaves_nothing(shop: Shop, case: str, tmp_path: Path) -> None:
    good = shop.served.files["images.tar"]
    shop.served.files["images.tar"] = {
        "cut": good[:1500],
        "hostile": write_tar(tmp_path / "h", IMAGES, entry("../../escaped")).read_bytes(),
        "empty": b"",
        "other content": write("zip", tmp_path / "o", {"other/a.png": b""}).read_bytes(),
        "web page": b"<html>Please log in</html>" * 50,
    }[case]
    with pytest.raises(DataError, match=r"renamed to images\.tar\.rejected"):
        shop.fetch()
    assert shop.tree() == set()
    assert sorted(p.name for p in shop.root.iterdir()) == [".download"]
    shop.served.files["images.tar"] = good
    shop.fetch()
    assert shop.tree() == ALL


def test_too_few_files_are_said_and_none_are_refused(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.change(counts=(("set/*.png", 3),))
    with caplog.at_level(logging.WARNING):
        shop.fetch()
    assert "contains 2 of set/*.png, expected 3" in caplog.text
    shop.change(name="again.tar", units=("top",), counts=(("top/set/*.jpg", 3),))
    shop.served.files["images.tar"] = write("tar", shop.root / "t", IMAGES).read_bytes()
    with pytest.raises(DataError, match=r"contains no top/set/\*\.jpg, expected 3"):
        shop.fetch()


def test_a_broken_download_leaves_a_part_alone_and_goes_on(shop: Shop) -> None:
    shop.served.plan = [truncate(1000), truncate(0), truncate(0)]
    with pytest.raises(DownloadError, match="the first 1000 bytes are kept"):
        shop.fetch()
    assert shop.tree() == set()
    shop.fetch()
    assert shop.tree() == ALL
    assert ("/images.tar", "bytes=1000-") in shop.served.seen


def test_a_process_killed_while_unpacking_or_renaming_leaves_nothing_in_the_way(shop: Shop) -> None:
    shop.fetch()
    marker = shop.root / ".hemnet-data.json"
    marks = json.loads(marker.read_text())
    marks["masks.zip"]["whole"] = False
    marker.write_text(json.dumps(marks))
    (shop.root / "masks" / "two" / "y").unlink()
    (shop.root / ".unpacking-x1" / "half").mkdir(parents=True)
    assert shop.fetch() == ["masks.zip"]
    assert shop.tree() == ALL
    assert not (shop.root / ".unpacking-x1").exists()


def test_what_is_behind_a_login_is_explained_then_used(shop: Shop, tmp_path: Path) -> None:
    body = shop.served.files.pop("images.tar")
    shop.change(url=None)
    with pytest.raises(DataError, match=r"log in at http://page, download images\.tar into .*\.download"):
        shop.fetch()
    assert shop.served.seen == []
    (shop.root / ".download" / "images.tar").write_bytes(body)
    shop.fetch()
    assert shop.tree() == ALL


def test_a_damaged_marker_is_named(shop: Shop) -> None:
    shop.fetch()
    (shop.root / ".hemnet-data.json").write_text("{")
    with pytest.raises(DataError, match=r"hemnet-data\.json cannot be read"):
        missing(shop.entry, shop.root)


def test_a_mirror_is_asked_instead(shop: Shop) -> None:
    shop.change(url="http://127.0.0.1:9/images.tar")
    fetch(shop.entry, shop.root, f"{shop.served.url}/some/folder/", QUICK)
    assert shop.tree() == ALL
    assert shop.served.seen[0][0] == "/some/folder/images.tar"


def test_a_root_that_is_a_file_is_an_error(shop: Shop) -> None:
    shop.root.parent.mkdir()
    shop.root.write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        shop.fetch()


def test_what_is_to_come_is_told() -> None:
    entry = CATALOGUE["voc_aug"]
    text = "\n".join(describe(entry, list(entry.sources), Path("/d"), None))
    for part in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz", "2.0 GB", "md5 known", "terms:", entry.page):
        assert part in text


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_is_sound(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.name == name
    assert len({source.name for source in entry.sources}) == len(entry.sources)
    places = [(source.into, unit) for source in entry.sources for unit in source.units]
    assert len(set(places)) == len(places)
    for source in entry.sources:
        assert source.url is None or source.url.startswith(("http://", "https://"))
        for pattern, count in source.counts:
            assert count > 0
            assert any(pattern.startswith(unit) for unit in source.units)
