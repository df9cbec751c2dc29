"""Runs that were trained on GPUs, used on a machine with fewer or none."""

import json
from pathlib import Path

import pytest
import torch
from _helpers.camvid_files import MakeCamVid
from _helpers.tiny import tiny
from omegaconf import OmegaConf
from PIL import Image

from hemnet import cost
from hemnet.config.check import ConfigError
from hemnet.config.command_line import override
from hemnet.config.compose import load
from hemnet.config.machine import on_this_machine
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
    config = override(
        load(tiny(tmp_path, tmp_path / "run")), [f"trainer.{k}={v}" for k, v in ON_GPUS.items()]
    )
    before = config.copy()
    trainer = on_this_machine(config).trainer
    assert {key: trainer[key] for key in found} == found
    assert config == before
    if gpus == 0:
        with pytest.raises(ConfigError, match=r"trainer\.devices=8: this machine has 0 GPUs; give .*=1"):
            on_this_machine(config, ["trainer.devices=8"])
