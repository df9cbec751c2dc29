"""Steps that are not finite: training stops and names the images, or skips the step without a trace."""

import copy
import itertools
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from _helpers import toy
from _helpers.gloo import process_group
from _helpers.probes import Recorder
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from hemnet.callbacks.finite import FiniteSteps, NotFiniteError, _not_finite
from hemnet.callbacks.last_checkpoint import LastCheckpoint
from hemnet.runs import checkpoints
from hemnet.runs.checkpoint_io import SafeCheckpoints
from hemnet.training.loss import CrossEntropy, LossSum, PixelSum
from hemnet.training.optim import Optimization
from hemnet.training.task import SegmentationTask

RANKS = 2
# Sixteen images, four per batch: four batches per epoch.
IMAGES, PER_EPOCH = 16, 4


class Damage(pl.Callback):
    """Puts a value into the first image of chosen batches (of one rank); keeps the state around each batch.

    ``hidden`` puts it into the loss instead, so that no gradient shows it.
    """

    def __init__(
        self, batches: set[int], value: float = math.nan, rank: int | None = None, hidden: bool = False
    ) -> None:
        self.batches, self.value, self.rank, self.hidden = batches, value, rank, hidden
        self.seen: list[list[str]] = []
        self.before: list[dict[str, Any]] = []
        self.after: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        chosen = len(self.seen) in self.batches and self.rank in (None, trainer.global_rank)
        if chosen and not self.hidden:
            batch["image"][0, :, 3, 4] = self.value
        pl_module.training_loss = LossSum({"ce": LossWith(self.value if chosen and self.hidden else 0.0)})
        self.seen.append(batch["name"])
        self.before.append(state(trainer, pl_module))

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.after.append(state(trainer, pl_module))


class LossWith(CrossEntropy):
    """Cross-entropy, to whose sum a number is added."""

    def __init__(self, extra: float) -> None:
        super().__init__()
        self.extra = extra

    def sums(self, *given: Any) -> PixelSum:
        total, pixels = super().sums(*given)
        return PixelSum(total + self.extra, pixels)


def state(trainer: pl.Trainer, task: SegmentationTask) -> dict[str, Any]:
    em = task.network.head.context.em
    parts = {"network": task.network.state_dict(), "optimizer": trainer.optimizers[0].state_dict()["state"]}
    return copy.deepcopy(parts | {"pending": em.pending})


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def fit(
    folder: Path, *callbacks: pl.Callback, task: SegmentationTask | None = None, **options: Any
) -> pl.Trainer:
    saving = any(isinstance(callback, LastCheckpoint) for callback in callbacks)
    fixed = {"max_epochs": 2, "enable_checkpointing": saving, "num_sanity_val_steps": 0}
    plugins = [SafeCheckpoints(), *options.pop("plugins", [])]
    resumes_from = options.pop("resumes_from", None)
    trainer = toy.trainer(folder, callbacks=[*callbacks], plugins=plugins, **{**fixed, **options})
    data = toy.data(train=IMAGES)
    data._batch_size = IMAGES // PER_EPOCH // trainer.world_size
    trainer.fit(task or toy.task(), datamodule=data, ckpt_path=resumes_from, weights_only=True)
    return trainer


def failure(folder: Path, *callbacks: pl.Callback, **options: Any) -> str:
    with pytest.raises(NotFiniteError) as caught:
        fit(folder, *callbacks, **options)
    return str(caught.value)


# --- stop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_error_names_step_files_checkpoint_and_remedies(
    tmp_path: Path, precision: str, value: float
) -> None:
    damage, path = Damage({5}, value), tmp_path / "last.ckpt"
    said = failure(tmp_path, damage, FiniteSteps(), LastCheckpoint(str(path)), precision=precision)
    assert f"step 5: the loss is not finite for {', '.join(damage.seen[5])}. " in said
    assert f"The last good checkpoint is {path}, after 4 steps." in said
    for remedy in ("optim.optimizer.lr", "trainer.gradient_clip_val", "callbacks.finite.policy=skip"):
        assert remedy in said
    assert ("trainer.precision=32" in said) == (precision != "32-true")


def test_the_step_is_not_taken_and_nothing_is_saved_after(tmp_path: Path) -> None:
    model, damage, path = toy.task(), Damage({5}), tmp_path / "last.ckpt"
    failure(tmp_path, damage, FiniteSteps(), LastCheckpoint(str(path), 1e-9), task=model)
    weights = {name: p.detach() for name, p in model.network.named_parameters()}
    assert_same(weights, {name: damage.before[5]["network"][name] for name in weights})
    saved = checkpoints.read(path)
    assert saved["global_step"] == 5, "a checkpoint before each step was asked for"
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_without_it_the_weights_would_be_lost(tmp_path: Path) -> None:
    model = toy.task()
    fit(tmp_path, Damage({5}), task=model)
    assert not all(p.isfinite().all() for p in model.parameters())


def test_the_bad_batch_of_an_accumulated_step_is_named(tmp_path: Path) -> None:
    damage = Damage({2})
    said = failure(tmp_path, damage, FiniteSteps(), accumulate_grad_batches=2)
    first, second = (", ".join(names) for names in damage.seen[2:4])
    assert f"step 1: the loss is not finite for {first}. The whole step was of {first}, {second}." in said
    assert "There is no good checkpoint yet." in said


def test_a_gradient_alone_is_named_by_its_parameters(tmp_path: Path) -> None:
    model = toy.task()
    model.network.head.classifier.bias.register_hook(lambda gradient: gradient * math.inf)
    damage = Damage(set())
    said = failure(tmp_path, damage, FiniteSteps(), task=model, gradient_clip_val=1.0)
    assert "step 0: the loss is finite, but not its gradient in network.head.classifier.bias. " in said
    assert f"The whole step was of {', '.join(damage.seen[0])}." in said
    assert "gradient_clip_val" not in said


def test_weights_that_are_not_finite_are_no_good_checkpoint(tmp_path: Path) -> None:
    """A step is so large that a weight overflows, which is saved before any loss shows it."""
    path, model, calls = tmp_path / "last.ckpt", toy.task(), itertools.count(1)
    bias = model.network.head.classifier.bias
    bias.register_hook(lambda gradient: gradient * 0 + (3e38 if next(calls) == 3 else 0))
    model.optimization = Optimization(partial(torch.optim.SGD, lr=100.0))
    said = failure(tmp_path, FiniteSteps(), LastCheckpoint(str(path), 1e-9), task=model)
    weights = checkpoints.read(path)["state_dict"]["network.head.classifier.bias"]
    assert weights.isinf().all()
    assert said.startswith("step 3: the loss is not finite for ")
    assert f"The last good checkpoint is {path.with_name('previous.ckpt')}, after 2 steps." in said


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_whose_gradient_would_not_show_it_is_seen(tmp_path: Path, value: float) -> None:
    damage = Damage({2}, value, hidden=True)
    said = failure(tmp_path, damage, FiniteSteps())
    assert f"step 2: the loss is not finite for {', '.join(damage.seen[2])}. " in said


def test_large_gradients_are_finite() -> None:
    linear = nn.Linear(4, 4)
    for p in linear.parameters():
        p.grad = torch.full_like(p, 1e30)  # whose square is not finite
    assert _not_finite(linear) == []
    linear.bias.grad[1] = math.inf
    assert _not_finite(linear) == ["bias"]


# --- skip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW], ids=["sgd", "adamw"]
)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_left_out_leaves_no_trace(tmp_path: Path, precision: str, optimizer: Callable) -> None:
    model = toy.task()
    model.optimization = Optimization(partial(optimizer, lr=0.01, weight_decay=0.1))
    damage, recorder, finite = Damage({3, 5}), Recorder(), FiniteSteps("skip")
    trainer = fit(
        tmp_path, finite, damage, task=model, precision=precision, logger=recorder, log_every_n_steps=1
    )
    for step in (3, 5):
        assert_same(damage.before[step], damage.after[step])
    for step in (2, 4, 6):
        for part in ("network", "optimizer"):
            with pytest.raises(AssertionError):
                assert_same(damage.before[step][part], damage.after[step][part])
    assert any(name.endswith("num_batches_tracked") for name in damage.after[3]["network"])
    assert all(p.isfinite().all() for p in model.parameters())
    logged = [row["skipped_steps"] for row in recorder.having("train/").values()]
    assert logged == [0, 0, 0, 1, 1, 2, 2, 2]
    assert trainer.global_step == 8
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0, "the schedule goes on"


def test_an_accumulated_step_is_left_out_whole(tmp_path: Path) -> None:
    damage = Damage({3})  # the second of two
    fit(tmp_path, FiniteSteps("skip"), damage, accumulate_grad_batches=2)
    assert_same(damage.before[2], damage.after[3])
    with pytest.raises(AssertionError):
        assert_same(damage.after[3], damage.after[5])


def test_a_warning_names_what_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage = Damage({3})
    with caplog.at_level(logging.WARNING, "hemnet"):
        fit(tmp_path, FiniteSteps("skip"), damage)
    (record,) = caplog.records
    assert f"step 3: the loss is not finite for {', '.join(damage.seen[3])}." in record.getMessage()


def test_too_many_in_a_row_end_it(tmp_path: Path) -> None:
    damage = Damage({1, 3, 4, 5, 6, 7})
    said = failure(tmp_path, FiniteSteps("skip", most=3), damage)
    assert len(damage.seen) == 7, "one alone, a good one, three in a row, and one more"
    assert "step 6: " in said
    assert "callbacks.finite.most: 3 steps in a row were skipped before this one" in said


def test_none_in_a_row_is_to_stop(tmp_path: Path) -> None:
    assert "step 2: " in failure(tmp_path, FiniteSteps("skip", most=0), Damage({2}))


def test_the_counts_are_those_of_the_resumed_run(tmp_path: Path) -> None:
    path = str(tmp_path / "last.ckpt")
    finite = FiniteSteps("skip", most=2)
    fit(tmp_path, finite, Damage({2, 3}), LastCheckpoint(path), max_epochs=1)
    assert finite.skipped == 2
    later = FiniteSteps("skip", most=2)
    said = failure(tmp_path, later, Damage({0}), LastCheckpoint(path), resumes_from=path)
    assert "step 4: " in said
    assert later.skipped == 2


# --- fp16: what the loss scaler does -----------------------------------------------------------------------


def scaled(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_overflow_with_finite_losses_is_left_to_the_scaler(tmp_path: Path, policy: str) -> None:
    plugin, damage, finite = scaled(2.0**60), Damage(set()), FiniteSteps(policy)
    fit(tmp_path, finite, damage, plugins=[plugin])
    assert plugin.scaler.get_scale() < 2.0**60
    assert_same(damage.before[0]["optimizer"], damage.after[0]["optimizer"])
    assert finite.skipped == 0


def test_a_loss_that_is_not_finite_is_not(tmp_path: Path) -> None:
    damage = Damage({2})
    said = failure(tmp_path, damage, FiniteSteps(), plugins=[scaled(2.0**8)])
    assert f"step 2: the loss is not finite for {', '.join(damage.seen[2])}. " in said


def test_a_step_left_out_under_a_scaler_leaves_no_trace(tmp_path: Path) -> None:
    damage, model = Damage({3}), toy.task()
    fit(tmp_path, FiniteSteps("skip"), damage, task=model, plugins=[scaled(2.0**8)])
    assert_same(damage.before[3], damage.after[3])
    with pytest.raises(AssertionError):
        assert_same(damage.before[4], damage.after[4])


# --- several ranks ------------------------------------------------------------------------------------------


def worker(rank: int, folder: str) -> None:
    with process_group(rank, RANKS, folder):
        path, both = Path(folder), {"devices": RANKS, "strategy": "ddp"}
        damage = Damage({5}, rank=1, hidden=True)
        said = failure(path, damage, FiniteSteps(), **both)
        logging.disable()
        model, finite = toy.task(), FiniteSteps("skip")
        fit(path, finite, skipped := Damage({2, 5}, rank=1), task=model, **both)
        logging.disable(logging.NOTSET)
        unseen = failure(path, FiniteSteps(), validation := DamageValidation(4, rank=1), **both)
        found = {
            "unseen": unseen, "name": validation.name,
            "said": said, "names": damage.seen[5], "skipped": finite.skipped,
            "before": [skipped.before[i] for i in (2, 5)], "after": [skipped.after[i] for i in (2, 5)],
            "weights": {name: p.detach() for name, p in model.named_parameters()},
            "means": model.network.head.context.em.means,
        }  # fmt: skip
        torch.save(found, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_ranks_decide_alike_and_name_the_files_of_the_one(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS))
    assert first["said"] == second["said"]
    mine, other = (", ".join(found["names"]) for found in (first, second))
    assert f"step 5: the loss is not finite for {other} (rank 1). " in first["said"]
    assert f"The whole step was of {mine} (rank 0); {other} (rank 1)." in first["said"]
    assert first["unseen"] == second["unseen"]
    assert f"not finite for {second['name']}, so" in first["unseen"]
    assert first["skipped"] == second["skipped"] == 2
    for part in ("weights", "means"):
        assert_same(first[part], second[part])
    for found in (first, second):
        assert all(value.isfinite().all() for value in found["weights"].values())
        assert_same(found["before"], found["after"])


# --- validation ---------------------------------------------------------------------------------------------


class DamageValidation(pl.Callback):
    """Puts NaN into the first image of each validation after a number of steps, on one rank."""

    def __init__(self, after: int, rank: int = 0) -> None:
        self.after, self.rank, self.name = after, rank, ""

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == 0 and trainer.global_step >= self.after and trainer.global_rank == self.rank:
            batch["image"][0, :, 3, 4] = math.nan
            self.name = batch["name"][0]


def test_a_validation_that_is_not_finite_stops_before_anything_is_saved(tmp_path: Path) -> None:
    damage, path = DamageValidation(after=8), tmp_path / "last.ckpt"
    best = ModelCheckpoint(tmp_path, "best", "val/miou", mode="max", save_on_train_epoch_end=False)
    said = failure(tmp_path, FiniteSteps(), damage, LastCheckpoint(str(path)), best)
    assert f"validation after 8 steps: the network's output is not finite for {damage.name}, " in said
    assert f"The last good checkpoint is {path}, after 4 steps." in said
    assert checkpoints.read(tmp_path / "best.ckpt")["global_step"] == 4


def test_a_validation_is_let_pass_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage = DamageValidation(after=4)
    with caplog.at_level(logging.WARNING, "hemnet"):
        trainer = fit(tmp_path, FiniteSteps("skip"), damage, max_epochs=1)
    (record,) = caplog.records
    assert record.getMessage() == f"the network's output is not finite for {damage.name}"
    assert trainer.callback_metrics["val/loss"].isnan()


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"), [({"policy": "ignore"}, "policy is 'ignore'"), ({"most": -1}, "most is -1")]
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FiniteSteps(**options)
