"""The LightningModule: its loss, its scores, its checkpoints."""

from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from _helpers.toy import SPEC, Halves, data, task, trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch._dynamo.utils import counters

from hemnet.callbacks.class_frequencies import ClassFrequencies
from hemnet.data import collate
from hemnet.errors import HemnetError
from hemnet.nets import EMHead, FCNHead, ResNet, Segmenter
from hemnet.training.loss import CrossEntropy, Dice, Focal, class_weights
from hemnet.training.metrics import mean_iou
from hemnet.training.optim import Optimization
from hemnet.training.task import SegmentationTask, crashes_channels_last


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


def test_the_padding_of_training_crops_reaches_the_em_layer() -> None:
    network = Segmenter(Stem(), EMHead(Stem.channels, 2, channels=8, num_components=4, mask_padding=True))
    module = SegmentationTask(network, SPEC, Optimization(partial(torch.optim.SGD, lr=0.05)))
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    seen: list[Tensor | None] = []
    network.head.context.em.register_forward_pre_hook(lambda _, given: seen.append(given[2]))
    batch = collate([data().train_dataset[i] for i in (0, 1)])
    inside_BHW = torch.ones_like(batch["mask"], dtype=torch.bool)
    inside_BHW[1, : inside_BHW.shape[1] // 2] = False
    module.training_step(batch | {"inside": inside_BHW}, 0)
    (weights_Bhw,) = seen
    assert weights_Bhw is not None
    assert weights_Bhw[0].min() == 1
    assert weights_Bhw[1, 0].max() == 0
    assert weights_Bhw[1, -1].min() == 1


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
        module = task(channels_last=channels_last, width=16).eval()
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


class Stem(nn.Module):
    """A backbone that compiles in seconds."""

    channels = (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.one(x).relu()
        return x, self.norm(self.two(x)).relu()


def small_task(compiled: bool) -> SegmentationTask:
    network = Segmenter(Stem(), EMHead(Stem.channels, 2, channels=8, num_components=4, dropout=0.0))
    optimization = Optimization(partial(torch.optim.SGD, lr=0.05, momentum=0.9))
    return SegmentationTask(network, SPEC, optimization, compile=compiled)


def test_a_network_is_compiled_as_one_graph() -> None:
    network = task(auxiliary=True).network
    torch.compiler.reset()
    whole = torch.compile(network, fullgraph=True, backend="eager")
    assert whole(torch.zeros(2, 3, 32, 32), (32, 32)).auxiliary is not None


@pytest.mark.slow
def test_compiled_steps_are_those_of_eager_ones_and_evaluation_takes_any_size() -> None:
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch.compiler.reset()
        counters.clear()
        module, source = small_task(compiled), data(train=8)
        module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
        losses = []
        for step in range(2):
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss = module.training_step(collate([source.train_dataset[4 * step + i] for i in range(4)]), 0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found.append((losses, module.network.state_dict()))
        # One graph with its backward pass for both steps: inductor has compiled all of it.
        assert counters["stats"]["unique_graphs"] == compiled
        assert not counters["graph_break"]
    with torch.no_grad():
        for size in (33, 47):
            assert module.eval()(torch.zeros(1, 3, size, 48)).shape[-2:] == (size, 48)
    assert counters["stats"]["unique_graphs"] == 1, "for each size anew, or for any size, which can fail"
    (eager, before), (other, after) = found
    # Sums in another order: some ten layers forward and backward, each over up to 4096 pixels in float32.
    tolerance = 20 * 4096**0.5 * torch.finfo(torch.float32).eps
    assert other == pytest.approx(eager, rel=tolerance)
    torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance)


class FirstStep(pl.Callback):
    """Keeps weights, gradients without the loss scale, and learning rate of the first step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rate = optimizer.param_groups[0]["lr"]
        self.weights = [p.detach().double().clone() for p in pl_module.parameters()]
        self.gradients = [p.grad.double().clone() for p in pl_module.parameters()]


@pytest.mark.parametrize(("algorithm", "limit"), [("norm", 0.05), ("value", 0.01)])
@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_the_gradient_of_a_step_is_clipped(
    tmp_path: Path, algorithm: str, limit: float, scale: float | None
) -> None:
    """According to the formula, without the loss scale, over accumulated batches together."""
    first, module = FirstStep(), task()
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale or 1.0))
    fit = trainer(
        tmp_path, max_steps=1, enable_checkpointing=False, callbacks=[first], accumulate_grad_batches=2,
        gradient_clip_val=limit, gradient_clip_algorithm=algorithm, plugins=[scaler] if scale else [],
    )  # fmt: skip
    fit.fit(module, datamodule=data(train=8))
    norm = torch.cat([g.flatten() for g in first.gradients]).norm()
    assert 2 * limit < norm < 100, "more than is let through, and without the loss scale"
    expected = [
        w - first.rate * (g * limit / norm if algorithm == "norm" else g.clamp(-limit, limit))
        for w, g in zip(first.weights, first.gradients, strict=True)
    ]
    # Float32 weights, and a float32 norm of some 1e5 terms, whose share of a change below 1e-2 is below 1e-7.
    found = [p.detach().double() for p in module.parameters()]
    torch.testing.assert_close(found, expected, rtol=2e-7, atol=1e-8)


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


def test_convolutions_that_crash_in_channels_last_are_found_and_the_format_avoided() -> None:
    def conv(channels: int, kernel: int, stride: int | tuple[int, int], groups: int = 1) -> nn.Conv2d:
        return nn.Conv2d(channels, 2 * channels, kernel, stride=stride, groups=groups)

    modules = nn.ModuleDict(
        {"narrow": conv(4, 1, 2), "fifteen": conv(15, 1, 2), "one_way": conv(8, 1, (2, 1)),
         "grouped": conv(16, 1, 2, 4),
         "wide": conv(16, 1, 2), "unstrided": conv(4, 1, 1), "spatial": conv(4, 3, 2)}
    )  # fmt: skip
    assert crashes_channels_last(modules) == ["narrow", "fifteen", "one_way", "grouped"]
    assert task(channels_last=True).memory_format == torch.contiguous_format  # its width is 4
    wide = ResNet(18, output_stride=8, width=16)
    network = Segmenter(wide, FCNHead(wide.channels, 2, channels=8))
    module = SegmentationTask(network, SPEC, task().optimization)
    assert module.memory_format == torch.channels_last


def test_class_weights_by_a_rule_are_counted_once_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    def weighted() -> SegmentationTask:
        return task(loss={"ce": CrossEntropy(class_weights="balanced"), "dice": Dice(0.5)})

    module, source = weighted(), data()
    fit = trainer(tmp_path, max_epochs=1, callbacks=[ClassFrequencies()], log_every_n_steps=1)
    fit.fit(module, datamodule=source)
    masks = torch.stack([torch.from_numpy(source.train_dataset.reader.read(i).mask_HW) for i in range(8)])
    pixels = torch.stack([(masks == k).sum() for k in (0, 1)])
    expected = pixels.sum() / (2 * pixels)
    (weights,) = class_weights(module.training_loss)
    torch.testing.assert_close(weights.weights_K, expected.float())
    logged = fit.callback_metrics
    parts = logged["train/loss/ce"] + 0.5 * logged["train/loss/dice"]
    torch.testing.assert_close(logged["train/loss"], parts)
    assert set(module.metric_names()) >= {name for name in logged if name.startswith("train/loss")}

    source.train_dataset.reader = Halves(8, seed=9)  # other masks: whoever counts again, finds other weights
    again = weighted()
    path = fit.checkpoint_callback.best_model_path
    trainer(tmp_path, max_epochs=2, callbacks=[ClassFrequencies()]).fit(
        again, datamodule=source, ckpt_path=path
    )
    (kept,) = class_weights(again.training_loss)
    assert torch.equal(kept.weights_K, weights.weights_K)


def test_class_weights_that_nothing_has_counted_are_an_error(tmp_path: Path) -> None:
    module = task(loss={"focal": Focal(class_weights="median_frequency")})
    with pytest.raises(HemnetError, match=r"were not counted.*ClassFrequencies"):
        trainer(tmp_path, max_epochs=1, enable_checkpointing=False).fit(module, datamodule=data())
    with pytest.raises(ValueError, match="3 numbers for 2 classes"):
        task(loss={"ce": CrossEntropy(class_weights=[1.0, 2.0, 3.0])})
    with pytest.raises(ValueError, match="loss is empty"):
        task(loss={})
