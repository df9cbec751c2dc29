"""The gradient-flow probe against autograd of the iterations written out here."""

import copy
import csv
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from _helpers.gloo import process_group
from _helpers.probes import layer_of, plain_task, run
from _helpers.toy import data, task, trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from hemnet.callbacks.gradient_flow import GradientFlowProbe
from hemnet.nets import FCNHead, ResNet, Segmenter
from hemnet.training.loss import cross_entropy_sum


class Batches(pl.Callback):
    """Keeps the training batches, and the network before the first."""

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not self.seen:
            self.network = copy.deepcopy(pl_module.network)
        self.seen.append(batch)


class WrittenOut(nn.Module):
    """The EM of a layer, equation by equation, which keeps every use of the means and the features."""

    def __init__(self, layer) -> None:
        super().__init__()
        self.h, self.iterations, self.variance = layer.highway_scale, layer.iterations, layer.channels**0.5
        self.start = layer.means.double()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x = x_BCHW.flatten(2).mT
        uses = [x.clone() for _ in range(self.iterations + 1)]
        means = [self.start.repeat(len(x), 1, 1).requires_grad_()]

        def share(x: Tensor, mu: Tensor) -> Tensor:
            return (x @ mu.mT / self.variance).softmax(-1)

        for t in range(self.iterations):
            z = share(uses[t], means[t])
            m = torch.einsum("bnk,bnc->bkc", z, uses[t]) / z.sum(1)[..., None]
            means.append(self.h * means[t] + (1 - self.h) * m)
        y = share(uses[-1], means[-2]) @ means[-1]
        self.kept = means, uses
        for tensor in means + uses:
            tensor.retain_grad()
        return y.mT.unflatten(2, x_BCHW.shape[2:])


def expected(batches: Batches) -> dict[str, float]:
    """Return the metrics of the step over all the batches together."""
    network = batches.network.train()
    written = network.head.context.em = WrittenOut(network.head.context.em)
    squares = torch.zeros(2, written.iterations + 1, dtype=torch.float64)
    for batch in batches.seen:
        logits = network(batch["image"].double(), batch["mask"].shape[-2:]).logits
        (cross_entropy_sum(logits.double(), batch["mask"]).mean() / len(batches.seen)).backward()
        for row, tensors in enumerate(written.kept):
            squares[row] += torch.stack([tensor.grad.square().sum() for tensor in tensors])
    means, features = squares.sqrt()
    found = {"means_last": means[-1].item()}
    for t in range(written.iterations + 1):
        found[f"means/{t:02d}"] = (means[t] / means[-1]).item()
        found[f"share/{t:02d}"] = (features[t] / features.sum()).item()
    parts = {s: [getattr(network.backbone, s)] for s in ("layer1", "layer2", "layer3", "layer4")}
    parts |= {"stem": [network.backbone.conv1, network.backbone.bn1], "all": [network.backbone]}
    for stage, modules in parts.items():
        gradients = [p.grad.flatten() for module in modules for p in module.parameters()]
        found[f"backbone/{stage}"] = torch.cat(gradients).norm().item()
    return found


@pytest.mark.parametrize("batches_per_step", [1, 2])
@pytest.mark.parametrize("engine", ["reference", "recompute"])
def test_a_step_is_that_of_autograd(tmp_path: Path, batches_per_step: int, engine: str) -> None:
    batches = Batches()
    recorder, _ = run(
        tmp_path, plain_task(engine=engine), [batches, GradientFlowProbe(10)], precision="64-true",
        accumulate_grad_batches=batches_per_step, max_steps=1, gradient_clip_val=1e-3,
    )  # fmt: skip
    assert len(batches.seen) == batches_per_step
    found, wanted = recorder.having("gradient/"), expected(batches)
    if engine == "reference":
        del wanted["means/00"]  # not computed if the initial means take no gradient
    assert list(found) == [0]
    # The loss is in float32, which bounds how well the two can agree.
    assert found[0] == pytest.approx(wanted, rel=1e-4)
    assert sum(found[0][f"share/{t:02d}"] for t in range(4)) == pytest.approx(1)
    flow = [found[0][f"means/{t:02d}"] for t in range(4) if f"means/{t:02d}" in found[0]]
    histograms = {key: (values, step) for key, values, step in recorder.histograms}
    if engine == "recompute":
        assert histograms["gradient/flow"] == (pytest.approx(flow), 0)
    assert histograms["gradient/share"][1] == 0


def test_every_nth_step_and_the_last(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    run(tmp_path, task(), [GradientFlowProbe(2)], max_epochs=2, logger=logger, log_every_n_steps=3)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["gradient/means/03"]]
    assert [row["step"] for row in rows] == ["0", "2", "3"]
    assert all(float(row["gradient/means/03"]) == 1 and row["gradient/backbone/stem"] for row in rows)


def test_nothing_is_recorded_between(tmp_path: Path) -> None:
    class Hooks(pl.Callback):
        counts: list[int] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            self.counts.append(len(layer_of(pl_module)._flow_hooks))

    run(tmp_path, task(), [GradientFlowProbe(2), Hooks()], max_epochs=2)
    assert Hooks.counts == [0, 0, 0, 0]


@pytest.mark.parametrize("gradient", ["one_step", "detached"])
def test_modes_that_let_less_through(tmp_path: Path, gradient: str) -> None:
    recorder, _ = run(tmp_path, plain_task(gradient=gradient), [GradientFlowProbe()], max_steps=1)
    found = recorder.having("gradient/")[0]
    assert found["backbone/all"] > 0
    if gradient == "detached":
        assert not any(name.startswith(("means", "share")) for name in found)
    else:
        assert [found[f"means/{t:02d}"] > 0 for t in range(4)] == [False, False, True, True]
        assert found["share/00"] == found["share/01"] == 0


def test_a_head_without_em_has_its_backbone_alone(tmp_path: Path) -> None:
    model = task()
    backbone = ResNet(18, output_stride=8, width=4)
    model.network = Segmenter(backbone, FCNHead(backbone.channels, 2, channels=8))
    recorder, _ = run(tmp_path, model, [GradientFlowProbe()])
    names = {name.split("/")[0] for name in recorder.having("gradient/")[0]}
    assert names == {"backbone"}


def without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.Identity())
        without_batch_norm(child)


def joint_fit(folder: Path, devices: int) -> None:
    torch.manual_seed(0)
    model = plain_task()
    without_batch_norm(model.network)  # its statistics are those of one process's batch
    batches = data(train=8)
    batches._batch_size = 4 // devices
    strategy = "ddp" if devices > 1 else "auto"
    fit = trainer(
        folder, callbacks=[GradientFlowProbe()], max_steps=1, devices=devices, strategy=strategy,
        logger=CSVLogger(folder, name="", version=""), enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    fit.fit(model, datamodule=batches)


def as_rank(rank: int, folder: Path) -> None:
    with process_group(rank, 2, str(folder)):
        joint_fit(folder, 2)


def logged(folder: Path) -> dict[str, float]:
    with (folder / "metrics.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["gradient/means_last"])
    return {name: float(value) for name, value in row.items() if name.startswith("gradient/")}


@pytest.mark.slow
def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    mp.spawn(as_rank, args=(tmp_path / "two",), nprocs=2)
    joint_fit(tmp_path / "one", 1)
    assert logged(tmp_path / "two") == pytest.approx(logged(tmp_path / "one"), rel=1e-4)


class Fails(pl.Callback):
    def on_before_backward(self, *_: object) -> None:
        raise RuntimeError("in the middle of a recorded step")


def test_an_error_in_a_recorded_step_leaves_the_compiler_and_the_network_as_they_were(tmp_path: Path) -> None:
    model, compiled = task(), []
    fit = trainer(tmp_path, callbacks=[GradientFlowProbe(1), Fails()], enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="in the middle"):
        fit.fit(model, datamodule=data())
    torch.compiler.reset()
    torch.compile(torch.sin, backend=lambda graph, _: compiled.append(graph) or graph)(torch.ones(2))
    assert compiled
    assert not layer_of(model)._flow_hooks


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_steps is 0"):
        GradientFlowProbe(0)
