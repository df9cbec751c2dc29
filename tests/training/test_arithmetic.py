"""How a run computes: cuDNN's search in training alone, determinism, TF32 by a key, masks as bytes."""

import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from hemnet.config.build import build_data, build_evaluator, build_network, build_task, build_trainer
from hemnet.config.check import check
from hemnet.config.compose import load
from hemnet.config.explain import ConfigError
from hemnet.config.feasible import check_deterministic
from hemnet.training.arithmetic import use_float32

SMALL = [
    "data=synthetic", "data.train.length=8", "data.train.size=64", "data.train.cells=4", "data.val.length=2",
    "data.batch_size=4", "data.num_workers=0", "logger=csv", "model/backbone=resnet18",
    "model.backbone.width=4", "model.head.channels=8", "trainer.precision=32", "trainer.max_steps=2",
    "trainer.max_epochs=-1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _flags_as_before():
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.benchmark, cudnn.allow_tf32, cudnn.deterministic
    yield
    cudnn.benchmark, cudnn.allow_tf32, cudnn.deterministic = before
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)


class Watch(pl.Callback):
    """What each training and validation batch finds."""

    def __init__(self) -> None:
        self.searches: dict[str, set[bool]] = {"train": set(), "val": set()}
        self.masks: set[torch.dtype] = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.searches["train"].add(torch.backends.cudnn.benchmark)
        self.masks.add(batch["mask"].dtype)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.searches["val"].add(torch.backends.cudnn.benchmark)
        self.masks.add(batch["mask"].dtype)


def fitted(*changes: str) -> Watch:
    config = load([*SMALL, *changes])
    watch, data = Watch(), build_data(config)
    config.callbacks = config.logger = None
    trainer = build_trainer(config, [watch])
    trainer.fit(build_task(config, build_network(config, data.spec.num_classes), data.spec), datamodule=data)
    return watch


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_cudnn_searches_in_training_alone_and_masks_travel_as_bytes(precision, tmp_path):
    watch = fitted("trainer.benchmark=true", f"run_dir={tmp_path}", f"task.float32_precision={precision}")
    assert watch.searches == {"train": {True}, "val": {False}}
    assert watch.masks == {torch.uint8}
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 == (precision == "high")


@pytest.mark.parametrize("deterministic", ["true", "warn"])
def test_a_deterministic_run_searches_for_nothing(deterministic, tmp_path, recwarn):
    config = load([*SMALL, "trainer=gpu", f"trainer.deterministic={deterministic}", f"run_dir={tmp_path}"])
    assert config.trainer.benchmark is True
    config.trainer.accelerator, config.callbacks, config.logger = "cpu", None, None
    build_trainer(config)
    assert torch.backends.cudnn.benchmark is False
    assert torch.are_deterministic_algorithms_enabled()
    assert not [warning for warning in recwarn if "benchmark" in str(warning.message)]


def test_an_evaluation_searches_for_nothing(tmp_path):
    config = load([*SMALL, "trainer.benchmark=true", f"run_dir={tmp_path}"])
    torch.backends.cudnn.benchmark = True  # as a training in this process leaves it
    build_evaluator(config)
    assert torch.backends.cudnn.benchmark is False


HEADS = ("hem", "em", "emanet", "fcn", "nonlocal", "deeplabv3plus")


def ask(device: str, *changes: str, auxiliary: dict | None = None) -> None:
    """Ask whether a network can be trained deterministically on a device that need not be there."""
    config = load([*SMALL, "trainer.deterministic=true", *changes])
    config.model.auxiliary = auxiliary or config.model.auxiliary
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    check_deterministic(config, trainer, build_network(config, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("head", "auxiliary", "part"),
    [
        ("pspnet", None, r"model/head \(PSPHead: head"),
        ("fcn", {"_target_": "hemnet.nets.PSPHead", "channels": 8}, r"model/auxiliary \(PSPHead: auxiliary"),
    ],
    ids=["head", "auxiliary"],
)
def test_what_cannot_be_deterministic_on_a_gpu_is_refused_by_name(head, auxiliary, part):
    head = f"model/head={head}"
    with pytest.raises(ConfigError, match=f"^trainer.deterministic is true.*AdaptiveAvgPool2d in {part}"):
        ask("cuda", head, auxiliary=auxiliary)
    ask("cpu", head, auxiliary=auxiliary)
    ask("cuda", head, "trainer.deterministic=warn", auxiliary=auxiliary)


@pytest.mark.parametrize("head", HEADS)
def test_other_heads_can(head):
    ask("cuda", f"model/head={head}")


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.float32_precision"):
        check(load([*SMALL, "task.float32_precision=tf32", f"run_dir={tmp_path}"]))


@pytest.mark.parametrize(("precision", "said"), [("highest", "without TF32"), ("high", "of TF32 or less")])
def test_a_gpu_s_run_says_whether_it_takes_tf32(precision, said, caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    caplog.set_level(logging.INFO)
    use_float32(precision)
    assert said in caplog.text
