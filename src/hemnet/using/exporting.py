"""Write a trained network as one file that runs without hemnet: ``python -m hemnet.export RUN``.

The file maps normalised images (B, 3, H, W) float32 to logits (B, K, H, W) float32, for any batch and size,
and states as JSON what is needed to use it as `hemnet.predict` does: classes, colours, normalisation, size of
images and inference options (see `describe`). An ONNX file also gives the scores at the head's resolution.

Shapes: B images, K classes, H and W pixels.
"""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import hemnet
from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.command_line import override
from hemnet.config.machine import on_this_machine
from hemnet.data import IGNORE_INDEX, DatasetSpec
from hemnet.data.transforms import MEAN_RGB, STD_RGB
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.portable import drop_tolerance, portable_copy
from hemnet.nets.segmenter import at_size
from hemnet.runs.outputs import Origin
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.files import replacing
from hemnet.training.inference import Forward as Sized
from hemnet.training.inference import Inference
from hemnet.using.export_check import TOLERANCE as TOLERANCE
from hemnet.using.export_check import compare_logits, compare_masks, first_line

log = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
METADATA_KEY = "hemnet"
"""The JSON is at this key of an ONNX file's metadata_props, or in the file ``hemnet.json`` of a .pt2."""
DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
TRACED_SHAPE = (2, 3, 75, 101)
ODD_SHAPE = (3, 3, 61, 90)
Forward = Callable[[Tensor], Tensor]


def export(
    folder: str | Path,
    form: Format,
    which: Checkpoint = "last",
    output: str | Path | None = None,
    opset: int | None = None,
) -> Path:
    """Write the network of a run to one file, and compare the loaded file with the network.

    An existing file is replaced only if the comparison succeeds, and if it is of the same run.

    Args:
        folder: run directory.
        form: ``onnx``, or ``torch`` for a ``torch.export`` program.
        which: checkpoint, ``last`` or ``best``.
        output: file to write; None is ``RUN/model_<which>`` with the format's suffix.
        opset: ONNX operator set; None is torch's default. Only for ``onnx``.

    Returns:
        The path of the file.

    Raises:
        hemnet.errors.HemnetError: there is no such run or checkpoint; the output cannot be written; the
            extra ``export`` is not installed; the network cannot be translated, or not faithfully; the file
            exists and is of another origin.
    """
    run = Run.open(folder)
    path = Path(output) if output else run.path / f"model_{which}{SUFFIX[form]}"
    if opset is not None and form != "onnx":
        raise HemnetError(
            f"opset {opset} is for ONNX, not for the format {form}: leave it out, or choose onnx"
        )
    if form == "onnx":
        _require_onnx()
    if path.suffix != SUFFIX[form]:
        raise HemnetError(f"{path} must end in {SUFFIX[form]}, by which other programs recognise the format")
    config = override(run.config, [])
    inference = build_inference(config)
    origin = Origin.of(run, which, config, inference.settings)
    if path.is_file():
        origin.require_own(path, _record_of(path))
    run.config = on_this_machine(config)
    network, spec = restore(run, which)
    drop_tolerance(network)  # also here, because the file is compared with it
    try:
        with replacing(path) as partial:
            about = json.dumps(origin.record() | describe(run, which, spec, network, inference))
            program = _trace(portable_copy(network, scores=form == "onnx"))
            if form == "onnx":
                _write_onnx(program, partial, about, opset)
            else:
                torch.export.save(program, partial, extra_files={f"{METADATA_KEY}.json": about})
            loaded = _load_onnx(partial) if form == "onnx" else _load_torch(partial)
            compare_logits(_quiet()(loaded), network, [_crop_shape(run), ODD_SHAPE])
            if form == "onnx":
                sized = _sized_onnx(partial, network.output_stride)
                compare_masks(sized, network, build_eval_transform(config), inference)
    except OSError as error:
        raise HemnetError(f"cannot write {path} ({error}): choose another --output") from error
    print(f"written to {path}, {path.stat().st_size / 2**20:.1f} MiB")
    return path


def describe(
    run: Run, which: Checkpoint, spec: DatasetSpec, network: Segmenter, inference: Inference
) -> dict[str, Any]:
    """Return what a user of the file must know about checkpoint ``which`` of a run, as plain containers.

    `examples/run_onnx.py` obeys it: images are resized to ``eval_size`` or ``eval_longest`` as
    `hemnet.data.transforms` does, the network is run as ``inference`` says, and its scores are interpolated
    to the size that the image had.
    """
    return {
        "hemnet": hemnet.__version__,
        "run": str(run.config.name),
        "checkpoint": which,
        "data": spec.name,
        "classes": list(spec.classes),
        "palette": [list(colour) for colour in spec.palette],
        "ignore_index": IGNORE_INDEX,
        "mean": list(MEAN_RGB),
        "std": list(STD_RGB),
        "input": "image: float32 (batch, 3, height, width), RGB, (value / 255 - mean) / std; any batch, any "
        "height and width above the backbone's output stride (8 to 32)",
        "output": "logits: float32 (batch, classes, height, width); the class is the argmax over axis 1",
        # Size that images had in evaluation, (height, width) or one number; null is their own size.
        "eval_size": _plain_config(run, "data.eval_transform.size"),
        # In place of it, the longer side that images had, the ratio of the sides being kept; null is none.
        "eval_longest": _plain_config(run, "data.eval_transform.longest"),
        # See `hemnet.training.inference.Inference`.
        "inference": asdict(inference),
        # Of ONNX: the second output, "scores", is (batch, classes, h, w), of the images padded below and on
        # the right to multiples of this number.
        "output_stride": network.output_stride,
    }


def _record_of(path: Path) -> dict[str, Any] | None:
    """Return the JSON in an exported file; None if it has none, or is no such file."""
    try:
        if path.suffix == SUFFIX["onnx"]:
            import onnx

            found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}[METADATA_KEY]
        else:
            with zipfile.ZipFile(path) as archive:
                (name,) = [n for n in archive.namelist() if n.endswith(f"extra/{METADATA_KEY}.json")]
                found = archive.read(name).decode()
        return dict(json.loads(found))
    except Exception:  # anything can be at the path
        return None


def _trace(portable: nn.Module) -> ExportedProgram:
    dynamic = {"image": dict.fromkeys(DYNAMIC_AXES, Dim.DYNAMIC)}
    try:
        with torch.no_grad(), _quiet():
            example = (torch.randn(TRACED_SHAPE),)
            return torch.export.export(portable, example, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # the tracer raises many types
        raise HemnetError(
            f"this network cannot be traced for free batch and size: {first_line(error)}"
        ) from error


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401  here, as the others: optional, and slow to import
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise HemnetError(
            f"the format onnx needs the extra 'export' ({error}): pip install 'hemnet[export]'"
        ) from error


def _write_onnx(program: ExportedProgram, path: Path, about: str, opset: int | None) -> None:
    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                input_names=["image"],
                output_names=["logits", "scores"],
                dynamic_shapes={"image": DYNAMIC_AXES},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of many types
        raise HemnetError(f"this network has no translation to ONNX: {first_line(error)}") from error
    assert written is not None
    got = written.model.opset_imports.get("")
    if opset is not None and got != opset:
        raise HemnetError(
            f"this network cannot be written in opset {opset}, only in {got}: leave --opset out"
        )
    written.model.metadata_props[METADATA_KEY] = about
    written.save(str(path))


def _load_onnx(path: Path) -> Forward:
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def _sized_onnx(path: Path, stride: int) -> Sized:
    """Return the network in a file as `hemnet.training.inference` calls it, from the output "scores"."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(image: Tensor, size: tuple[int, int]) -> Tensor:
        scores = torch.from_numpy(session.run(["scores"], {"image": image.numpy()})[0])
        height, width = image.shape[-2:]
        return at_size(scores, (height + -height % stride, width + -width % stride), (height, width), size)

    return forward


def _load_torch(path: Path) -> Forward:
    return torch.export.load(path).module()


def _crop_shape(run: Run) -> tuple[int, int, int, int]:
    """Return the shape of one image of the training size."""
    crop = _plain_config(run, "data.train_transform.crop_size") or 64
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return 1, 3, height, width


def _plain_config(run: Run, key: str) -> Any:
    value = OmegaConf.select(run.config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of torch's exporters that are meant for their developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
