"""The head, and each recipe for the paper's data sets, are what Song, Kim and Shim (AAAI 2021) print."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hemnet.config.build import build_network
from hemnet.config.compose import load
from hemnet.config.paths import CONF
from hemnet.em import HighwayEM

# Name: data set, depth, output stride, C, step size eta. The rest is EMANet's (Li et al., ICCV 2019).
ABLATIONS, COMPARISONS = (50, 16), (101, 8)
PAPER = {
    "voc_hem": ("VOCAug", *ABLATIONS, 512, 0.5),
    "voc_hem_r101": ("VOCAug", *COMPARISONS, 512, 0.5),
    "voc_hem_c256": ("VOCAug", *COMPARISONS, 256, 0.5),
    "context_hem": ("PascalContext", *COMPARISONS, 512, 0.5),
    "cocostuff10k_hem": ("CocoStuff10k", *COMPARISONS, 512, 0.6),
    "cocostuff164k_hem": ("CocoStuff164k", *COMPARISONS, 512, 0.6),
}
HEADS = {
    # Eq. 8 at sigma^2 = sqrt(C), bases that are a moving average and are not normalised, gradient through EM.
    "hem": {"assignment": "dot", "variance": None, "normalize": "none", "gradient": "unrolled"},
    "em": {"assignment": "dot", "variance": None, "normalize": "none", "gradient": "unrolled"},
    # As published: unit bases at a temperature of 1, no gradient through EM.
    "emanet": {"assignment": "dot", "variance": 1.0, "normalize": "l2", "gradient": "detached"},
}


def assert_is_the_papers(layer: HighwayEM, head: str) -> None:
    expected = HEADS[head]
    assert layer.options.assignment == expected["assignment"]
    assert layer.options.variance == (expected["variance"] or layer.channels**0.5)
    assert layer.options.normalize == expected["normalize"]
    assert layer.gradient.name == expected["gradient"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("recipe", PAPER)
def test_a_recipe_of_the_papers_sets_is_the_papers(recipe: str, head: str, tmp_path: Path) -> None:
    data, depth, output_stride, channels, eta = PAPER[recipe]
    config = load([f"run_dir={tmp_path}", "logger=csv", f"experiment={recipe}", f"model/head={head}"])
    assert config.data.train._target_ == f"hemnet.data.{data}"
    assert (config.model.backbone.depth, config.model.backbone.output_stride) == (depth, output_stride)
    assert list(config.model.backbone.multi_grid) == [1, 2, 4]
    assert str(depth) in config.model.backbone.weights
    optimizer, trainer = config.optim.optimizer, config.trainer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.009, 0.9, 1e-4)
    assert (config.optim.power, trainer.max_steps) == (0.9, 100_000 if "164k" in recipe else 30_000)
    assert (list(config.data.train_transform.crop_size), config.data.batch_size) == ([513, 513], 16)
    # The body of the paper does not speak of a second loss, and EMANet has none.
    assert not config.model.auxiliary
    # The network itself, narrow and shallow: what the configuration says reaches the layer.
    OmegaConf.update(config, "model.backbone", {"depth": 18, "width": 2})
    layer = next(m for m in build_network(config, 3, pretrained=False).modules() if isinstance(m, HighwayEM))
    assert (layer.channels, layer.num_components, layer.iterations) == (channels, 64, 3)
    assert layer.highway_scale == pytest.approx(1 - eta if head == "hem" else 0.0)
    assert_is_the_papers(layer, head)
    assert layer.averages
    assert layer.momentum == 0.9
    assert layer.iterations_eval is None


@pytest.mark.parametrize("head", HEADS)
def test_the_head_of_any_recipe_is_the_papers(head: str) -> None:
    config = load(["logger=csv", "experiment=synthetic_hem", f"model/head={head}"])
    layer = next(m for m in build_network(config, 3).modules() if isinstance(m, HighwayEM))
    assert_is_the_papers(layer, head)
    assert layer.iterations == 3
    assert layer.highway_scale == (0.5 if head == "hem" else 0.0)


def test_no_recipe_overrides_the_papers_e_step() -> None:
    """None needs another variance or assignment; one that does will have to say why, in its file and here."""
    for path in sorted((CONF.parent / "experiments").glob("*.yaml")):
        config = load(["logger=csv", f"experiment={path.stem}"])
        if (config.model.head.get("variance"), config.model.head.get("assignment", "dot")) != (None, "dot"):
            assert path.stem.endswith("emanet") or "_emanet_" in path.stem, path.name


def test_the_step_size_is_one_key_for_every_head(tmp_path: Path) -> None:
    """So that a recipe may set it and model/head= stays free: em keeps its 0, fcn takes none."""
    for head, scale in (("hem", 0.25), ("em", 0.0), ("emanet", 0.0)):
        config = load([f"run_dir={tmp_path}", "logger=csv", f"model/head={head}", "model.highway_scale=0.25"])
        layer = next(m for m in build_network(config, 3).modules() if isinstance(m, HighwayEM))
        assert layer.highway_scale == scale
