"""Callbacks in a tiny run."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from _helpers.toy import data, task, trainer
from PIL import Image

from hemnet.callbacks.prediction_images import PredictionImages
from hemnet.callbacks.progress import RunProgress
from hemnet.figures.predictions import Row, legend, predictions_page


def test_progress_shows_step_loss_and_score(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hemnet"):
        fit = trainer(tmp_path, max_epochs=2, callbacks=[RunProgress()], enable_checkpointing=False)
        fit.fit(task(), datamodule=data())
    lines = [record.getMessage() for record in caplog.records if record.name == "hemnet.callbacks.progress"]
    assert len(lines) == 2  # the sanity check writes none
    expected = r"epoch 1  step 2/4  train/loss \S+  val/miou 0\.\d+  \S+ s/step  eta 0:\d\d:\d\d"
    assert re.fullmatch(expected, lines[0])
    assert lines[1].endswith("eta 0:00:00")


def test_the_page_shows_samples_spread_over_the_split(tmp_path: Path) -> None:
    callback = PredictionImages(str(tmp_path / "page.png"), count=3)
    fit = trainer(tmp_path, max_epochs=1, callbacks=[callback], enable_checkpointing=False)
    fit.fit(task(), datamodule=data(val=5))
    assert [row.name for row in callback._rows] == ["0", "2", "4"]
    assert Image.open(tmp_path / "page.png").size[0] == 1100


def test_a_page_without_images_has_none_of_their_colours(tmp_path: Path) -> None:
    spec = task().spec
    image = np.full((32, 32, 3), (10, 200, 30), np.uint8)
    truth = np.zeros((64, 64), np.int64)
    rows = [Row("a", image, truth, truth + 1)]
    for show_images in (True, False):
        predictions_page(rows, spec, tmp_path / "page.png", show_images=show_images)
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
        assert (pixels == (10, 200, 30)).all(axis=-1).any() == show_images
    legend(spec, tmp_path / "legend.png")
    assert Image.open(tmp_path / "legend.png").size[0] > 100
