"""The training module: its loss, its scores, its checkpoints, and what it leaves to Lightning."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy import data, task, trainer

from hemnet.data import collate
from hemnet.metrics import mean_iou


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    module = task()
    fit = trainer(tmp_path, max_epochs=80, enable_checkpointing=False)
    fit.fit(module, datamodule=data(train=16, eval_size=None))
    assert fit.callback_metrics["val/miou"] > 0.9


def test_scores_are_those_of_the_predictions_at_label_resolution(tmp_path: Path) -> None:
    module, source = task(), data()
    (scores,) = trainer(tmp_path).validate(module, datamodule=source, verbose=False)
    matrix = torch.zeros(2, 2, dtype=torch.int64)
    module.eval()
    for i in range(5):
        item = source.val_dataset[i]
        assert item["image"].shape[-1] == 24
        with torch.no_grad():
            guess = module(item["image"][None], tuple(item["mask"].shape))[0].argmax(0)
        for truth in range(2):
            for label in range(2):
                matrix[truth, label] += ((item["mask"] == truth) & (guess == label)).sum()
    assert matrix.sum() == 5 * (32 * 32 - 5)
    assert scores["val/miou"] == pytest.approx(mean_iou(matrix), abs=1e-7)  # logged as float32


def test_sanity_checking_leaves_no_counts_behind(tmp_path: Path) -> None:
    module, source = task(lr=0.0), data()
    fit = trainer(tmp_path, max_epochs=1, num_sanity_val_steps=1, enable_checkpointing=False)
    fit.fit(module, datamodule=source)
    assert module.confusion.matrix.sum() == 0


def test_the_auxiliary_loss_is_weighted_in() -> None:
    module = task(auxiliary=True)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batch = collate([data().train_dataset[i] for i in (0, 1)])
    losses = {}
    for weight in (0.0, 0.5, 1.0):
        module.auxiliary_weight = weight
        torch.manual_seed(0)
        losses[weight] = module.training_step(batch, 0).item()
    assert losses[1.0] > losses[0.5] > losses[0.0] > 0
    assert losses[0.5] == pytest.approx((losses[0.0] + losses[1.0]) / 2, rel=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    module = task(auxiliary=True)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batch = collate([data().train_dataset[i] for i in (0, 1)])
    module.training_step(batch, 0).backward()
    missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_channels_last_changes_no_result() -> None:
    image = torch.randn(2, 3, 32, 32)
    outputs: list[Tensor] = []
    for channels_last in (True, False):
        torch.manual_seed(1)
        module = task(channels_last=channels_last).eval()
        conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (7, 7))
        assert conv.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        outputs.append(module(image))
    # Sums in another order, about 1e2 float32 operations deep.
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_the_learning_rate_falls_to_zero_over_the_run(tmp_path: Path) -> None:
    module = task(lr=0.1)
    fit = trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
    fit.fit(module, datamodule=data(train=8))
    assert fit.global_step == 6
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.0


def test_accumulated_gradients_count_optimizer_steps(tmp_path: Path) -> None:
    module = task(lr=0.1)
    fit = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2, enable_checkpointing=False)
    fit.fit(module, datamodule=data(train=16))
    assert fit.global_step == 4
    assert fit.optimizers[0].param_groups[0]["lr"] == 0.0


def test_a_resumed_run_restores_network_and_means(tmp_path: Path) -> None:
    first = task()
    fit = trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    fit.fit(first, datamodule=data())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    second = task()
    checkpoint = tmp_path / "x.ckpt"
    trainer(tmp_path).validate(
        second, datamodule=data(), ckpt_path=checkpoint, verbose=False, weights_only=True
    )
    expected, restored = first.network.state_dict(), second.network.state_dict()
    for name, value in expected.items():
        assert torch.equal(value, restored[name]), name
    assert any(name.endswith("em.means") for name in expected)
