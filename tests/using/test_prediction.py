"""Prediction: batches, folders in folders, confidence and probabilities, videos, the contact sheet."""

import json
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from _helpers.untrained import photograph, untrained
from PIL import Image

from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.data import CAMVID, DataError, read_image
from hemnet.errors import HemnetError
from hemnet.figures import caption
from hemnet.figures.predictions import record_of
from hemnet.runs.run import Run
from hemnet.training.inference import segment
from hemnet.using import pictures
from hemnet.using.prediction import Wanted, Work, predict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("run"))[0].path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def one_by_one(run: Path, image: Path) -> np.ndarray:
    """The classes of an image by the network alone."""
    opened = Run.open(run)
    network, _ = restore(opened)
    picture = read_image(image)
    given = build_eval_transform(opened.config).prepare(picture)
    inference = build_inference(opened.config)
    return segment(lambda x, s: network(x, s).logits, given, picture.shape[:2], inference)


@pytest.mark.parametrize("batch", [1, 3])
def test_masks_are_those_of_the_images_one_by_one_whatever_goes_together(
    run: Path, tmp_path: Path, batch: int
) -> None:
    sizes = [(24, 36), (24, 36), (40, 20), (24, 36), (24, 36), (24, 36), (24, 36)]
    for i, size in enumerate(sizes):
        photograph(tmp_path / "in" / f"{i}.png", i, size)
    out = predict(run, tmp_path / "in", "last", tmp_path / "out", [], Wanted(batch=batch))
    for i, size in enumerate(sizes):
        found = pixels(out / f"{i}_mask.png")
        assert found.shape == size
        # Sums of a convolution may be added up in another order for a batch.
        assert (found == one_by_one(run, tmp_path / "in" / f"{i}.png")).mean() > 0.995
        assert record_of(out / f"{i}_overlay.png") == record_of(out / f"{i}_mask.png")


def test_images_of_one_size_go_to_the_network_together(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i, size in enumerate([(24, 36)] * 5 + [(40, 20)]):
        photograph(tmp_path / "in" / f"{i}.png", i, size)
    groups, real = [], Work._maps
    monkeypatch.setattr(Work, "_maps", lambda work, group: groups.append(len(group)) or real(work, group))
    predict(run, tmp_path / "in", "last", tmp_path / "out", [], Wanted(batch=2))
    assert groups == [2, 2, 1, 1]
    with pytest.raises(HemnetError, match="--batch 0"):
        Wanted(batch=0)


def test_images_are_read_while_others_are_segmented(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        photograph(tmp_path / "in" / f"{i}.png", i)
    begun, real_read, real_maps = threading.Event(), pictures.read_image, Work._maps

    def read(path: Path) -> np.ndarray:
        if path.name == "1.png":
            begun.set()
        return real_read(path)

    def maps(work: Work, group: list) -> list:
        # The second image is being read though the first is not done: without that this would wait in vain.
        assert begun.wait(60)
        return real_maps(work, group)

    monkeypatch.setattr(pictures, "read_image", read)
    monkeypatch.setattr(Work, "_maps", maps)
    predict(run, tmp_path / "in", "last", tmp_path / "out", [], Wanted(batch=1))


def test_folders_in_the_input_are_folders_in_the_output(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(["a.png", "trip/a.png", "trip/ü/b.jpg", "trip/.hidden/c.png", "trip/notes.txt"]):
        if name.endswith("txt"):
            (tmp_path / "in" / name).write_text("")
        else:
            photograph(tmp_path / "in" / name, i)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    out = tmp_path / "in" / "masks"  # inside the input, and never segmented itself
    for _ in range(2):
        predict(run, tmp_path / "in", "last", out)
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*_mask.png"))
    assert found == ["a_mask.png", "trip/a_mask.png", "trip/ü/b_mask.png"]
    said = capsys.readouterr().out
    assert "3 images segmented" in said
    assert "in trip: 1 of another ending" in said
    assert "loop" in said
    assert (out / "contact_sheet.png").is_file()
    assert record_of(out / "contact_sheet.png") == record_of(out / "legend.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in"):
        predict(run, tmp_path / "empty", "last", tmp_path / "out")


def test_a_file_whose_name_is_no_text_is_segmented(run: Path, tmp_path: Path) -> None:
    """An archive from Windows leaves such names; the masks keep their bytes, and the figure shows them."""
    names = [b"gr\xfcn $1$.png", "日本.png".encode()]
    for i, name in enumerate(names):
        path = photograph(tmp_path / "in" / f"{i}.png", i)
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/" + name))
    predict(run, tmp_path / "in", "last", tmp_path / "out")
    written = {os.fsencode(path.name) for path in (tmp_path / "out").iterdir()}
    assert {name.replace(b".png", b"_mask.png") for name in names} <= written
    assert b"contact_sheet.png" in written


def test_a_caption_ends_as_the_name_does() -> None:
    assert caption("a" * 20, 20) == "a" * 20
    assert caption("b" + "a" * 20, 20) == "…" + "a" * 19
    assert caption("gr\udcfcn", 20) == "gr\\xfcn"


def test_confidence_and_probabilities_are_those_of_the_softmax(run: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 0)
    out = predict(run, tmp_path / "a.png", "last", tmp_path / "out", [], Wanted(True, True))
    network, _ = restore(Run.open(run))
    picture = read_image(tmp_path / "a.png")
    given = build_eval_transform(Run.open(run).config).prepare(picture)
    with torch.no_grad():
        p_KHW = network(given[None], (24, 36)).logits.softmax(1)[0].numpy()
    with np.load(out / "a_probabilities.npz") as found:
        assert found["probabilities"].dtype == np.float16
        np.testing.assert_allclose(found["probabilities"], p_KHW, atol=5e-4)  # 2^-11 of 1
        assert found["classes"].tolist() == list(CAMVID.classes)
        assert json.loads(str(found["origin"])) == record_of(out / "a_mask.png")
    confidence = pixels(out / "a_confidence.png").astype(float)
    assert np.abs(confidence - 255 * p_KHW.max(0)).max() <= 0.51
    assert not (out / "contact_sheet.png").exists()  # of one image
    assert sorted(path.name for path in out.iterdir()) == [
        "a_confidence.png", "a_mask.png", "a_overlay.png", "a_probabilities.npz", "legend.png",
    ]  # fmt: skip


def test_the_frames_of_a_video_are_segmented_in_their_order(run: Path, tmp_path: Path) -> None:
    video = tmp_path / "clip.avi"
    written = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 5, (36, 24))
    if not written.isOpened():
        pytest.skip("this OpenCV writes no video")
    for level in (0, 80, 160, 240):
        written.write(np.full((24, 36, 3), (level, 100, 10), np.uint8))  # blue, green, red
    written.release()
    out = predict(run, video, "last", tmp_path / "out", [], Wanted(batch=2))
    names = sorted(path.name for path in (out / "clip").glob("*_mask.png"))
    assert names == [f"{number:06d}_mask.png" for number in range(1, 5)]
    # What is painted is a mixture with the frame, whose blue rises.
    blue = [pixels(out / "clip" / f"{number:06d}_overlay.png")[..., 2].mean() for number in range(1, 5)]
    assert np.all(np.diff(blue) > 20)
    joined = cv2.VideoCapture(str(out / "clip_overlay.mp4"))
    frames = []
    while (read := joined.read())[0]:
        frames.append(read[1][..., 0].mean())
    assert len(frames) == 4
    assert np.all(np.diff(frames) > 20)
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"no\.mp4: OpenCV cannot open this video"):
        predict(run, tmp_path / "no.mp4", "last", tmp_path / "other")
