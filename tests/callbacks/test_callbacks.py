"""Callbacks and the W&B logger, on a tiny run."""

import logging
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
from PIL import Image
from toy import data, task, trainer

from hemnet.callbacks.prediction_images import PredictionImages
from hemnet.callbacks.progress import RunProgress
from hemnet.callbacks.wandb_run import wandb_logger
from hemnet.figures import Row, legend, predictions_page


def test_progress_says_where_the_run_stands(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hemnet"):
        fit = trainer(tmp_path, max_epochs=2, callbacks=[RunProgress()], enable_checkpointing=False)
        fit.fit(task(), datamodule=data())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("hemnet")]
    assert len(lines) == 2  # none for the sanity check
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


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def fit_with(logger: object, tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_epochs=1, enable_checkpointing=False, logger=logger)
    fit.fit(task(), datamodule=data())


def test_without_a_key_wandb_is_offline_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    fit_with(wandb_logger(str(tmp_path)), tmp_path)
    assert len(offline_runs(tmp_path)) == 1


def test_without_a_server_wandb_is_offline_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    started = time.monotonic()
    fit_with(wandb_logger(str(tmp_path)), tmp_path)
    assert time.monotonic() - started < 30
    assert len(offline_runs(tmp_path)) == 1


def test_each_job_of_a_process_has_a_run_of_its_own(tmp_path: Path) -> None:
    identifiers = set()
    for _ in range(2):
        logger = wandb_logger(str(tmp_path), tags=["a"])
        identifiers.add(logger.experiment.id)
        fit_with(logger, tmp_path)
    assert len(identifiers) == len(offline_runs(tmp_path)) == 2


def test_a_failed_job_ends_its_run_too(tmp_path: Path) -> None:
    import wandb

    class Broken(pl.Callback):
        def on_train_batch_start(self, *_: object) -> None:
            raise RuntimeError("broken")

    logger = wandb_logger(str(tmp_path))
    fit = trainer(tmp_path, max_epochs=1, callbacks=[Broken()], logger=logger, enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="broken"):
        fit.fit(task(), datamodule=data())
    assert wandb.run is None


def test_an_unknown_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ValueError, match="WANDB_MODE is 'onlin'"):
        wandb_logger(str(tmp_path))
