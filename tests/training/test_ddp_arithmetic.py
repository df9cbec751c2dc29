"""Two ranks with two images each take the same steps as one process with the four images.

Batch normalisation is in eval mode: in training its statistics are those of a rank's own images, which is a
choice (trainer.sync_batchnorm makes the other) and not what is asked here. Networks are float64, so that the
two may differ by the order of their sums alone.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from _helpers import toy
from _helpers.gloo import process_group
from torch import Tensor, nn

from hemnet.callbacks.class_frequencies import ClassFrequencies
from hemnet.data import EvalTransform, Sample, SegmentationData, TrainTransform
from hemnet.em.initial_means import InitialMeans
from hemnet.nets import EMHead, FCNHead, ResNet, Segmenter
from hemnet.training.loss import (
    CrossEntropy,
    Dice,
    Focal,
    HardPixels,
    Loss,
    LossSum,
    Lovasz,
    PixelSum,
    class_weights,
)
from hemnet.training.optim import Optimization
from hemnet.training.task import SegmentationTask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
RANKS, BATCH, STEPS = 2, 4, 6
COMMIT = InitialMeans.update
# An entry of a gradient is a sum of up to 1e5 float64 terms, 1e-16 of them each, and six steps hand them on;
# observed is 1e-14.
FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}
# Moving averages of means are float32, whatever the network is: 6e-8 a step, and what follows from them;
# observed is 6e-8.
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}


class Uneven(toy.Halves):
    """Images with different numbers of valid pixels, every fourth with none; ``blind``: all with none."""

    def __init__(self, length: int, seed: int, blind: bool) -> None:
        super().__init__(length, seed)
        self.blind = blind

    def read(self, index: int) -> Sample:
        image, mask, name = super().read(index)
        height = len(mask)
        mask[: height if self.blind or index % 4 == 3 else 10 * (index % 4)] = 255
        return Sample(image, mask, name)


def data(batch_size: int, blind: bool) -> SegmentationData:
    transform = TrainTransform(32, scale=(1.0, 1.0), flip=True, color_jitter=0.0)
    readers = Uneven(BATCH * STEPS // 2, 0, blind), Uneven(5, 2, False)  # five do not divide by two ranks
    return SegmentationData(*readers, transform, EvalTransform(24), batch_size=batch_size)


def task(means: str = "learned", lr: float = 0.05, checkpointing: bool = False) -> SegmentationTask:
    torch.manual_seed(0)
    backbone = ResNet(18, output_stride=8, width=4, activation_checkpointing=checkpointing)
    head = EMHead(backbone.channels, 2, channels=8, num_components=4, means=means, dropout=0.0)
    auxiliary = FCNHead(backbone.channels, 2, channels=8, stage=-2, dropout=0.0)
    sgd = partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=1e-3)
    network = Segmenter(backbone, head, auxiliary)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # otherwise every block is the identity at first
            module.eval()  # Lightning keeps the modes of modules
    optimization = Optimization(sgd, head_lr_multiple=2.0, warmup_fraction=0.3)
    return SegmentationTask(network, toy.SPEC, optimization)


def constant_task() -> SegmentationTask:
    """A network that gives both classes probability 1/2 everywhere, and does not change."""
    model = task(lr=0.0)
    for head in (model.network.head, model.network.auxiliary):
        nn.init.zeros_(head.classifier.weight)
        nn.init.zeros_(head.classifier.bias)
    return model


class Twice(HardPixels):
    """What two ranks choose among their own pixels, in one process."""

    def sums(self, logits_BKHW: Tensor, target_BHW: Tensor, ignore_index: int) -> PixelSum:
        halves = [super(Twice, self).sums(logits_BKHW[r::RANKS], target_BHW[r::RANKS], ignore_index)
                  for r in range(RANKS)]  # fmt: skip
        return PixelSum(*(sum(values) for values in zip(*halves, strict=True)))


def task_with(**losses: Loss) -> SegmentationTask:
    model = task()
    model.training_loss = LossSum(losses)
    for weights in class_weights(model.training_loss):
        weights.fit(2)
    return model


def hard_task(ranks: int) -> SegmentationTask:
    return task_with(hard=(HardPixels if ranks > 1 else Twice)(0.6, 0.25))


def summed_task() -> SegmentationTask:
    """Losses whose values are no means over pixels, and sums of all kinds."""
    return task_with(
        ce=CrossEntropy(0.5, [0.3, 2.0], label_smoothing=0.2), focal=Focal(class_weights="median_frequency"),
        dice=Dice(2.0), lovasz=Lovasz(), per_image=Lovasz(0.7, per_image=True),
    )  # fmt: skip


class Witness(pl.Callback):
    """Keeps the loss, gradients, learning rates and means of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
        self.steps.append(
            {"gradients": gradients, "rates": [group["lr"] for group in optimizer.param_groups]}
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.fit_loop._should_accumulate():
            return
        self.steps[-1]["loss"] = {
            name: value.item()
            for name, value in trainer.callback_metrics.items()
            if name.startswith("train/loss")
        }
        self.steps[-1]["means"] = pl_module.network.head.context.em.means.detach().clone()


def fit(
    folder: str, ranks: int, model: SegmentationTask, blind: bool = False, **options: Any
) -> dict[str, Any]:
    witness = Witness()
    several = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    trainer = toy.trainer(
        Path(folder), callbacks=[witness, ClassFrequencies()], max_epochs=2, precision="64-true",
        enable_checkpointing=False, log_every_n_steps=1, num_sanity_val_steps=0, **several, **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=data(BATCH // ranks, blind))
    scores = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return {"steps": witness.steps, "weights": model.network.state_dict(), "scores": scores}


def fit_apart(folder: str, ranks: int) -> dict[str, Any]:
    """Train without the all-reduce in the EM layer, but with those of the loss and of DDP."""
    with mock.patch("hemnet.em.initial_means.InitialMeans.update", commit_apart):
        return fit(folder, ranks, task("moving_average"))


def commit_apart(layer: InitialMeans) -> None:
    with mock.patch("torch.distributed.all_reduce"):
        COMMIT(layer)


Fit = Callable[[str, int], dict[str, Any]]
CASES: dict[str, Fit] = {
    "learned means": lambda folder, ranks: fit(folder, ranks, task()),
    "moving average": lambda folder, ranks: fit(folder, ranks, task("moving_average")),
    "accumulated": lambda folder, ranks: fit(folder, ranks, task(), accumulate_grad_batches=2),
    "checkpointing": lambda folder, ranks: fit(folder, ranks, task(checkpointing=ranks > 1)),
    "hard pixels": lambda folder, ranks: fit(folder, ranks, hard_task(ranks)),
    "sum of losses": lambda folder, ranks: fit(folder, ranks, summed_task()),
    "sum of nothing": lambda folder, ranks: fit(folder, ranks, summed_task(), blind=True),
    "nothing valid": lambda folder, ranks: fit(folder, ranks, task(), blind=True),
    "without all-reduce": fit_apart,
    "constant": lambda folder, ranks: fit(folder, ranks, constant_task()),
}
Results = dict[str, list[dict[str, Any]]]


def worker(rank: int, folder: str) -> None:
    with process_group(rank, RANKS, folder):
        found = {name: case(folder, RANKS) for name, case in CASES.items()}
        torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """By case: the results of one process, of rank 0 of two, and of rank 1."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.spawn(worker, args=(folder,), nprocs=RANKS)
    ranks = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(RANKS)]
    return {name: [case(folder, 1), *(rank[name] for rank in ranks)] for name, case in CASES.items()}


def assert_same(case: list[dict[str, Any]], part: str, **tolerance: float) -> None:
    one, *two = case
    assert len(one["steps"]) == len(two[0]["steps"]) == len(two[1]["steps"])
    for rank in two:
        for mine, other in zip(one["steps"], rank["steps"], strict=True):
            torch.testing.assert_close(other[part], mine[part], **tolerance)


@pytest.mark.parametrize(
    "name", ["learned means", "accumulated", "checkpointing", "hard pixels", "sum of losses"]
)
def test_two_ranks_take_the_steps_of_one_process(results: Results, name: str) -> None:
    assert len(results[name][0]["steps"]) == STEPS - 2 * (name == "accumulated")
    for part in ("loss", "gradients", "rates", "means"):
        assert_same(results[name], part, **FLOAT64)
    one, *two = results[name]
    torch.testing.assert_close([rank["weights"] for rank in two], [one["weights"]] * RANKS, **FLOAT64)


def test_the_case_is_one_where_a_mean_of_means_is_wrong(results: Results) -> None:
    """Ranks have different numbers of valid pixels; one of them has none at some step."""
    batches = data(BATCH, False)
    dataset, order = batches.train_dataset, list(batches.train_dataloader().sampler)
    valid = np.array([(dataset[key]["mask"] != 255).sum() for key in order]).reshape(-1, BATCH)
    by_rank = [valid[:, rank::RANKS].sum(1) for rank in range(RANKS)]
    assert (by_rank[0] != by_rank[1]).all()
    losses = [step["loss"]["train/loss"] for step in results["learned means"][0]["steps"]]
    assert min(np.abs(np.diff(losses))) > 1e-3, "steps that are alike would tell little"


def test_moving_averages_are_those_of_one_process_on_every_rank(results: Results) -> None:
    one, first, second = results["moving average"]
    for part in ("loss", "gradients", "rates", "means"):
        assert_same(results["moving average"], part, **FLOAT32)
    for a, b in zip(first["steps"], second["steps"], strict=True):
        assert torch.equal(a["means"], b["means"])
    moved = (one["steps"][-1]["means"] - one["steps"][0]["means"]).abs().max()
    assert moved > 0.1, "means that do not move would tell little"


def test_without_the_layer_s_all_reduce_a_rank_s_images_would_be_lost(results: Results) -> None:
    """The previous test alone would also pass if DDP's copying of buffers made the ranks alike."""
    one, first, second = results["without all-reduce"]
    assert torch.equal(one["steps"][0]["means"], results["moving average"][0]["steps"][0]["means"])
    for rank in (first, second):
        assert (rank["steps"][0]["means"] - one["steps"][0]["means"]).abs().max() > 1e-3
    assert not torch.equal(first["steps"][0]["means"], second["steps"][0]["means"])


@pytest.mark.parametrize("name", ["nothing valid", "sum of nothing"])
def test_without_a_valid_pixel_anywhere_loss_and_gradients_are_0(results: Results, name: str) -> None:
    for process in results[name]:
        for step in process["steps"]:
            assert {"train/loss", "train/loss_auxiliary"} <= step["loss"].keys()
            assert set(step["loss"].values()) == {0.0}
            assert all((gradient == 0).all() for gradient in step["gradients"].values())


def test_the_logged_mean_of_a_constant_is_that_constant(results: Results) -> None:
    """Whatever the batches hold, even an image without valid pixels, which has no loss."""
    for process in results["constant"]:
        losses = [value for step in process["steps"] for value in step["loss"].values()]
        # The sum of up to 4096 equal float64 terms, divided by their number.
        assert losses == pytest.approx([math.log(2)] * len(losses), rel=1e-12)
        assert process["scores"]["val/loss"] == pytest.approx(math.log(2), rel=1e-6)  # kept in float32


@pytest.mark.parametrize("name", ["learned means", "moving average"])
def test_scores_of_a_set_that_does_not_divide_by_the_ranks_are_those_of_one_process(
    results: Results, name: str
) -> None:
    one, *two = results[name]
    for rank in two:
        assert rank["scores"] == pytest.approx(one["scores"], rel=1e-6)
