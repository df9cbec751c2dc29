"""The export of a run's network; what the file holds, `hemnet.export` says.

Shapes: B images, K classes, H and W pixels.
"""

import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

import hemnet
from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.machine import on_this_machine
from hemnet.config.trained import override
from hemnet.data import IGNORE_INDEX, DatasetSpec, EvalTransform
from hemnet.data.transforms import MEAN_RGB, STD_RGB
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.portable import drop_tolerance, portable_copy
from hemnet.runs.outputs import Origin
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.destinations import named_by, output_file, require_writable
from hemnet.training.inference import Forward, Inference, segment
from hemnet.using.export_check import TOLERANCE as TOLERANCE
from hemnet.using.export_check import compare_logits, compare_masks
from hemnet.using.export_formats import WHOLE, Format, Onnx, format_of, quiet, trace
from hemnet.using.export_pipeline import Pipeline

log = logging.getLogger(__name__)

ODD_SHAPE = (3, 3, 61, 90)
WHOLE_INPUT = "image: uint8 (batch, height, width, 3), RGB, of any size"
WHOLE_OUTPUT = (
    "classes: uint8 (batch, height, width); confidence: float32 (batch, height, width), the probability of "
    "the class"
)


def export(
    folder: str | Path,
    form: Format,
    which: Checkpoint = "last",
    output: str | Path | None = None,
    opset: int | None = None,
    *,
    whole: bool = False,
) -> Path:
    """Write the network of a run to one file, and compare the loaded file with the network.

    An existing file is replaced only if the comparison succeeds, and if it is of the same run.

    Args:
        folder: run directory.
        form: ``onnx``, or ``torch`` for a ``torch.export`` program.
        which: checkpoint, ``last`` or ``best``.
        output: file to write; None is ``RUN/model_<which>`` with the format's suffix.
        opset: ONNX operator set; None is torch's default. Only for ``onnx``.
        whole: whether resizing, normalisation and the choice of the class are in the file too, see
            `hemnet.using.export_pipeline.Pipeline`. Only for ``onnx``.

    Returns:
        The path of the file.

    Raises:
        hemnet.errors.HemnetError: there is no such run or checkpoint; the output cannot be written; the
            extra ``export`` is not installed; the network cannot be translated, or not faithfully; the file
            exists and is of another origin.
    """
    run, kind = Run.open(folder), format_of(form, opset)
    if whole and not isinstance(kind, Onnx):
        raise HemnetError(f"a whole pipeline is for ONNX, not for the format {form}: leave --whole out")
    path = Path(output) if output else run.path / f"model_{which}{'_whole' * whole}{kind.suffix}"
    if path.suffix != kind.suffix:
        raise HemnetError(f"{path} must end in {kind.suffix}, by which other programs recognise the format")
    config = override(run.config, [], "export")
    inference = build_inference(config)
    origin = Origin.of(run, which, config, inference.settings)
    with named_by("--output", path):
        require_writable(path)
    origin.require_own(path, kind.record_of)
    run.config = on_this_machine(config)
    network, spec = restore(run, which)
    drop_tolerance(network)  # also here, because the file is compared with it
    about = origin.record() | describe(run, which, spec, network, inference)
    transform = build_eval_transform(config)
    with output_file(path) as part:
        if whole:
            assert isinstance(kind, Onnx)
            program = trace(Pipeline(network, transform.target, inference), WHOLE)
            about |= {"whole": True, "input": WHOLE_INPUT, "output": WHOLE_OUTPUT}
            kind.write(program, part, json.dumps(about), WHOLE)
            compare_masks(kind.load_whole(part), network, transform, inference)
        else:
            kind.write(trace(portable_copy(network, scores=kind.scores)), part, json.dumps(about))
            compare_logits(quiet()(kind.load(part)), network, [_crop_shape(run), ODD_SHAPE])
            if sized := kind.sized(part, network.output_stride):
                masks = partial(_masks_of, sized, transform, inference)
                compare_masks(masks, network, transform, inference)
    print(f"written to {path}, {path.stat().st_size / 2**20:.1f} MiB")
    return path


def _masks_of(
    forward: Forward, transform: EvalTransform, inference: Inference, image_HWC: np.ndarray
) -> np.ndarray:
    return segment(forward, transform.prepare(image_HWC), image_HWC.shape[:2], inference)


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


def _crop_shape(run: Run) -> tuple[int, int, int, int]:
    """Return the shape of one image of the training size."""
    crop = _plain_config(run, "data.train_transform.crop_size") or 64
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return 1, 3, height, width


def _plain_config(run: Run, key: str) -> Any:
    value = OmegaConf.select(run.config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
