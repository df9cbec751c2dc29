"""Prediction on a folder of mixed junk: the good images are segmented, the bad ones named at the end."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _helpers.untrained import photograph, untrained
from PIL import Image

from hemnet.config.command_line import SUMMARY, print_scores
from hemnet.data import CAMVID, DataError, DatasetSpec
from hemnet.data.spec import voc_colors
from hemnet.data.survey import Survey
from hemnet.datasets import _print_surveys
from hemnet.errors import HemnetError
from hemnet.figures.predictions import Row, legend, predictions_page
from hemnet.figures.scores import confusion_figure
from hemnet.using import pictures, predicted_files
from hemnet.using.prediction import Work, predict

pytestmark = pytest.mark.usefixtures("bounded")

GOOD = {
    "a b.png": (30, 20), "ü.jpg": (20, 30), "one.png": (1, 1), "wide.png": (50, 1), "tall.png": (1, 50),
}  # fmt: skip
BAD = ["empty.png", "folder.png", "loop.png", "pipe.png", "text.jpg", "x" * 251 + ".png", "zero.jpg"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a network as it was made, of CamVid's classes."""
    return untrained(tmp_path_factory.mktemp("run"))[0].path


def test_the_good_ones_are_done_and_the_bad_ones_named(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "folder.png").mkdir(parents=True)
    for name, size in {**GOOD, BAD[5]: (9, 9)}.items():
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(folder / name)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("hello")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.txt").write_text("passed over")
    with pytest.raises(DataError, match=r"7 of 12 images in .* were not segmented") as caught:
        predict(run, folder, "last", tmp_path / "out")
    for name in BAD:
        assert name in str(caught.value)
    for name, size in GOOD.items():
        assert name not in str(caught.value)
        with Image.open(tmp_path / "out" / f"{Path(name).stem}_mask.png") as mask:
            assert mask.size == size
            assert np.asarray(mask).max() < CAMVID.num_classes
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(GOOD) + 2  # a legend, and a contact sheet


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "--window",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), "--window"),
        (MemoryError("Unable to allocate 3 GiB for an array"), "--window"),
        (RuntimeError("Storage size calculation overflowed with sizes=[1, 9]"), "--window"),
        (ValueError("whatever else"), "not segmented (ValueError: whatever else)"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
@pytest.mark.parametrize(
    "where", [(Work, "_maps"), (pictures, "read_image"), (predicted_files, "write_mask")], ids=lambda w: w[1]
)
def test_an_image_that_fails_for_any_reason_stops_no_other(
    error: Exception, said: str, where: tuple[Any, str], run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for i, name in enumerate("abc"):
        photograph(tmp_path / "photos" / f"{name}.png", i)
    real = getattr(*where)

    def b_fails(*given: Any) -> Any:
        # A path of b's, or images of which one is b.
        about = [item.picture.shown for item in given[1]] if where[1] == "_maps" else [given[0].name]
        if any(name.startswith("b") for name in about):
            raise error
        return real(*given)

    monkeypatch.setattr(*where, b_fails)
    with pytest.raises(DataError, match=r"1 of 3 images in .* were not segmented: b\.png"):
        predict(run, tmp_path / "photos", "last", tmp_path / "out")
    assert said in caplog.text
    assert "b.png" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").glob("*_mask.png")) == ["a_mask.png", "c_mask.png"]


def test_predictions_of_one_origin_never_replace_those_of_another(run: Path, tmp_path: Path) -> None:
    photograph(tmp_path / "photos" / "a.png", 0)
    run = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    predict(run, tmp_path / "photos", "best", None)
    predict(run, tmp_path / "photos", "last", None)
    for how in ("inference.flip=true", "inference.window=[16,16]", "data.eval_transform.size=16"):
        predict(run, tmp_path / "photos", "last", None, [how])
    assert sorted(path.name for path in run.glob("predictions*")) == [
        "predictions", "predictions-best", "predictions-last-flip", "predictions-last-size-16",
        "predictions-last-window-16-16",
    ]  # fmt: skip
    out = predict(run, tmp_path / "photos", "last", tmp_path / "out")
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(HemnetError, match=r"settings \[\], not \['flip'\]: choose another --output"):
        predict(run, tmp_path / "photos", "last", out, ["inference.flip=true"])
    # Another photograph of the same name; and a file of the user's own.
    photograph(tmp_path / "further" / "a.png", 1)
    with pytest.raises(DataError, match="none of 1 image in"):
        predict(run, tmp_path / "further", "last", out)
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a_mask.png").write_bytes((tmp_path / "photos" / "a.png").read_bytes())
    with pytest.raises(DataError, match="none of 1 image in"):
        predict(run, tmp_path / "photos", "last", tmp_path / "own")
    predict(run, tmp_path / "photos", "last", out)
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_what_is_no_folder_and_what_cannot_be_written_to_are_named(run: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", "/dev/zero", tmp_path / "nowhere"):
        with pytest.raises(DataError, match="no image or folder at"):
            predict(run, source, "last", tmp_path / "out")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(HemnetError, match=r"cannot write .*pipe .*choose another --output"):
        predict(run, tmp_path / "x.png", "last", tmp_path / "pipe")


def test_names_of_classes_and_images_are_only_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Neither markup of a terminal nor a formula.
    names = ("[/red]", "[bold]b", "$\\frac{$", "end\\")
    spec = DatasetSpec("[/x]", names, voc_colors(1, 4))
    scores = {f"val/iou/{name}": 0.5 for name in names} | dict.fromkeys(SUMMARY.values(), 0.5)
    print_scores(scores, names, "[/title]")
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    survey = Survey(readable=1)
    _print_surveys({"train": survey}, spec, {"train": []})
    out = capsys.readouterr().out
    assert all(name in out for name in (*names, "[/x]"))
    labels = np.arange(4, dtype=np.uint8).reshape(2, 2)
    row = Row("$\\frac{$[/y]", np.zeros((2, 2, 3), np.uint8), labels, labels)
    predictions_page([row], spec, tmp_path / "page.png")
    confusion_figure(np.eye(4, dtype=np.int64), spec, tmp_path / "confusion.png")
    legend(spec, tmp_path / "legend.png")
