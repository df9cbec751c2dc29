"""The probes of convergence, attention and cost agree with the equations and do not change training."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from _helpers.probes import layer_of, plain_task, run
from _helpers.toy import data, task
from PIL import Image

from hemnet.callbacks.attention_maps import AttentionMaps, shown_iterations
from hemnet.callbacks.em_convergence import EMConvergenceProbe
from hemnet.callbacks.gradient_flow import GradientFlowProbe
from hemnet.callbacks.run_cost import RunCost
from hemnet.nets import FCNHead, ResNet, Segmenter


def all_probes(folder: Path) -> list[pl.Callback]:
    page = AttentionMaps(str(folder / "page.png"), images=2, components=2, every_n_validations=1)
    return [GradientFlowProbe(1), EMConvergenceProbe(2), page, RunCost()]


@pytest.mark.parametrize("batches_per_step", [1, 2])
def test_probes_change_no_bit_of_training(tmp_path: Path, batches_per_step: int) -> None:
    ends = []
    for callbacks in ([], all_probes(tmp_path)):
        torch.manual_seed(0)
        model = task()  # with dropout, batch statistics and moving means
        options = {"max_epochs": 3, "accumulate_grad_batches": batches_per_step}
        run(tmp_path, model, callbacks, precision="bf16-mixed", **options)
        ends.append({**model.state_dict(), "random": torch.get_rng_state()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def expected_curves(network: torch.nn.Module, layer: torch.nn.Module) -> dict[str, float]:
    """Return em/* of validation samples 0 and 4, by loops over means and positions."""
    captured = []
    handle = layer.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
    network.eval()
    with torch.no_grad():
        for i in (0, 4):
            network(data().val_dataset[i]["image"][None].double())
    handle.remove()
    found: dict[str, list[float]] = {}
    for x_BCHW in captured:
        x, mu = x_BCHW[0].flatten(1).T.numpy(), layer.means.double().numpy()
        (N, C), K, variance = x.shape, len(mu), math.sqrt(layer.channels)
        for t in range(layer.iterations + 1):
            log_p = -((x[:, None] - mu) ** 2).sum(-1) / (2 * variance) - C / 2 * np.log(2 * np.pi * variance)
            p = np.exp(log_p)
            # The responsibilities follow Eq. 8, the likelihood is of the mixture with equal weights.
            score = np.exp(x @ mu.T / variance)
            z = score / score.sum(1, keepdims=True)
            share = z.sum(0) / N
            moved = layer.highway_scale * mu + (1 - layer.highway_scale) * (z.T @ x) / z.sum(0)[:, None]
            values = {
                "log_likelihood": np.log(p.sum(1) / K).mean(),
                "entropy": -(z * np.log(z)).sum() / N,
                "occupancy_min": share.min(),
                "occupancy_max": share.max(),
                "components": np.exp(-(share * np.log(share)).sum()),
                "step_length": np.linalg.norm(moved - mu) / np.linalg.norm(mu),
            }
            for name, value in values.items():
                if name != "step_length" or t < layer.iterations:
                    found.setdefault(f"{name}/{t:02d}", []).append(value)
            mu = moved
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_convergence_is_that_of_the_equations(tmp_path: Path) -> None:
    model = plain_task()
    before = copy.deepcopy(model.network)
    recorder, _ = run(tmp_path, model, [EMConvergenceProbe(2)], precision="64-true", max_epochs=2)
    found = recorder.having("em/")
    assert sorted(found) == [0, 1, 3]  # before training, and the steps of the two validations
    assert sorted(recorder.having("val/")) == [1, 3]
    assert found[0] == pytest.approx(expected_curves(before.double(), before.head.context.em), rel=1e-9)
    assert found[3] == pytest.approx(expected_curves(model.network.double(), layer_of(model)), rel=1e-9)


@pytest.mark.parametrize("assignment", ["dot", "gaussian"])
def test_iterations_are_those_of_evaluation(assignment: str, tmp_path: Path) -> None:
    model = plain_task(assignment=assignment, iterations_eval=5)
    recorder, _ = run(tmp_path, model, [EMConvergenceProbe(1)])
    names = recorder.having("em/")[0]
    assert "entropy/05" in names
    assert "step_length/04" in names
    assert "log_likelihood/05" in names


def test_attention_shows_the_most_occupied_components(tmp_path: Path) -> None:
    page = AttentionMaps(str(tmp_path / "page.png"), images=2, components=3, show_images=True)
    model = plain_task()
    recorder, _ = run(tmp_path, model, [page])
    assert recorder.images == [("em/attention", [str(tmp_path / "page.png")])]
    assert min(Image.open(tmp_path / "page.png").size) > 300


def test_attention_without_images_holds_maps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    monkeypatch.setattr(
        "hemnet.callbacks.attention_maps.attention_page",
        lambda images, iterations, path, show_images: pages.append((images, iterations, show_images)),
    )
    model = plain_task()
    page = AttentionMaps(str(tmp_path / "page.png"), images=2, components=3, show_images=False)
    run(tmp_path, model, [page], precision="64-true")
    ((images, iterations, show_images),) = pages
    assert (iterations, show_images, [one.name for one in images]) == ([0, 1, 2, 3], False, ["0", "4"])
    layer = layer_of(model)
    captured = []
    layer.register_forward_pre_hook(lambda _, given: captured.append(given[0]))
    model.network.double().eval()(data().val_dataset[4]["image"][None].double())
    x, mu = captured[0][0].flatten(1).T, layer.means.double()
    for t in range(4):
        z = (x @ mu.T / math.sqrt(layer.channels)).softmax(1)
        if t == 0:
            first = z
        if t < 3:
            mu = layer.highway_scale * mu + (1 - layer.highway_scale) * (z.T @ x) / z.sum(0)[:, None]
    chosen = z.mean(0).argsort(descending=True)[:3].tolist()
    assert images[1].components == chosen
    assert images[1].shares == pytest.approx(z.mean(0)[chosen].tolist())
    for row, component in zip(images[1].maps, chosen, strict=True):
        np.testing.assert_allclose(row[0].ravel(), first[:, component].detach(), rtol=1e-5)
        np.testing.assert_allclose(row[3].ravel(), z[:, component].detach(), rtol=1e-5)


@pytest.mark.parametrize(
    ("last", "shown"),
    [(0, [0]), (3, [0, 1, 2, 3]), (8, [0, 1, 2, 4, 8]),
     (12, [0, 1, 2, 4, 8, 12]), (32, [0, 1, 2, 4, 8, 16, 32])],
)  # fmt: skip
def test_of_many_iterations_some_are_shown(last: int, shown: list[int]) -> None:
    assert shown_iterations(last) == shown


def test_heads_without_em_cost_but_have_no_em(tmp_path: Path) -> None:
    model = task()
    backbone = ResNet(18, output_stride=8, width=4)
    model.network = Segmenter(backbone, FCNHead(backbone.channels, 2, channels=8))
    recorder, _ = run(tmp_path, model, all_probes(tmp_path))
    assert not recorder.having("em/")
    assert not recorder.images
    assert not (tmp_path / "page.png").exists()
    (cost,) = recorder.having("cost/").values()
    assert cost["em_parameters"] == 0


def test_cost_counts_what_the_network_has(tmp_path: Path) -> None:
    model = task()
    recorder, _ = run(tmp_path, model, [RunCost()], max_epochs=6, accumulate_grad_batches=2)
    ((step, cost),) = recorder.having("cost/").items()
    assert step == 5
    assert cost["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert cost["em_parameters"] == (8 * 8 + 8) + 8 * 8 + 2 * 8  # conv1, conv2, normalisation
    assert 0 < cost["seconds_per_step"] < 60
    assert cost["peak_memory_mib"] > 50
    # Without EM: the unit's two convolutions on 4 x 4 positions and 2T + 1 products of 16 x 8 and 8 x 4 less.
    other = task()
    other.network.head.context = torch.nn.Identity()
    recorder, _ = run(tmp_path, other, [RunCost()])
    ((_, without),) = recorder.having("cost/").items()
    assert cost["gflops"] - without["gflops"] == pytest.approx((2 * 16 * 64 * 2 + 7 * 2 * 16 * 8 * 4) / 1e9)
