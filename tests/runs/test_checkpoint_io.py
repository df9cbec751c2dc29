"""What training writes survives errors and resuming."""

import csv
from pathlib import Path

import pytest
import torch

from hemnet.loggers.metrics_file import MetricsFile
from hemnet.runs.checkpoint_io import SafeCheckpoints


def log(folder: Path, rows: list[dict[str, float]]) -> None:
    logger = MetricsFile(str(folder))
    for row in rows:
        logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    logger.finalize("success")


def read(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_a_second_logger_adds_to_the_rows_of_the_first(tmp_path: Path) -> None:
    first = [{"step": 0, "train/loss": 1.5}, {"step": 1, "train/loss": 1.25, "val/miou": 0.5}]
    second = [{"step": 2, "train/loss": 1.0}, {"step": 3, "new": 7.0}]
    log(tmp_path, first)
    log(tmp_path, second)
    assert read(tmp_path) == first + second


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    SafeCheckpoints().save_checkpoint({"step": torch.tensor(1)}, path)
    with pytest.raises(Exception, match="pickle"):
        SafeCheckpoints().save_checkpoint({"step": torch.zeros(10), "bad": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"step": torch.tensor(1)}
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "last.ckpt.sha256"}


def test_a_checkpoint_is_made_in_the_folder_of_the_one_it_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "not-there"))
    path = tmp_path / "checkpoints" / "last.ckpt"
    SafeCheckpoints().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 2}
