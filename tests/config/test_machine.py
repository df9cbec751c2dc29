"""Runs that were trained on GPUs, used on a machine with fewer or none."""

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from _helpers.camvid_files import MakeCamVid
from _helpers.tiny import tiny
from omegaconf import OmegaConf
from PIL import Image

from hemnet import cost
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.config.machine import devices_to_use, on_this_machine
from hemnet.errors import HemnetError
from hemnet.runs.run import Run
from hemnet.train import train
from hemnet.using.evaluation import evaluate
from hemnet.using.exporting import export
from hemnet.using.prediction import predict

ON_GPUS = {
    "accelerator": "gpu", "devices": 8, "num_nodes": 4, "strategy": "ddp", "precision": "16-mixed",
    "sync_batchnorm": True, "benchmark": True,
}  # fmt: skip


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_every_command_uses_a_run_of_gpus_on_the_processor(
    make_camvid: MakeCamVid, tmp_path: Path, without_gpu: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    train(load(tiny(make_camvid(), run, "trainer.max_epochs=1")))
    config = Run.open(run).config
    config.trainer.update(ON_GPUS)
    config.model.head.engine = "triton"
    OmegaConf.save(config, run / "config.yaml")
    with pytest.raises(ConfigError, match=r"trainer\.accelerator=gpu: this machine has 0 GPUs; give"):
        evaluate(run, "last", ["trainer.accelerator=gpu"], worst=0)
    evaluate(run, "last", [], worst=0)
    assert json.loads((run / "evaluation/last/result.json").read_text())["device"].startswith("cpu")
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    predict(run, tmp_path / "photo.png", "last", None)
    export(run, "torch")
    monkeypatch.setattr("sys.argv", ["cost", str(run), "--size", "32", "32", "--repeats", "1"])
    cost._entry()
    assert "Latency" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["cost", str(run), "--device", "nonsense"])
    with pytest.raises(HemnetError, match=r"--device nonsense: .*give --device cpu"):
        cost._entry()


@pytest.mark.parametrize(
    ("accelerator", "devices", "gpus", "count"),
    [
        ("cpu", 1, 4, 1), ("cpu", 3, 0, 3), ("cpu", "auto", 4, 1), ("cpu", "2", 0, 2), ("auto", 2, 0, 2),
        ("gpu", "auto", 4, 4), ("gpu", -1, 4, 4), ("auto", "-1", 3, 3), ("cuda", [0, 2], 4, 2),
        ("gpu", "0,3,", 4, 2), ("gpu", "2", 4, 2), ("gpu", 1, 1, 1),
        ("gpu", 5, 4, r"trainer\.devices is 5: this machine has 4 GPUs"),
        ("auto", 2, 1, r"trainer\.devices is 2: this machine has 1 GPU$"),
        ("cuda", 1, 0, r"trainer\.accelerator: cuda is a GPU.*trainer=cpu runs without one"),
        ("mps", 1, 4, r"trainer\.accelerator: mps is a GPU"),
        ("cpu", 0, 0, r"trainer\.devices is 0: a run takes 1 or more"),
        ("gpu", [], 2, r"trainer\.devices is \[\]"), ("cpu", -3, 0, r"trainer\.devices is -3"),
    ],
)  # fmt: skip
def test_devices_are_counted_as_lightning_counts_them(
    accelerator: str, devices: object, gpus: int, count: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    trainer = OmegaConf.create({"accelerator": accelerator, "devices": devices})
    if isinstance(count, str):
        with pytest.raises(ConfigError, match=count):
            devices_to_use(trainer)
        return
    assert devices_to_use(trainer) == count
    if not gpus:  # what Lightning itself says of a machine like this
        assert pl.Trainer(accelerator=accelerator, devices=devices, logger=False).num_devices == count


@pytest.mark.parametrize(
    ("gpus", "found"),
    [
        (
            0,
            {
                "accelerator": "cpu",
                "devices": 1,
                "num_nodes": 1,
                "strategy": "auto",
                "precision": "bf16-mixed",
            },
        ),
        (2, {"accelerator": "gpu", "devices": 2, "num_nodes": 4, "strategy": "ddp", "precision": "16-mixed"}),
        (8, {"accelerator": "gpu", "devices": 8, "num_nodes": 1, "strategy": "ddp", "precision": "16-mixed"}),
    ],
)
def test_what_is_there_is_used(
    gpus: int, found: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    config = load(tiny(tmp_path, tmp_path / "run"))
    config.trainer.update(ON_GPUS)
    before = config.copy()
    trainer = on_this_machine(config).trainer
    assert {key: trainer[key] for key in found} == found
    assert config == before
    if gpus == 0:
        with pytest.raises(ConfigError, match=r"trainer\.devices=8: this machine has 0 GPUs; give .*=1"):
            on_this_machine(config, ["trainer.devices=8"])
