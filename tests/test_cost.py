"""What a network costs, against counts by hand and against the plain engine's."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hemnet.cost import _entry
from hemnet.em import HighwayEM
from hemnet.errors import HemnetError
from hemnet.nets import FCNHead, ResNet, Segmenter
from hemnet.using.costing import cost, count_flops, count_parameters

B, C, K, H, W = 2, 12, 5, 6, 7


def flops(iterations: int, **options: object) -> int:
    layer = HighwayEM(C, K, iterations, **options).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        layer(torch.randn(B, C, H, W))
    return counter.get_total_flops()


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("assignment", ["gaussian", "dot"])
def test_the_em_layer_counts_as_its_plain_operations_do(iterations: int, assignment: str) -> None:
    counted = flops(iterations, engine="recompute", assignment=assignment)
    assert counted == flops(iterations, engine="reference", assignment=assignment)
    products = 2 * iterations + 1 if iterations else 2
    assert counted == products * 2 * B * H * W * C * K


def test_a_fit_without_a_readout_counts_none() -> None:
    # The implicit mode takes the means from the operator, and reconstructs in plain operations.
    assert flops(4, gradient="implicit") == (2 * 4 + 2) * 2 * B * H * W * C * K


class OneConv(nn.Module):
    channels = (3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x, self.conv(x)


class OneByOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 1, bias=False)

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.conv(features[-1])


def test_flops_and_parameters_by_hand() -> None:
    network = Segmenter(OneConv(), OneByOne(), nn.Linear(2, 2)).eval()
    backbone, head = 2 * (8 * 10) * 4 * 27, 2 * (8 * 10) * 6 * 4
    expected = {"total": 3 * (backbone + head), "backbone": 3 * backbone, "head": 3 * head}
    assert count_flops(network, torch.zeros(3, 3, 16, 20)) == expected
    sizes = {"backbone": 4 * 27 + 4, "head": 24, "auxiliary": 6}
    assert count_parameters(network) == {"total": sum(sizes.values()), **sizes}


def test_latency_is_measured_and_described() -> None:
    backbone = ResNet(18, width=4)
    found = cost(Segmenter(backbone, FCNHead(backbone.channels, 3, channels=8)), (24, 32), batch=2, repeats=3)
    latency = found["latency"]
    assert 0 < latency["fastest_ms"] <= latency["median_ms"] <= latency["slowest_ms"]
    assert latency["peak_memory_mib"] is None
    assert (found["size"], found["batch"], found["repeats"]) == ([24, 32], 2, 3)
    assert found["threads"] == torch.get_num_threads()
    assert "cpu" in found["device"]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["cost", "--device", "cpu", "--repeats", "1", *arguments])
    _entry()


def test_a_recipe_as_a_user_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cost.json"
    recipe = [
        "experiment=synthetic_hem",
        "--size",
        "32",
        "48",
        "model.head.iterations=2",
        "--output",
        str(out),
    ]
    command(monkeypatch, *recipe)
    printed = capsys.readouterr().out
    assert "synthetic_hem, 4 classes: 1 x 32 x 48" in printed
    assert "GFLOPs" in printed
    assert "threads" in printed
    fewer = json.loads(out.read_text())["flops"]
    command(monkeypatch, *recipe)  # the same again
    with pytest.raises(HemnetError, match=r"cost\.json was made with overrides .*: choose another --output"):
        command(monkeypatch, *recipe, "model.head.iterations=5")
    assert json.loads(out.read_text())["flops"] == fewer
    out.unlink()
    command(monkeypatch, *recipe, "model.head.iterations=5")
    more = json.loads(out.read_text())["flops"]
    out.write_text('{"mine": 1}')
    with pytest.raises(HemnetError, match=r"cost\.json exists, and does not say that hemnet cost made it"):
        command(monkeypatch, *recipe)
    assert out.read_text() == '{"mine": 1}'
    # Three iterations more, on 4 x 6 positions of 64 channels with 8 components.
    assert more["total"] - fewer["total"] == more["head"] - fewer["head"] == 3 * 2 * 2 * 24 * 64 * 8


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = ("experiment=camvid_hem_cpu", f"data.root={tmp_path}/none", "--size", "16", "16")
    with pytest.raises(HemnetError, match="--classes N"):
        command(monkeypatch, *recipe)
    command(monkeypatch, *recipe, "--classes", "11")
    with pytest.raises(HemnetError, match="no run at"):
        command(monkeypatch, str(tmp_path))
    with pytest.raises(HemnetError, match="at least 1"):
        command(monkeypatch, *recipe, "--batch", "0")
