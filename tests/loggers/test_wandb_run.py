"""The W&B logger, offline: what it sends, what it never does, and how its runs start, continue and end."""

import csv
import json
import logging
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from _helpers.toy import data, task, trainer
from _helpers.waiting import BOUND
from _helpers.wandb_files import config, history, offline_runs, records, started, summary
from pytorch_lightning.callbacks import ModelCheckpoint

from hemnet.config.build import build_trainer
from hemnet.config.compose import load
from hemnet.loggers.wandb_run import wandb_logger


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
    assert time.monotonic() - started < BOUND  # W&B by itself would retry for minutes
    assert len(offline_runs(tmp_path)) == 1


def test_each_job_of_a_process_has_a_run_of_its_own(tmp_path: Path) -> None:
    identifiers = set()
    for job in ("a", "b"):
        pl.seed_everything(0, verbose=False)  # jobs of one seed must not draw the same id
        logger = wandb_logger(str(tmp_path / job))
        fit_with(logger, tmp_path / job)
        (run,) = offline_runs(tmp_path / job)
        assert started(run).run_id == logger.version
        identifiers.add(logger.version)
    assert len(identifiers) == 2


def test_a_resumed_training_continues_its_run_and_both_parts_sync_with_one_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in (1, 2):
        checkpoint = ModelCheckpoint(tmp_path, "last", enable_version_counter=False)
        best = ModelCheckpoint(tmp_path, "best", "val/miou", mode="max", enable_version_counter=False)
        logger = wandb_logger(str(tmp_path))
        fit = trainer(tmp_path, max_epochs=epochs, logger=logger, callbacks=[checkpoint, best])
        fit.fit(task(lr=0.0), datamodule=data(), ckpt_path=tmp_path / "last.ckpt" if epochs > 1 else None)
        time.sleep(1.1)  # W&B names the folders by the second
    first, second = offline_runs(tmp_path)
    assert started(first).run_id == started(second).run_id
    assert started(second).resume
    (tmp_path / "wandb" / "id.txt").write_text("spoilt by\n a crash")
    spoilt = wandb_logger(str(tmp_path)).experiment
    spoilt.finish()
    assert spoilt.id not in (started(first).run_id, "")

    with caplog.at_level(logging.INFO, "hemnet"):
        fit_with(wandb_logger(str(tmp_path / "a folder")), tmp_path / "a folder")
    command = re.search(r"upload the W&B run with `wandb sync (.*)`", caplog.text)
    assert command
    shown = subprocess.run(["bash", "-c", f"ls -d {command[1]}"], capture_output=True, text=True, check=True)
    assert [Path(line) for line in shown.stdout.splitlines()] == offline_runs(tmp_path / "a folder")


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


OVERRIDES = [
    "experiment=camvid_hem_cpu", "model.head.highway_scale=0.3", "model.head.iterations=4", "seed=7",
    "logger.wandb.tags=[mine]", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
    "trainer.check_val_every_n_epoch=1", "trainer.precision=32",
]  # fmt: skip


def fitted(tmp_path: Path, *overrides: str, sweep: str | None = None) -> Path:
    """Train the toy network under a configuration, and return its offline run."""
    (tmp_path / "figures").mkdir(parents=True)
    config = load([*OVERRIDES, f"run_dir={tmp_path}", *overrides])
    config.sweep = sweep
    build_trainer(config).fit(task(), datamodule=data())
    (run,) = offline_runs(tmp_path)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run as the configuration has it, to read."""
    torch.manual_seed(0)  # a fixture of a module runs before any seed of a test
    path = tmp_path_factory.mktemp("fitted")
    fitted(path)
    return path


def test_a_run_is_described(tmp_path: Path) -> None:
    run = fitted(tmp_path, sweep="depths")
    about = started(run)
    assert about.run_group == "depths"
    assert about.job_type == "hem"
    assert set(about.tags) == {"head=hem", "sweep=depths", "T=4", "h=0.3", "seed=7", "unrolled", "mine"}
    found = config(run)
    columns = {"experiment": "camvid_hem_cpu", "head": "hem", "T": 4, "h": 0.3, "seed": 7, "sweep": "depths"}
    assert found.items() >= columns.items()
    assert re.fullmatch(r"CamVid: hem, T=4, h=0\.3, gradient=unrolled \([0-9a-f]{6}\)", found["setting"])
    assert found["model"]["head"]["highway_scale"] == 0.3
    assert found["data"]["train_transform"]["crop_size"] == [240, 320]


def test_the_group_is_the_recipe_unless_one_is_given(folder: Path, tmp_path: Path) -> None:
    assert started(*offline_runs(folder)).run_group == "camvid_hem_cpu"
    assert started(fitted(tmp_path, "logger.wandb.group=ours")).run_group == "ours"


def test_a_long_tag_does_not_cost_the_run(tmp_path: Path) -> None:
    assert any(len(tag) == 64 for tag in started(fitted(tmp_path, sweep="x" * 100)).tags)


def test_metrics_are_drawn_over_the_optimizer_step_and_the_summary_is_the_last_and_the_best(
    folder: Path,
) -> None:
    (run,) = offline_runs(folder)
    metrics = [record.metric for record in records(run) if record.HasField("metric")]
    assert [m.step_metric for m in metrics if m.glob_name == "*"] == ["trainer/global_step"]
    rows = history(run)
    steps = {row["trainer/global_step"] for row in rows if "train/loss" in row}
    assert steps == {0, 1, 2, 3}
    scores = [row["val/miou"] for row in rows if "val/miou" in row]
    assert len(scores) == 2
    found = summary(run)
    assert found["val/miou"] == scores[-1]
    assert found["val/miou_best"] == pytest.approx(max(scores), abs=1e-7)
    images = [row for row in rows if any(key.startswith("val/predictions") for key in row)]
    assert [row["trainer/global_step"] for row in images] == [2, 4]
    last = {c: row[f"val/iou/{c}"] for c in ("dark", "light") for row in rows if f"val/iou/{c}" in row}
    (table,) = (run / "files" / "media" / "table").rglob("iou_table*.json")
    written = json.loads(table.read_text())
    assert written["columns"] == ["class", "IoU"]
    assert dict(written["data"]) == pytest.approx(last, abs=1e-7)


def test_what_is_measured_per_iteration_is_drawn_over_the_iteration(folder: Path) -> None:
    (run,) = offline_runs(folder)
    rows = {row["em/iteration"]: row for row in history(run) if "em/iteration" in row}
    assert sorted(rows) == list(range(4))  # the toy network has T = 3
    with (folder / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["gradient/share/00"]]
    assert len(logged) > 1
    for t in rows:
        for phase, row in (("start", logged[0]), ("end", logged[-1])):  # a tenth of few is one
            for family in ("gradient/share", "gradient/means"):
                found = rows[t][f"{phase}/{family}"]
                assert found == pytest.approx(float(row[f"{family}/{t:02}"]), rel=1e-6)
    assert "end/em/log_likelihood" in rows[3]
    assert "end/em/step_length" not in rows[3]  # T steps lead to T+1 means
    over = {
        record.metric.name: record.metric.step_metric for record in records(run) if record.HasField("metric")
    }
    assert over["middle/gradient/share"] == "em/iteration"


def test_a_histogram_leaves_out_what_is_not_finite(tmp_path: Path) -> None:
    logger = wandb_logger(str(tmp_path))
    logger.log_histogram("gradient/image_norms", [0.0, 1.0, 1.0, float("nan"), float("inf")], step=5)
    logger.log_histogram("gradient/image_norms", [float("nan")], step=6)
    logger.finalize("success")
    (row,) = [row for row in history(offline_runs(tmp_path)[0]) if "gradient/image_norms/values" in row]
    assert row["trainer/global_step"] == 5
    assert sum(row["gradient/image_norms/values"]) == 3


def test_under_an_agent_the_run_is_the_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agentsrun")
    monkeypatch.setenv("WANDB_PROJECT", "agentsproject")
    monkeypatch.chdir(tmp_path)
    about = started(fitted(tmp_path))
    assert (about.run_id, about.sweep_id, about.project) == ("agentsrun", "sweep1", "agentsproject")
    assert config(offline_runs(tmp_path)[0])["head"] == "hem"


def test_ranks_but_the_first_start_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_lightning.utilities.rank_zero.rank_zero_only.rank", 1)
    logger = wandb_logger(str(tmp_path))
    logger.experiment.log({"a": 1})
    logger.log_histogram("a", [1.0], step=0)
    logger.finalize("success")
    assert not (tmp_path / "wandb").exists()


def test_an_empty_mode_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "")
    assert wandb_logger(str(tmp_path)).mode == "online"
