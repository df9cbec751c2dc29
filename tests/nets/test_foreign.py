"""Backbones of timm and transformers, by stand-ins that have their interfaces."""

import sys
from pathlib import Path

import pytest
import torch
from _helpers import stand_ins
from _helpers.untrained import untrained

from hemnet.config.build import restore
from hemnet.data.transforms import MEAN_RGB, STD_RGB
from hemnet.errors import HemnetError
from hemnet.nets import HuggingFaceBackbone, TimmBackbone, foreign


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    return stand_ins.timm(monkeypatch)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.transformers(monkeypatch)


def test_maps_channels_and_strides_are_those_of_the_network(asked: list[bool]) -> None:
    image = torch.randn(2, 3, 64, 96)
    for options, strides in (({}, (4, 8, 16, 32)), ({"output_stride": 8}, (4, 8, 8, 8))):
        backbone = TimmBackbone("tiny_net", **options).eval()
        assert backbone.channels == stand_ins.WIDTHS
        assert backbone.strides == strides
        assert backbone.output_stride == strides[-1]
        maps = backbone(image)
        assert [x.shape[1] for x in maps] == [*stand_ins.WIDTHS]
        assert [(64 // x.shape[2], 96 // x.shape[3]) for x in maps] == [(s, s) for s in strides]
        for found, expected in zip(maps, backbone.model(image), strict=True):
            assert torch.equal(found, expected)
    assert TimmBackbone("tiny_net", stages=[1, 3]).channels == (8, 16)
    assert TimmBackbone("tiny_net").training


def test_channels_that_come_last_come_second(asked: list[bool]) -> None:
    torch.manual_seed(0)
    last = TimmBackbone("tiny_last").eval()
    torch.manual_seed(0)
    plain, image = TimmBackbone("tiny_net").eval(), torch.randn(1, 3, 64, 64)
    for one, other in zip(last(image), plain(image), strict=True):
        assert torch.equal(one, other)


def test_images_are_normalised_as_the_network_s_were(asked: list[bool]) -> None:
    backbone = TimmBackbone("tiny_half").eval()
    pixels = torch.rand(1, 3, 64, 64)
    ours = (pixels - torch.tensor(MEAN_RGB)[:, None, None]) / torch.tensor(STD_RGB)[:, None, None]
    for found, expected in zip(backbone(ours), backbone.model((pixels - 0.5) / 0.5), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (foreign.MEAN_RGB, foreign.STD_RGB) == (MEAN_RGB, STD_RGB)
    assert not any("C11" in name for name in backbone.state_dict())


def test_weights_are_the_package_s_none_or_those_of_a_file(asked: list[bool], tmp_path: Path) -> None:
    assert TimmBackbone("tiny_net", weights="imagenet").model["stem"].weight.eq(0.25).all()
    assert not TimmBackbone("tiny_net").model["stem"].weight.eq(0.25).any()
    whole = stand_ins.whole_network(tmp_path / "net.pth")
    backbone = TimmBackbone("tiny_net", weights=tmp_path / "net.pth")
    assert asked == [True, False, False]
    for i in range(4):
        assert torch.equal(backbone.model[f"stages_{i}"][0].weight, whole.stages[i][0].weight)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "tiny_liar",
            {},
            r"no backbone: of an image of 224 x 448 it gives \(1, 4, 56, 112\), not 5 channels",
        ),
        ("tiny_few", {}, "says that it gives 4 maps, and gives 3"),
        ("tiny_odd", {}, r"no backbone.*\(1, 4, 55, 112\)"),
        ("tiny_one_size", {}, r"fails as a backbone.*doesn't match model.*dynamic_img_size"),
        ("tiny_rigid", {"output_stride": 8}, "has output stride 32, and cannot be given 8"),
        ("resnet", {}, r"timm's resnet cannot be made: Unknown model"),
        ("tiny_net", {"options": {"drop_rat": 0.1}}, "drop_rat"),
        ("tiny_net", {"options": {"checkpoint_path": "x"}}, "options must not have checkpoint_path"),
        ("tiny_net", {"weights": "none.pth"}, "no pretrained weights at none.pth"),
    ],
)
def test_what_is_no_backbone_is_said_at_once(asked, name: str, options: dict, said: str) -> None:
    with pytest.raises(HemnetError, match=said):
        TimmBackbone(name, **options)


def test_backbones_of_transformers(transformers: None) -> None:
    backbone = HuggingFaceBackbone("tiny/net")
    assert (backbone.channels, backbone.strides) == (stand_ins.WIDTHS, (4, 8, 16, 32))
    assert [x.shape[1] for x in backbone.eval()(torch.randn(1, 3, 64, 64))] == [*stand_ins.WIDTHS]
    assert HuggingFaceBackbone("tiny/net", stages=[2, 4]).channels == (8, 16)
    trained = HuggingFaceBackbone("tiny/net", weights="imagenet", options={"drop_path_rate": 0.1})
    assert trained.model.net["stem"].weight.eq(0.25).all()
    for options, said in (
        ({"name": "none"}, "not a valid model identifier"),
        ({"name": "tiny", "options": {"droppath": 1}}, "its configuration has no droppath"),
        ({"name": "tiny", "options": {"trust_remote_code": True}}, "must not have trust_remote_code"),
    ):
        with pytest.raises(HemnetError, match=said):
            HuggingFaceBackbone(**options)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(HemnetError, match=r"pip install 'hemnet\[timm\]'"):
        TimmBackbone("convnext_tiny")
    with pytest.raises(HemnetError, match=r"pip install 'hemnet\[huggingface\]'"):
        HuggingFaceBackbone("facebook/convnext-tiny-224")


TIMM = ["model/backbone=timm", "model.backbone.name=tiny_net"]


@pytest.mark.parametrize("weights", ["imagenet", "null"])
def test_a_run_is_restored_without_fetching_weights_again(
    asked: list[bool], tmp_path: Path, weights: str
) -> None:
    run, state = untrained(tmp_path / "run", *TIMM, f"model.backbone.weights={weights}", replacing="backbone")
    network, _ = restore(run)
    assert asked == [weights == "imagenet", False]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_backbone_of_one_s_own_without_weights_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_backbone.py").write_text(
        "from hemnet.nets import ResNet\n"
        "class Narrow(ResNet):\n"
        "    def __init__(self, slim: int = 4) -> None:\n"
        "        super().__init__(18, width=slim)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HEMNET_PACKAGES", "own_backbone")
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "own.yaml").write_text(
        "defaults: [{override /model/backbone: null}]\n"
        "model: {backbone: {_target_: own_backbone.Narrow, slim: 4}}\n"
    )
    run, state = untrained(tmp_path / "run", "experiment=own", replacing="backbone")
    network, _ = restore(run)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
