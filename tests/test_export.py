"""Export: the files against the networks, at sizes and batches that the exporter did not see."""

import itertools
import json
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from _helpers.tiny import call, tiny
from PIL import Image
from torch import nn

from hemnet.config.build import build_inference, build_network, restore
from hemnet.config.compose import load
from hemnet.config.trained import override
from hemnet.data import CAMVID
from hemnet.data.transforms import resize_image
from hemnet.em import HighwayEM
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.portable import BinMeans, portable_copy
from hemnet.runs.run import Run
from hemnet.runs.training_run import TrainingRun
from hemnet.training.task import CHECKPOINT_FORMAT
from hemnet.using import exporting as entry
from hemnet.using.export_formats import TorchProgram, trace
from hemnet.using.exporting import TOLERANCE, describe, export
from hemnet.using.prediction import predict

EXAMPLE = Path(__file__).parents[1] / "examples" / "run_onnx.py"
HEADS = ("hem", "em", "emanet", "fcn", "deeplabv3plus", "pspnet", "nonlocal")


def make_run(tmp_path: Path, *overrides: str) -> Run:
    """A run as training leaves it, as far as export reads it; no weight or statistic is special."""
    config = load(tiny(tmp_path, tmp_path / "run", "name=tiny", *overrides))
    run = TrainingRun.create(tmp_path / "run", config)
    network = build_network(config, CAMVID.num_classes)
    network.train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(3):
            network(torch.randn(2, 3, 40, 40))  # the statistics of batch normalisation
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    about = {"format": CHECKPOINT_FORMAT, "spec": CAMVID.to_dict()}
    torch.save({"state_dict": state, "hemnet": about}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    return run


def files_of(run: Run) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def onnx_logits(path: Path, image: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"image": image.numpy()})[0]


def assert_equals_network(found: np.ndarray, network: Segmenter, image: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network(image).logits.numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


SHAPES = [(1, 3, 33, 47), (4, 3, 64, 40), (2, 3, 19, 130)]


def test_a_torch_program_is_the_network_at_any_size_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "model/head=hem")
    path = export(run.path, "torch")
    assert path == run.path / "model_last.pt2"
    out = capsys.readouterr().out
    assert "image 1x3x32x32: largest difference of logits" in out
    assert "image 3x3x61x90" in out
    extra = {"hemnet.json": ""}
    program = torch.export.load(path, extra_files=extra)
    network, _ = restore(run)
    for shape in SHAPES:
        image = torch.randn(shape)
        assert_equals_network(program.module()(image).detach().numpy(), network, image)
    about = json.loads(extra["hemnet.json"])
    assert about["classes"] == list(CAMVID.classes)
    assert about["palette"][0] == list(CAMVID.palette[0])
    assert about["ignore_index"] == 255
    assert about["mean"] == [0.485, 0.456, 0.406]
    assert about["std"] == [0.229, 0.224, 0.225]
    assert (about["checkpoint"], about["data"]) == ("last", "camvid")


@pytest.mark.slow
@pytest.mark.parametrize(
    # em and emanet are hem with other values, and fcn has no part that hem lacks.
    "head",
    [pytest.param(head, marks=pytest.mark.long if head in ("em", "emanet", "fcn") else ()) for head in HEADS],
)
def test_every_head_exports_in_both_formats(head: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, f"model/head={head}", "model/auxiliary=fcn", "model.auxiliary.channels=8")
    network, _ = restore(run)
    program = torch.export.load(export(run.path, "torch"))
    path = export(run.path, "onnx")
    model = onnx.load(path)
    assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", "", "height", "width"
    ]  # fmt: skip
    assert not [name for name in program.state_dict if "auxiliary" in name]
    for shape in SHAPES:
        image = torch.randn(shape)
        assert_equals_network(onnx_logits(path, image), network, image)
        assert_equals_network(program.module()(image).detach().numpy(), network, image)


@pytest.mark.slow
def test_the_example_needs_neither_torch_nor_hemnet_and_predicts_the_same(tmp_path: Path) -> None:
    how = ["data.eval_transform.size=[40,52]", "inference.flip=true", "inference.scales=[1.0,1.5]"]
    run = make_run(tmp_path, "model/head=hem", *how)
    done = call("hemnet.export", str(run.path), "--format", "onnx", "--opset", "19", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = run.path / "model_last.onnx"
    assert {o.domain: o.version for o in onnx.load(path).opset_import}[""] == 19
    assert done.stdout.count("same class as hemnet predict in all but") == 3
    photograph(tmp_path / "photo.png", (90, 134))
    # The example runs in the same environment, where torch could be imported: so it is made unimportable.
    script = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['hemnet'] = None;"
        f"sys.argv = ['run_onnx.py', {str(path)!r}, 'photo.png', 'mask.png'];"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__');"
        "assert not [m for m in sys.modules if m.startswith(('torch.', 'hemnet.'))]"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    output = predict(run.path, tmp_path / "photo.png", "last", tmp_path / "out")
    expected, found = Image.open(output / "photo_mask.png"), Image.open(tmp_path / "mask.png")
    assert found.getpalette() == expected.getpalette()
    assert found.size == expected.size
    assert (np.asarray(found) == np.asarray(expected)).mean() > 0.999
    assert len(np.unique(expected)) > 1
    assert shown.stdout.split() == [CAMVID.classes[k] for k in np.unique(found)]


def photograph(path: Path, size: tuple[int, int]) -> None:
    """A smooth picture with noise."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size[::-1])
    noisy = np.asarray(coarse) + draw.normal(0, 8, (*size, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)


WAYS = [
    [], ["data.eval_transform.size=[60,80]"], ["data.eval_transform.size=45"],
    ["data.eval_transform.size=[200,70]"], ["data.eval_transform.size=[120,150]"],
    ["data.eval_transform.longest=75"], ["data.eval_transform.longest=131", "inference.flip=true"],
    ["inference.window=[32,48]"],
    ["inference.flip=true", "inference.scales=[0.75,1.5]"],
    ["inference.window=[200,48]", "inference.stride=[200,20]", "inference.flip=true"],
    ["data.eval_transform.size=[61,83]", "inference.window=[32,32]", "inference.scales=[1.25]"],
]  # fmt: skip


@pytest.mark.slow
def test_the_example_gives_the_masks_of_predict_however_the_run_is_evaluated(tmp_path: Path) -> None:
    run = make_run(tmp_path, "model/head=hem")
    example = runpy.run_path(str(EXAMPLE))
    exported = export(run.path, "onnx")
    network, spec = restore(run)
    for i, (way, size) in enumerate(itertools.product(WAYS, [(90, 120), (101, 67)])):
        photograph(tmp_path / "photo.png", size)
        # As the file would be of a run with these settings.
        used = override(run.config, way, "predict")
        found = example["Network"](str(exported))
        inference = build_inference(used)
        about = describe(Run(run.path, used), "last", spec, network, inference)
        found.about = json.loads(json.dumps(about))
        mask = found.segment(example["read"](tmp_path / "photo.png"))
        output = predict(run.path, tmp_path / "photo.png", "last", tmp_path / f"out{i}", way)
        expected = np.asarray(Image.open(output / "photo_mask.png"))
        assert mask.shape == expected.shape == size
        assert (mask == expected).mean() > 0.999, (way, size)
        assert len(np.unique(expected)) > 1
    mistakes_of_the_example_are_one_line(exported, tmp_path)


def mistakes_of_the_example_are_one_line(exported: Path, tmp_path: Path) -> None:
    photo, text, foreign = tmp_path / "photo.png", tmp_path / "text.png", tmp_path / "foreign.onnx"
    text.write_text("no image")
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    for arguments, said in (
        ((tmp_path / "none.onnx", photo, "mask.png"), "none.onnx"),
        ((text, photo, "mask.png"), "text.png"),
        ((foreign, photo, "mask.png"), "foreign.onnx"),
        ((exported, tmp_path / "none.png", "mask.png"), "none.png"),
        ((exported, text, "mask.png"), "text.png"),
        ((exported, photo, tmp_path / "none" / "mask.png"), "mask.png"),
    ):
        command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_resizing_without_opencv_is_that_of_evaluation() -> None:
    resize = runpy.run_path(str(EXAMPLE))["resize"]
    draw = np.random.default_rng(0)
    for before, after in (
        ((36, 48), (24, 32)), ((45, 67), (30, 40)),
        ((45, 67), (60, 90)), ((45, 67), (60, 40)), ((9, 7), (9, 5)),
        ((40, 60), (20, 30)), ((40, 60), (10, 15)), ((40, 60), (40, 60)), ((7, 5), (1, 1)), ((1, 1), (3, 4)),
    ):  # fmt: skip
        image = draw.integers(0, 256, (*before, 3), dtype=np.uint8)
        np.testing.assert_array_equal(resize(image, after), resize_image(image, after))


def test_a_file_of_another_origin_is_not_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path, "model/head=fcn")
    path = export(run.path, "torch", output=tmp_path / "model.pt2")
    before = path.read_bytes()
    shutil.copy(run.path / "checkpoints" / "last.ckpt", run.path / "checkpoints" / "best.ckpt")
    with pytest.raises(HemnetError, match=r"model\.pt2 was made with checkpoint last, not best"):
        export(run.path, "torch", "best", path)
    (tmp_path / "own.pt2").write_bytes(b"another's")
    with pytest.raises(HemnetError, match="does not say that this network made it"):
        export(run.path, "torch", output=tmp_path / "own.pt2")
    assert path.read_bytes() == before
    export(run.path, "torch", output=path)


def test_a_program_on_a_full_disk_is_an_error_and_no_abort(tmp_path: Path) -> None:
    """torch's own writer ends the process, so it gets no file."""
    script = """
        import resource, sys
        from pathlib import Path
        import torch
        from hemnet.using.export_formats import TorchProgram
        program = torch.export.export(torch.nn.Linear(300, 300), (torch.zeros(2, 300),))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            TorchProgram().write(program, Path(sys.argv[1]), "{}")
        except OSError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout


@pytest.mark.parametrize(
    ("size", "bins"), [((13, 19), 6), ((6, 12), (2, 3)), ((4, 5), 6), ((7, 9), (None, 1))]
)
def test_pooling_by_matrices_is_adaptive_pooling(
    size: tuple[int, int], bins: int | tuple[int | None, int | None]
) -> None:
    pool = nn.AdaptiveAvgPool2d(bins)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(BinMeans(pool)(x), pool(x), atol=1e-6, rtol=1e-5)


def test_the_copy_is_plain_and_the_network_stays_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, _ = restore(make_run(tmp_path, "model/head=hem", "model.head.tolerance=0.5"))
    (plain,) = (m for m in portable_copy(network).modules() if isinstance(m, HighwayEM))
    (layer,) = (m for m in network.modules() if isinstance(m, HighwayEM))
    assert (plain.options.engine, plain.tolerance) == ("reference", None)
    assert (layer.options.engine, layer.tolerance) == ("auto", 0.5)
    assert "tolerance=0.5 is ignored" in caplog.text


def test_what_differs_from_the_network_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, "model/head=fcn")
    export(run.path, "torch")
    before, earlier = files_of(run), (run.path / "model_last.pt2").read_bytes()
    loads, program = TorchProgram().load, trace(portable_copy(restore(run)[0]))
    monkeypatch.setattr(entry, "trace", lambda network: program)
    for factor in (1 + 3 * TOLERANCE, float("nan")):
        monkeypatch.setattr(
            TorchProgram, "load", lambda self, path, f=factor: lambda image: loads(path)(image) * f
        )
        with pytest.raises(HemnetError, match="differs from the trained one"):
            export(run.path, "torch")
        assert files_of(run) == before
        assert (run.path / "model_last.pt2").read_bytes() == earlier


def test_mistakes_are_named_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HemnetError, match="no run at"):
        export(tmp_path / "none", "torch")
    anderson = ["model.head.assignment=gaussian", "model.head.acceleration=anderson"]
    run = make_run(tmp_path, "model/head=hem", "model.head.gradient=implicit", *anderson)
    before = files_of(run)
    with pytest.raises(HemnetError, match="acceleration=anderson"):
        export(run.path, "torch")
    with pytest.raises(HemnetError, match="no checkpoint"):
        export(run.path, "torch", "best")
    (tmp_path / "file").touch()
    with pytest.raises(HemnetError, match="choose another --output"):
        export(run.path, "torch", output=tmp_path / "file" / "model.pt2")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(HemnetError, match="it is a folder"):
        export(run.path, "torch", output=tmp_path / "folder.pt2")
    with pytest.raises(HemnetError, match=r"must end in \.onnx"):
        export(run.path, "onnx", output=tmp_path / "model.pt2")
    with pytest.raises(HemnetError, match="leave it out, or choose onnx"):
        export(run.path, "torch", opset=18)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(HemnetError, match=r"pip install 'hemnet\[export\]'"):
        export(run.path, "onnx")
    assert files_of(run) == before


@pytest.mark.slow
def test_a_user_s_mistake_ends_in_one_message(tmp_path: Path) -> None:
    done = call("hemnet.export", "runs/none", "--format", "onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert f"no run at {tmp_path / 'runs/none'}" in done.stderr
    assert "Traceback" not in done.stderr
    shown = call("hemnet.export", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert "--opset" in shown.stdout
