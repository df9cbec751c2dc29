"""What Lightning, torch or the system refuse: an error that names the key, before the second step."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from hemnet.config.build import build_data, build_evaluator, build_trainer
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.config.feasible import check_batch_values
from hemnet.config.machine import on_this_machine
from hemnet.config.refusals import refusal
from hemnet.errors import HemnetError
from hemnet.train import train

SMALL = [
    "data=synthetic", "data.train.length=8", "data.train.size=64", "data.train.cells=4", "data.val.length=2",
    "data.batch_size=4", "data.num_workers=0", "logger=csv", "model/backbone=resnet18",
    "model.backbone.width=4", "model.head.channels=8", "model.num_components=4", "trainer.precision=32",
    "trainer.max_epochs=1", "callbacks.predictions=null", "callbacks.attention=null", "callbacks.cost=null",
    "callbacks.em_convergence=null", "trainer.num_sanity_val_steps=0",
]  # fmt: skip
EARLY = "+callbacks.early={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/mio}"
TWIN = "+callbacks.twin={_target_: pytorch_lightning.callbacks.ModelCheckpoint, monitor: val/miou, mode: max}"
COMET = "+logger.comet={_target_: pytorch_lightning.loggers.CometLogger}"
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

REFUSED = {
    "a misspelt monitor of a checkpoint": (["callbacks.best.monitor=val/mIoU"], "callbacks.best.monitor is"),
    "a seed that is no seed": (["seed=-1"], "^seed is -1: .*greater than or equal to 0"),
    "a seed that is too large": (["seed=99999999999"], "^seed is 99999999999: .*less than 4294967296"),
    "an exponent that divides by zero": (["optim.power=-1"], "^optim: power is -1"),
    "a warm-up longer than the run": (["optim.warmup_fraction=1.5"], "^optim: .*warmup_fraction 1.5"),
    "runs nowhere": (["runs=null"], "^runs is None"),
    "a misspelt monitor of early stopping": ([EARLY], "val/mio: did you mean val/miou"),
    "a second checkpoint of the same kind": ([TWIN], "^callbacks: .*another monitor"),
    "a package that is missing": ([COMET], "^logger.comet: "),
    "no end but a time": (
        ["trainer.max_epochs=-1", "trainer.max_time='00:00:01:00'"], "trainer.max_steps set no end"),
    "a time in no format": (["trainer.max_time=1h"], "^trainer"),
    "no epoch": (["trainer.max_epochs=0"], "trainer.max_epochs is 0"),
    "no batch": (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches is 0"),
    "validation in no epoch": (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch is 0"),
    "validation after too many batches": (["trainer.val_check_interval=100"], "^trainer.+val_check_interval"),
    "a share of less than a batch": (["trainer.limit_train_batches=0.1"], "^trainer.limit_train_batches: "),
    "a clipping below 0": (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val is -1"),
    "an unknown clipping": (["+trainer.gradient_clip_algorithm=nrm"], "^trainer.gradient_clip_algorithm: "),
    "an unknown strategy": (["trainer.strategy=dpd"], "^trainer"),
    "an unknown precision": (["trainer.precision=12"], "trainer.precision"),
    "an unknown profiler": (["trainer.profiler=fast"], "^trainer.profiler: "),
    "no device": (["trainer.devices=0"], "^trainer"),
    "an optimizer's option": (["optim.optimizer.lr=-1"], "^optim.optimizer: "),
    "options of an optimizer that do not go together": (
        ["optim.optimizer.nesterov=true", "optim.optimizer.momentum=0"], "^optim.optimizer: Nesterov"),
    "a part that is null": (["model.head=null"], "model.head is None"),
    "samples dealt out twice": (["trainer.use_distributed_sampler=true"], "use_distributed_sampler is true"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_names_its_key(what: str, tmp_path: Path) -> None:
    overrides, said = REFUSED[what]
    with pytest.raises(HemnetError, match=said):
        train(load([*SMALL, f"run_dir={tmp_path / 'run'}", *overrides]))


@NO_GPU
def test_without_a_gpu_training_names_the_key_and_evaluation_takes_the_cpu(tmp_path: Path) -> None:
    config = load([*SMALL, f"run_dir={tmp_path / 'run'}", "trainer.accelerator=gpu", "trainer.devices=1"])
    with pytest.raises(ConfigError, match=r"^trainer\.accelerator: .*trainer=cpu runs without one"):
        train(config)
    config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 8, 4, "ddp"
    found = build_evaluator(on_this_machine(config))
    assert (found.num_devices, found.num_nodes, type(found.accelerator).__name__) == (1, 1, "CPUAccelerator")


@pytest.mark.parametrize("head", ["pspnet", "deeplabv3plus"])
def test_batch_statistics_of_one_value_are_known_before_the_first_step(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [override for override in SMALL if "components" not in override and "width" not in override]
    overrides = [f"model/head={head}", "model.backbone.width=16", "data.batch_size=1"]
    # Before Lightning has anything to do, so before the first step.
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(ConfigError, match=r"^data\.batch_size: .*\(head\..*give 2 or more images"):
        train(load([*small, f"run_dir={tmp_path / 'run'}", *overrides]))


def test_one_image_is_enough_where_no_layer_pools_it_to_one_value(tmp_path: Path) -> None:
    assert (
        train(load([*SMALL, f"run_dir={tmp_path / 'run'}", "data.batch_size=1", "trainer.max_steps=2"])) >= 0
    )


@pytest.mark.parametrize(
    ("images", "processes", "synchronised", "refused"),
    [(1, 1, False, True), (1, 4, False, True), (1, 4, True, False), (2, 1, False, False)],
)
def test_values_per_channel_are_those_of_a_process_or_of_all(
    images: int, processes: int, synchronised: bool, refused: bool
) -> None:
    config = load([*SMALL, f"data.batch_size={images}", f"trainer.sync_batchnorm={synchronised}"])
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))
    before = copy.deepcopy(network.state_dict())
    trainer = SimpleNamespace(world_size=processes)
    arguments = (config, trainer, network, build_data(config))
    if refused:
        with pytest.raises(ConfigError, match=r"^data\.batch_size: 1 image .*\(3\)"):
            check_batch_values(*arguments)  # type: ignore[arg-type]
    else:
        check_batch_values(*arguments)  # type: ignore[arg-type]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_group_that_is_null_is_none(tmp_path: Path) -> None:
    config = load([*SMALL, f"run_dir={tmp_path / 'run'}"])
    config.logger = None
    assert build_trainer(config).loggers == []


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_run_directory_below_a_file_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HemnetError, match=r"^run_dir=.* cannot be made"):
        train(load([*SMALL, f"run_dir={tmp_path / place}"]))


def test_a_fault_of_this_project_keeps_its_traceback() -> None:
    def raised(call: object) -> Exception:
        try:
            call()  # type: ignore[operator]
        except Exception as error:
            return error
        raise AssertionError

    for call in (lambda: {}["key"], lambda: os.stat("/nowhere"), lambda: torch.zeros(2) @ torch.zeros(3)):
        assert refusal(raised(call), {}) is None
