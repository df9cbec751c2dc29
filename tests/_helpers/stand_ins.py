"""Small packages in the place of timm and transformers, with the parts of their interfaces that hemnet uses.

The real ones were tried by hand: timm 1.0.31 and transformers 5.24.
"""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

WIDTHS = (4, 8, 12, 16)


class Net(nn.Module):
    """A network of four stages in two sequences, as timm's are, and a classifier."""

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        strides = [1, *(2 if 4 * 2**i <= output_stride else 1 for i in (1, 2, 3))]
        self.stages = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1), nn.BatchNorm2d(c_out), nn.ReLU())
            for c_in, c_out, stride in zip((4, *WIDTHS), WIDTHS, strides, strict=False)
        ))  # fmt: skip
        self.head = nn.Linear(WIDTHS[-1], 10)


class Features(nn.ModuleDict):
    """What ``features_only=True`` makes of it: the first level of sequences is part of the names."""

    def __init__(self, net: Net, out_indices: tuple[int, ...], kind: str) -> None:
        stages = {f"stages_{i}": stage for i, stage in enumerate(net.stages)}
        super().__init__({"stem": net.stem} | stages)
        self.kept, self.kind = [i % 4 for i in out_indices], kind
        says = [WIDTHS[i] + (kind == "liar") for i in self.kept]
        self.feature_info = SimpleNamespace(channels=lambda: says)
        other = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        self.pretrained_cfg = other if kind == "half" else {}

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.kind == "one_size" and x.shape[-1] != x.shape[-2]:
            raise AssertionError("Input width (448) doesn't match model (224).")
        maps: list[Tensor] = []
        for name, module in self.items():
            x = module(x)
            if name != "stem":
                maps.append(x)
        if self.kind == "odd":
            maps = [x[..., 1:, :] for x in maps]
        if self.kind == "last":
            maps = [x.permute(0, 2, 3, 1) for x in maps]
        return [maps[i] for i in self.kept][self.kind == "few" :]


def timm(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Install the stand-in of timm; return whether each network was asked for with trained weights."""
    asked: list[bool] = []

    def create_model(
        model_name: str, pretrained: bool = False, *, features_only: bool, out_indices: tuple[int, ...],
        output_stride: int = 32, drop_path_rate: float = 0.0,
    ) -> nn.Module:  # fmt: skip
        kind = model_name.removeprefix("tiny_")
        if kind == model_name:
            raise RuntimeError(f"Unknown model ({model_name})")
        assert features_only
        asked.append(pretrained)
        net = Net(32 if kind == "rigid" else output_stride)
        if pretrained:
            nn.init.constant_(net.stem.weight, 0.25)
        return Features(net, out_indices, kind)

    module = ModuleType("timm")
    module.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)
    return asked


class Backbone(nn.Module):
    """A backbone of transformers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.net = Features(Net(), tuple(i - 1 for i in config.out_indices), "plain")
        self.channels = self.net.feature_info.channels()

    @classmethod
    def from_pretrained(cls, name: str, config: Any) -> nn.Module:
        made = cls(config)
        nn.init.constant_(made.net["stem"].weight, 0.25)
        return made

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=tuple(self.net(x)))


def transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-in of transformers."""

    class Config(SimpleNamespace):
        def to_dict(self) -> dict[str, Any]:
            return dict(vars(self))

    def from_pretrained(name: str, **changed: Any) -> Config:
        if not name.startswith("tiny"):
            raise OSError(f"{name} is not a local folder and is not a valid model identifier")
        stages = ["stem", "stage1", "stage2", "stage3", "stage4"]
        return Config(**{"drop_path_rate": 0.0, "stage_names": stages} | changed)

    module = ModuleType("transformers")
    module.AutoConfig = SimpleNamespace(from_pretrained=from_pretrained)  # type: ignore[attr-defined]
    module.AutoBackbone = SimpleNamespace(from_config=Backbone)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)


def whole_network(path: Any) -> Net:
    """Save the tensors of a network with its classifier, as a package distributes it."""
    net = Net()
    torch.save({"state_dict": net.state_dict()}, path)
    return net
