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
from matplotlib.figure import Figure
from PIL import Image

from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.data import CAMVID, DataError, read_image
from hemnet.errors import HemnetError
from hemnet.figures import caption
from hemnet.figures.predictions import record_of
from hemnet.runs.run import Run
from hemnet.storage.files import file_digest
from hemnet.training.inference import segment
from hemnet.using import pictures
from hemnet.using.overlay_video import OverlayVideo, record_of_video
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
    # Its record is in the file, which players pass over.
    record = record_of_video(out / "clip_overlay.mp4")
    assert record == record_of(out / "legend.png") | {"video_sha256": file_digest(video, "sha256")}
    predict(run, video, "last", out)
    (out / "clip_overlay.mp4").write_bytes(b"mine")
    with pytest.raises(HemnetError, match=r"clip_overlay\.mp4 exists, and does not say"):
        predict(run, video, "last", out)
    assert (out / "clip_overlay.mp4").read_bytes() == b"mine"
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"no\.mp4: OpenCV cannot open this video"):
        predict(run, tmp_path / "no.mp4", "last", tmp_path / "other")


def video_of(path: Path, frames: int) -> Path:
    written = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (36, 24))
    if not written.isOpened():
        pytest.skip("this OpenCV writes no video")
    for seed in range(frames):
        written.write(np.random.default_rng(seed).integers(0, 256, (24, 36, 3), dtype=np.uint8))
    written.release()
    return path


def test_a_video_that_is_cut_short_is_told_after_its_frames_are_done(run: Path, tmp_path: Path) -> None:
    video = video_of(tmp_path / "clip.avi", 12)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"clip\.avi: OpenCV reads \d of 12 frames, .* cut short or damaged"):
        predict(run, video, "last", tmp_path / "out")
    masks = len(list((tmp_path / "out" / "clip").glob("*_mask.png")))
    assert 0 < masks < 12
    assert int(cv2.VideoCapture(str(tmp_path / "out" / "clip_overlay.mp4")).get(7)) == masks


def test_a_video_of_overlays_is_whole_or_not_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, out = video_of(tmp_path / "clip.avi", 3), tmp_path / "out"
    predict(run, video, "last", out)
    before, add = (out / "clip_overlay.mp4").read_bytes(), OverlayVideo.add

    def lose(self: OverlayVideo, frame: np.ndarray) -> None:
        add(self, frame)
        self._count += 1  # a frame that OpenCV took, and lost without a word, as on a full disk

    monkeypatch.setattr(OverlayVideo, "add", lose)
    with pytest.raises(HemnetError, match=r"cannot write .* \(3 of 6 frames were written\): choose another"):
        predict(run, video, "last", out)
    assert (out / "clip_overlay.mp4").read_bytes() == before
    assert not list(out.glob(".*"))


def test_outputs_are_no_inputs_wherever_they_are(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for i, name in enumerate(["a.png", "trip/b.jpg"]):
        photograph(photos / name, i)
    (tmp_path / "link").symlink_to(photos)
    outputs = (tmp_path / "x" / ".." / "photos" / "out", tmp_path / "link" / "out2", photos, photos / "trip")
    (tmp_path / "x").mkdir()
    for output in (*outputs, *outputs):
        predict(run, photos, "last", output)
        assert "2 images segmented, 0 not" in capsys.readouterr().out
    predict(run, photos, "last", tmp_path / "flipped", ["inference.flip=true"])
    said = capsys.readouterr().out
    assert "2 images segmented" in said
    assert "that hemnet wrote (a_mask, a_overlay, contact_sheet, ...)" in said
    with pytest.raises(DataError, match=r"no images in .*it holds .* that hemnet wrote"):
        predict(run, photos / "out", "last", photos / "out")


@pytest.mark.parametrize("name", ["contact_sheet.png", "legend.png"])
def test_pictures_of_a_user_are_not_replaced(run: Path, tmp_path: Path, name: str) -> None:
    for i in range(2):
        photograph(tmp_path / "in" / f"{i}.png", i)
    own = photograph(tmp_path / "out" / name, 5).read_bytes()
    with pytest.raises(HemnetError, match=f"{name} exists, and does not say that this network made it"):
        predict(run, tmp_path / "in", "last", tmp_path / "out")
    assert (tmp_path / "out" / name).read_bytes() == own
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_probabilities_of_a_user_or_of_another_image_are_not_replaced(run: Path, tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.png", 0)
    out = predict(run, path, "last", tmp_path / "out", [], Wanted(probabilities=True))
    predict(run, path, "last", out, [], Wanted(probabilities=True))
    numbers = out / "a_probabilities.npz"
    for mine in (b"mine", None):
        if mine is None:
            np.savez(numbers, probabilities=np.zeros(3))
        else:
            numbers.write_bytes(mine)
        before = numbers.read_bytes()
        with pytest.raises(DataError, match="none of 1 image"):
            predict(run, path, "last", out, [], Wanted(probabilities=True))
        assert numbers.read_bytes() == before


def test_figures_are_whole_or_not_there_and_the_reason_is_one_sentence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        photograph(tmp_path / "in" / f"{i}.png", i)
    out = predict(run, tmp_path / "in", "last", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    save = Figure.savefig

    def full(self: Figure, path: Path, **how: object) -> None:
        save(self, path, **how)
        if "contact" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(HemnetError, match=r"cannot write .*out .*No space left.*: choose another --output"):
        predict(run, tmp_path / "in", "last", out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
