"""The cache of decoded samples: the very samples, and never those of other or former files."""

import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from _helpers.miniatures import write_pascal_context
from _helpers.waiting import CEILING
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import multiprocessing

from hemnet.data import (
    Cached,
    CamVid,
    DataError,
    Fingerprint,
    Folder,
    Mosaic,
    PascalContext,
    Reader,
    Sample,
    readers,
)
from hemnet.data import cache as cache_module
from hemnet.data.module import SegmentationData
from hemnet.data.spec import DatasetSpec
from hemnet.data.transforms import EvalTransform, TrainTransform

SPEC = DatasetSpec("drawn", ("a", "b"), ((1, 0, 0), (0, 1, 0)))


class Drawn:
    """Samples of given sizes, counted as they are read."""

    spec = SPEC

    def __init__(self, sizes: list[tuple[int, int]], state: str = "0") -> None:
        self.sizes, self.state, self.reads = sizes, state, 0

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, index: int) -> Sample:
        self.reads += 1
        size, rng = self.sizes[index], np.random.default_rng(index)
        image, mask = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 2, size, np.uint8)
        return Sample(image, mask, f"drawn ä {index}")

    def fingerprint(self) -> Fingerprint:
        return Fingerprint("f" * 64, self.state)


def assert_same(one: Reader, other: Reader) -> None:
    assert len(one) == len(other)
    assert one.spec == other.spec
    for i in range(len(one)):
        assert_equal(one.read(i), other.read(i))


def assert_equal(sample: Sample, true: Sample) -> None:
    assert sample.name == true.name
    for found, expected in zip(sample[:2], true[:2], strict=True):
        assert (found.dtype, found.shape) == (np.uint8, expected.shape)
        assert (found == expected).all()


def the_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


# -- the very samples ----------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=40))
def test_samples_of_any_size_come_back(sizes: list[tuple[int, int]]) -> None:
    with TemporaryDirectory() as folder:
        drawn = Drawn(sizes)
        cached = Cached(drawn, folder)
        assert_same(cached, Drawn(sizes))
        made = drawn.reads
        assert_same(cached, Drawn(sizes))
        assert_same(Cached(drawn, folder), Drawn(sizes))
        assert drawn.reads == made
        pixels = sum(height * width for height, width in sizes)
        assert the_file(Path(folder)).stat().st_size > 4 * pixels


def test_what_is_read_may_be_written_to(tmp_path: Path) -> None:
    cached = Cached(Drawn([(3, 5)] * 2), tmp_path)
    sample = cached.read(1)
    sample.image_HWC[:], sample.mask_HW[:] = 7, 7
    assert_same(cached, Drawn([(3, 5)] * 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_and_evaluation_see_the_same_batches(
    workers: int, camvid_root: Path, tmp_path: Path
) -> None:
    def data(folder: Path | None) -> SegmentationData:
        splits = CamVid(camvid_root, "train"), CamVid(camvid_root, "val")
        return SegmentationData(
            *splits, TrainTransform(20), EvalTransform(), 2, num_workers=workers, cache=folder
        )

    plain, cached = data(None), data(tmp_path / "cache")
    for _ in range(2):
        for make in (SegmentationData.train_dataloader, SegmentationData.val_dataloader):
            for one, other in zip(make(plain), make(cached), strict=True):
                assert one["name"] == other["name"]
                assert torch.equal(one["image"], other["image"])
                assert torch.equal(one["mask"], other["mask"])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for file in camvid_root.rglob("*.png"):
        file.unlink()
    assert len(list(cached.train_dataloader())) == 3  # decoded once


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_copy_in_another_process_opens_the_file_for_itself(method: str, tmp_path: Path) -> None:
    cached = Cached(Drawn([(30, 40)] * 9), tmp_path)
    cached.prepare()
    assert len(pickle.dumps(cached)) < 2000
    assert_same(pickle.loads(pickle.dumps(cached)), Drawn([(30, 40)] * 9))
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool:
        sample = pool.apply(cached.read, (4,))
    assert_equal(sample, Drawn([(30, 40)] * 9).read(4))


# -- never those of former files -----------------------------------------------------------------------------


def repaint(root: Path) -> None:
    Image.fromarray(np.full((24, 32, 3), 9, np.uint8)).save(root / "train" / "train_2.png")


def pad(path: Path) -> None:
    """Make a PNG file 4096 bytes long; decoders stop before."""
    path.write_bytes(path.read_bytes().ljust(4096, b"\0"))


def relabel(root: Path) -> None:
    """Another mask of as many bytes."""
    path = root / "trainannot" / "train_2.png"
    before, swapped = path.stat(), np.array(Image.open(path))
    swapped[0, 0], swapped[0, 1] = swapped[0, 1], swapped[0, 0]
    Image.fromarray(swapped).save(path)
    pad(path)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [repaint, relabel])
def test_a_changed_file_is_noticed(change: Callable[[Path], None], camvid_root: Path, tmp_path: Path) -> None:
    pad(camvid_root / "trainannot" / "train_2.png")
    Cached(CamVid(camvid_root, "train"), tmp_path / "cache").prepare()
    before = CamVid(camvid_root, "train").read(2)
    change(camvid_root)
    after = CamVid(camvid_root, "train")
    assert any((a != b).any() for a, b in zip(after.read(2)[:2], before[:2], strict=True))
    assert_same(Cached(after, tmp_path / "cache"), after)
    the_file(tmp_path / "cache")  # in the place of the former


def test_other_files_and_other_options_have_a_cache_of_their_own(camvid_root: Path, tmp_path: Path) -> None:
    splits = [CamVid(camvid_root, "train"), CamVid(camvid_root, "val")]
    for name in ("images", "masks"):
        (tmp_path / "own" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "own" / "images" / "1.png")
    Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8).repeat(2, 0).repeat(3, 1)).save(
        tmp_path / "own" / "masks" / "1.png"
    )
    orders = [[*"abc"], [*"cab"]]
    (tmp_path / "turned.yaml").write_text("names: [a, b, c]\nlabels: [2, 0, 1]\n")
    classes = [*orders, str(tmp_path / "turned.yaml")]
    owns = [Folder(tmp_path / "own", "train", names, "images", "masks") for names in classes]
    for reader in (*splits, *owns):
        Cached(reader, tmp_path / "cache").prepare()
    assert len(list((tmp_path / "cache").iterdir())) == 5
    for reader in (*splits, *owns):
        assert_same(Cached(reader, tmp_path / "cache"), reader)


def test_an_option_that_changes_labels_alone_counts(tmp_path: Path) -> None:
    write_pascal_context(tmp_path / "set")
    plain, more = (PascalContext(tmp_path / "set", "train", background=value) for value in (False, True))
    assert plain.fingerprint().settings != more.fingerprint().settings
    assert plain.fingerprint() == PascalContext(tmp_path / "set", "train").fingerprint()


def test_files_that_change_while_they_are_read_are_not_cached(tmp_path: Path) -> None:
    class Restless(Drawn):
        def fingerprint(self) -> Fingerprint:
            return Fingerprint("f" * 64, str(self.reads))

    with pytest.raises(DataError, match="changed while they were cached"):
        Cached(Restless([(2, 2)]), tmp_path).prepare()
    assert not list(tmp_path.iterdir())


# -- damage --------------------------------------------------------------------------------------------------


def cut(content: bytes) -> bytes:
    return content[:-1]


def cut_samples(content: bytes) -> bytes:
    return content[100:]


def empty(content: bytes) -> bytes:
    return b""


def flip_pixel(content: bytes) -> bytes:
    return content[:50] + bytes([content[50] ^ 1]) + content[51:]


def flip_index(content: bytes) -> bytes:
    return content[:-60] + bytes([content[-60] ^ 1]) + content[-59:]


def other_format(content: bytes) -> bytes:
    return content[:-1] + b"\x07"


@pytest.mark.parametrize("damage", [cut, cut_samples, empty, flip_pixel, flip_index, other_format])
def test_damage_is_noticed_and_made_good(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [(5, 7), (8, 3), (6, 6)]
    Cached(Drawn(sizes), tmp_path).prepare()
    whole = the_file(tmp_path).read_bytes()
    assert damage(whole) != whole
    the_file(tmp_path).write_bytes(damage(whole))
    drawn = Drawn(sizes)
    with caplog.at_level(logging.INFO):
        assert_same(Cached(drawn, tmp_path), Drawn(sizes))
    assert drawn.reads == 6  # three to estimate the size, three to fill the file
    assert "the cache is incomplete" in caplog.text or "damaged" in caplog.text
    assert the_file(tmp_path).read_bytes() == whole


def test_a_sample_that_cannot_be_read_leaves_nothing_behind(camvid_root: Path, tmp_path: Path) -> None:
    path = camvid_root / "train" / "train_3.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"train_3\.png: not a readable image"):
        Cached(CamVid(camvid_root, "train"), tmp_path / "cache").prepare()
    assert not list((tmp_path / "cache").iterdir())
    reader = CamVid(camvid_root, "val")
    (camvid_root / "val" / "val_1.png").unlink()
    with pytest.raises(DataError, match=r"val_1\.png: No such file"):
        Cached(reader, tmp_path).prepare()


# -- limits --------------------------------------------------------------------------------------------------


def test_a_cache_over_the_limit_is_refused_before_and_while_it_is_made(tmp_path: Path) -> None:
    gib = 4 * 40 * 100 / 2**30
    Cached(Drawn([(10, 10)] * 40), tmp_path / "fits", 1.001 * gib).prepare()
    with pytest.raises(DataError, match=r"data\.cache=null.*cache_gib"):
        Cached(Drawn([(10, 10)] * 40), tmp_path / "not", 0.999 * gib).prepare()
    sizes = [(10, 10) if i % 3 == 0 else (20, 20) for i in range(40)]  # the probes are the small ones
    drawn = Drawn(sizes)
    with pytest.raises(DataError, match="the limit is"):
        Cached(drawn, tmp_path / "not", 1.5 * gib).prepare()
    assert 14 < drawn.reads < 54
    assert not list((tmp_path / "not").iterdir())
    with pytest.raises(ValueError, match="must be > 0"):
        Cached(drawn, tmp_path, 0)


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = cache_module.shutil._ntuple_diskusage  # type: ignore[attr-defined]
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 300, 300))
    with pytest.raises(DataError, match=r"the disk has 0\.00 GiB left"):
        Cached(Drawn([(10, 10)]), tmp_path).prepare()
    Cached(Drawn([(8, 9)]), tmp_path).prepare()


def test_a_folder_that_cannot_be_made_and_a_reader_without_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"taken.*cannot be kept there.*data\.cache=null"):
        Cached(Drawn([(2, 2)]), tmp_path / "taken" / "cache").prepare()
    with pytest.raises(DataError, match="Mosaic has no method fingerprint"):
        Cached(Mosaic("train", 2, 16, 4), tmp_path)


# -- several processes ---------------------------------------------------------------------------------------


def read_all(root: Path, folder: Path, start: Any, answers: Any) -> None:
    """In a process of its own: what is read, and how many files were decoded for it."""
    decoded = []
    original = readers.read_image
    readers.read_image = lambda path: decoded.append(path) or original(path)
    cached = Cached(CamVid(root, "train"), folder)
    start.wait()
    digest = hashlib.sha256()
    for i in range(len(cached)):
        image, mask, name = cached.read(i)
        digest.update(image.tobytes() + mask.tobytes() + name.encode())
    answers.put((digest.hexdigest(), len(decoded)))


def test_processes_that_want_the_same_file_at_once_make_one(camvid_root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(3), context.Queue()
    started = [
        context.Process(target=read_all, args=(camvid_root, tmp_path / "cache", start, answers))
        for _ in range(3)
    ]
    for process in started:
        process.start()
    found = [answers.get(timeout=CEILING) for _ in started]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    true = hashlib.sha256()
    for i in range(6):
        image, mask, name = CamVid(camvid_root, "train").read(i)
        true.update(image.tobytes() + mask.tobytes() + name.encode())
    assert {digest for digest, _ in found} == {true.hexdigest()}
    # One of them decoded six files to estimate the size and six to fill the file, the others none.
    assert sorted(decoded for _, decoded in found) == [0, 0, 12]
    the_file(tmp_path / "cache")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    Cached(Drawn([(4, 4)]), tmp_path).prepare()
    file = the_file(tmp_path)
    file.rename(file.with_name(f".{file.stem}.12345678.part{file.suffix}"))
    Cached(Drawn([(4, 4)]), tmp_path).prepare()
    assert the_file(tmp_path) == file
