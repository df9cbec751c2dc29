"""Exports that hold the whole of prediction, and what the example does without OpenCV: to the pixel."""

import runpy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from _helpers.untrained import untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.paths import CONF, EXPERIMENTS
from hemnet.data import CAMVID, EvalTransform
from hemnet.data.transforms import Target, resize_image
from hemnet.errors import HemnetError
from hemnet.runs.run import Run
from hemnet.training.inference import PLAIN, segment
from hemnet.using import export_check
from hemnet.using.export_formats import WHOLE, Onnx, trace
from hemnet.using.export_pipeline import _resized
from hemnet.using.exporting import export
from hemnet.using.prediction import predict

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "run_onnx.py"))
# Ratios with sums that are halves: 15/16, 3/5, 3/4; halving; enlarging where shares are halves of 1/256.
SIZES = [
    ((512, 600), (480, 360)), ((360, 480), (300, 400)), ((40, 60), (20, 30)), ((60, 90), (10, 15)),
    ((60, 90), (384, 512)), ((100, 30), (384, 512)), ((719, 957), (384, 512)), ((90, 60), (30, 90)),
    ((64, 48), (64, 48)), ((7, 5), (1, 1)), ((1, 1), (3, 4)), ((300, 40), (38, 30)),
    # 1 / (1 / n) is not n, so that OpenCV does not see a whole factor.
    ((1, 107), (1, 1)), ((98, 206), (1, 2)), ((44, 98), (44, 1)), ((40, 147), (20, 3)),
]  # fmt: skip


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_the_example_resizes_to_the_bit(before: tuple[int, int], after: tuple[int, int]) -> None:
    image = noise(before)
    np.testing.assert_array_equal(EXAMPLE["resize"](image, after), resize_image(image, after))


@settings(max_examples=100, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 150)] * 4), seed=st.integers(0, 2**16))
def test_the_example_resizes_any_size_to_the_bit(sides: tuple[int, int, int, int], seed: int) -> None:
    image, after = noise(sides[:2], seed), sides[2:]
    np.testing.assert_array_equal(EXAMPLE["resize"](image, after), resize_image(image, after))


def targets() -> set[tuple[object, object]]:
    """Every size in which a recipe or a data set evaluates."""
    found = set()
    for path in [*(CONF / "data").glob("*.yaml"), *EXPERIMENTS.glob("*.yaml")]:
        node = OmegaConf.load(path)
        node = node if path.parent.name == "data" else node.get("data") or {}
        how = OmegaConf.to_container(OmegaConf.create(dict(node.get("eval_transform") or {})))
        size = how.get("size")
        found.add((tuple(size) if isinstance(size, list) else size, how.get("longest")))
    return found


def test_the_example_gives_the_network_what_prediction_does_for_every_recipe() -> None:
    photographs = [*export_check.photographs()]
    assert photographs[1].shape == (600, 512, 3), "matplotlib's photograph is missing"
    assert len(targets()) > 1
    for size, longest in targets():
        transform = EvalTransform(size, longest)
        about = {"eval_size": size, "eval_longest": longest, "mean": [0.485, 0.456, 0.406],
                 "std": [0.229, 0.224, 0.225]}  # fmt: skip
        for photograph in photographs:
            given = EXAMPLE["prepare"](photograph, about)
            assert np.array_equal(given, transform.prepare(photograph).numpy()), (size, longest)


class Resizing(torch.nn.Module):
    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        sides = image.shape[1], image.shape[2]
        return _resized(image.permute(0, 3, 1, 2).float(), sides, self.target.of(*sides))


@pytest.mark.parametrize("rows", [2, 80])
@pytest.mark.parametrize("factor", range(1, 200))
def test_halving_thirds_and_the_like_are_to_the_bit(factor: int, rows: int) -> None:
    """Some 1 / (1 / factor) are above the factor; among many sums some are halves.

    torch adds float32 in float64, so that the graph rounds a few of those to the other side until it is ONNX.
    """
    before, after = (rows, 2 * factor), (rows // 2, 2)
    x_BCHW = torch.from_numpy(noise(before)).permute(2, 0, 1)[None].float()
    graph_HWC = _resized(x_BCHW, before, after)[0].permute(1, 2, 0).numpy()
    expected = resize_image(noise(before), after)
    np.testing.assert_allclose(graph_HWC, expected, rtol=0, atol=0 if rows == 2 else 1)
    assert np.mean(graph_HWC != expected) <= 0.01
    np.testing.assert_array_equal(EXAMPLE["resize"](noise(before), after), expected)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(360, 480), None, (300, 300), (40, 2), (44, 1)])
def test_the_graph_resizes_any_photograph_to_the_bit(size: tuple[int, int] | None, tmp_path: Path) -> None:
    target = Target("size", size, None if size else 500)
    path = tmp_path / "resize.onnx"
    Onnx().write(trace(Resizing(target), WHOLE), path, "{}", WHOLE._replace(outputs=("resized",)))
    session = onnxruntime.InferenceSession(str(path))
    further = [(480, 360), (720, 960), (1200, 333), (375, 500), (1000, 1000), (80, 196), (88, 98)]
    for before in [*(size for size, _ in SIZES), *further]:
        (resized_CHW,) = session.run(None, {"image": noise(before)[None]})[0]
        expected = resize_image(noise(before), target.of(*before))
        np.testing.assert_array_equal(resized_CHW.transpose(1, 2, 0), expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("whole") / "run"
    return untrained(path, "model/head=hem", "data.eval_transform.longest=70")[0]


@pytest.mark.slow
def test_a_file_with_the_whole_pipeline_gives_the_masks_of_predict(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(run.path, "onnx", whole=True)
    assert path.name == "model_last_whole.onnx"
    assert "photograph 600x512: same class as hemnet predict in all but" in capsys.readouterr().out
    graph = onnx.load(path).graph
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [
        "batch", "height", "width", 3,
    ]  # fmt: skip
    found, session = EXAMPLE["Network"](str(path)), onnxruntime.InferenceSession(str(path))
    assert found.about["whole"] is True
    network, _ = restore(run)
    transform, inference = build_eval_transform(run.config), build_inference(run.config)
    for i, photograph in enumerate([*export_check.photographs(), noise((33, 200)), noise((70, 50))]):
        size = photograph.shape[:2]
        expected = segment(lambda x, s: network(x, s).logits, transform.prepare(photograph), size, inference)
        classes, confidence = session.run(None, {"image": np.stack([photograph] * 2)})
        assert (classes[0] != expected).sum() <= 1e-4 * expected.size  # ties
        assert np.array_equal(classes[0], classes[1])
        logits = inference(lambda x, s: network(x, s).logits, transform.prepare(photograph)[None], size)
        np.testing.assert_allclose(confidence[0], logits.detach().softmax(1)[0].amax(0), atol=1e-3)
        Image.fromarray(photograph).save(tmp_path / f"{i}.png")
        EXAMPLE["main"]([str(path), str(tmp_path / f"{i}.png"), str(tmp_path / f"{i}_mask.png")])
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{i}_mask.png")), classes[0])
    out = predict(run.path, tmp_path / "1.png", "last", tmp_path / "out")
    masks = [np.asarray(Image.open(folder / "1_mask.png")) for folder in (out, tmp_path)]
    assert (masks[0] != masks[1]).sum() <= 1e-4 * masks[0].size


def test_pixels_may_differ_where_classes_tie_and_nowhere_else(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    network, _ = restore(run)
    transform = build_eval_transform(run.config)

    def same(image: np.ndarray) -> np.ndarray:
        return segment(lambda x, s: network(x, s).logits, transform.prepare(image), image.shape[:2], PLAIN)

    def one_off(image: np.ndarray) -> np.ndarray:
        classes = same(image)
        classes[-1, -1] = (classes[-1, -1] + 1) % CAMVID.num_classes
        return classes

    export_check.compare_masks(same, network, transform, PLAIN)
    assert capsys.readouterr().out.count("in all but 0 of") == 3
    with pytest.raises(HemnetError, match="1 pixel of another class than the trained network"):
        export_check.compare_masks(one_off, network, transform, PLAIN)
    with pytest.raises(HemnetError, match="fails on a photograph"):
        export_check.compare_masks(lambda image: image[..., 0] + 100, network, transform, PLAIN)
    # Two classes that tie everywhere: any of them is right.
    with torch.no_grad():
        weights = network.head.classifier
        weights.weight[1], weights.bias[1] = weights.weight[0], weights.bias[0]
        weights.bias[:2] += 100.0
    export_check.compare_masks(lambda image: 0 * image[..., 0] + 1, network, transform, PLAIN)


def test_what_a_whole_pipeline_cannot_be_is_said(run: Run, tmp_path: Path) -> None:
    with pytest.raises(HemnetError, match="leave --whole out"):
        export(run.path, "torch", whole=True)
    flipped, _ = untrained(tmp_path / "flipped", "model/head=fcn", "inference.flip=true")
    with pytest.raises(HemnetError, match="inference flip: leave --whole out"):
        export(flipped.path, "onnx", whole=True)
