"""What is said before training starts, with a setting that helps: applied, nothing is left to say."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers import miniatures as mini
from _helpers import toy
from _helpers.tiny import PLAIN

from hemnet.callbacks.label_check import LabelCheck
from hemnet.config.advice import advice
from hemnet.config.build import build_data
from hemnet.config.compose import load
from hemnet.train import train

LENGTH = ["trainer.max_epochs=-1", "trainer.max_steps=500", "trainer.val_check_interval=100",
          "trainer.check_val_every_n_epoch=null"]  # fmt: skip
SOUND = [*LENGTH, "data.batch_size=2", "data.train_transform.crop_size=32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 photographs of 48 x 96 for training, 5 for validation."""
    root = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 12), ("val", 5)):
        for i in range(count):
            mini.save_jpeg(root / "images" / split / f"{i}.png", (48, 96))
            mini.save_grey(root / "masks" / split / f"{i}.png", np.arange(48 * 96).reshape(48, 96) % 2)
    return root


def said(folder: Path, *overrides: str, processes: int = 1) -> list[str]:
    own = ["data=folder", f"data.root={folder}", "data.train.classes=[a,b]", "data.num_workers=0"]
    config = load([*own, *overrides])
    return advice(config, build_data(config), processes)


CASES = {
    "crops larger than the photographs": (
        [*SOUND, "data.train_transform.crop_size=512"],
        r"crops of 512 x 512 are larger than the images, which are 48 x 96 .*: 9\d % of the crops is padding",
    ),
    "crops a little larger": (
        [*SOUND, "data.train_transform.crop_size=[50,100]", "data.train_transform.scale=[1.0,1.0]"],
        r"crops of 50 x 100 are larger .*: 8 % of the crops is padding",
    ),
    "larger than what they are resized to": (
        [*SOUND, "data.train_transform.longest=30"], "crops of 32 x 32 .*which are 15 x 30"
    ),
    "one step in an epoch": (
        ["data.batch_size=8", "data.train_transform.crop_size=32", "trainer.max_epochs=10"],
        r"training ends after 10 steps, too few .*: an epoch is 1 step \(12 images, batches of 8\)",
    ),
    "few steps by their number": ([*SOUND, "trainer.max_steps=20"], "training ends after 20 steps"),
    "accumulated batches": (
        ["data.batch_size=2", "data.train_transform.crop_size=32", "trainer.max_epochs=40",
         "trainer.accumulate_grad_batches=3"],
        "training ends after 80 steps, .*: an epoch is 2 steps",
    ),
    "a validation after each step": (
        ["data.batch_size=8", "data.train_transform.crop_size=32", "trainer.max_epochs=300"],
        "300 validations, one after every 1 step, are likely to take longer",
    ),
    "evaluation stretches": (
        [*SOUND, "data.eval_transform.size=[64,64]"],
        "evaluation stretches images by up to 2.00, such as 48 x 96 to 64 x 64 .height x width.",
    ),
    "training stretches": (
        [*SOUND, "data.train_transform.base_size=[64,96]"], "training stretches images by up to 1.33, such as"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_said_with_a_setting_that_helps(case: str, folder: Path) -> None:
    overrides, pattern = CASES[case]
    (found,) = said(folder, *overrides)
    assert re.search(pattern, found), found
    settings = re.findall(r"[a-z_]+(?:\.[a-z_]+)+=\S+", found.partition(". ")[2])
    assert settings
    # Of two settings of one key the later counts, as on a command line without the mistake.
    keys = {setting.partition("=")[0] for setting in settings}
    kept = [override for override in overrides if override.partition("=")[0] not in keys]
    assert said(folder, *kept, *settings) == []


@pytest.mark.parametrize("capability", ["NO AVX", "AVX2", "AVX512", "DEFAULT"])
def test_an_emulated_precision_is_said(
    capability: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for precision in ("bf16-mixed", "bf16-true"):
        found = said(folder, *SOUND, f"trainer.precision={precision}")
        assert [f"precision is {precision}" in each for each in found] == [True] * (
            capability in ("NO AVX", "AVX2")
        )
    assert said(folder, *SOUND, "trainer.precision=32-true") == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert said(folder, *SOUND, "trainer=gpu") == []


def test_padding_by_small_scales_is_said(folder: Path) -> None:
    (found,) = said(folder, *SOUND, "data.train_transform.scale=[0.3,0.4]")
    assert re.fullmatch(
        r"\d\d % of the crops of 32 x 32 is padding. Less: a larger least factor in .*", found
    )


def test_sound_settings_and_trials_of_the_code_are_not_commented(folder: Path) -> None:
    assert said(folder, *SOUND) == []
    assert said(folder, "data.batch_size=8", "+trainer.fast_dev_run=true") == []
    assert said(folder, *SOUND, "data.eval_transform.size=[24,50]") == []  # by 4 %
    config = load(["experiment=synthetic_hem"])
    assert advice(config, build_data(config)) == []


def test_processes_share_the_images_of_an_epoch(folder: Path) -> None:
    epochs = ["data.batch_size=2", "data.train_transform.crop_size=32", "trainer.max_epochs=17"]
    assert said(folder, *epochs, "trainer.check_val_every_n_epoch=5") == []
    (found,) = said(folder, *epochs, processes=2)
    assert "training ends after 51 steps" in found
    assert "an epoch is 3 steps (12 images, batches of 4)" in found


def test_training_says_it_before_the_first_step(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = [
        "data=folder",
        *PLAIN[1:],
        f"data.root={folder}",
        "data.train.classes=[a,b]",
        f"run_dir={tmp_path / 'r'}",
    ]
    with caplog.at_level(logging.INFO, "hemnet"):
        train(load([*own, "trainer.max_epochs=1", "data.eval_transform.size=[32,32]"]))
    messages = [record.getMessage() for record in caplog.records]
    assert any("training ends after 6 steps" in message for message in messages)
    assert any("evaluation stretches images by up to 2.00" in message for message in messages)


def test_a_class_in_no_validation_image_is_known_before_training_however_many_images_there_are() -> None:
    class Dark(toy.Halves):
        def read(self, index: int):
            sample = super().read(index)
            return sample._replace(
                mask_HW=np.where(sample.mask_HW == 1, 255, sample.mask_HW).astype(np.uint8)
            )

    data, check = toy.data(train=40, val=5), LabelCheck()
    data.val_dataset.reader = Dark(60)

    class Trainer:
        is_global_zero, datamodule = True, data

    check.on_fit_start(Trainer(), toy.task())  # type: ignore[arg-type]
    (warning,) = check.warnings
    assert "val: every labelled pixel of all 60 images is dark" in warning
    assert (
        "no pixel of: light (1 of 2 classes); what is absent has no true score, though train has light"
        in warning
    )
