"""The export of a run's network; what the file holds, `hemnet.export` says.

Shapes: B images, K classes, H and W pixels.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import hemnet
from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.command_line import override
from hemnet.config.machine import on_this_machine
from hemnet.data import IGNORE_INDEX, DatasetSpec
from hemnet.data.transforms import MEAN_RGB, STD_RGB
from hemnet.errors import HemnetError
from hemnet.nets import Segmenter
from hemnet.nets.portable import drop_tolerance, portable_copy
from hemnet.runs.outputs import Origin
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.files import replacing
from hemnet.training.inference import Inference
from hemnet.using.export_check import TOLERANCE as TOLERANCE
from hemnet.using.export_check import compare_logits, compare_masks
from hemnet.using.export_formats import Format, format_of, quiet, trace

log = logging.getLogger(__name__)

ODD_SHAPE = (3, 3, 61, 90)


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
    run, kind = Run.open(folder), format_of(form, opset)
    path = Path(output) if output else run.path / f"model_{which}{kind.suffix}"
    if path.suffix != kind.suffix:
        raise HemnetError(f"{path} must end in {kind.suffix}, by which other programs recognise the format")
    config = override(run.config, [])
    inference = build_inference(config)
    origin = Origin.of(run, which, config, inference.settings)
    if path.is_file():
        origin.require_own(path, kind.record_of(path))
    run.config = on_this_machine(config)
    network, spec = restore(run, which)
    drop_tolerance(network)  # also here, because the file is compared with it
    try:
        with replacing(path) as partial:
            about = json.dumps(origin.record() | describe(run, which, spec, network, inference))
            kind.write(trace(portable_copy(network, scores=kind.scores)), partial, about)
            compare_logits(quiet()(kind.load(partial)), network, [_crop_shape(run), ODD_SHAPE])
            if sized := kind.sized(partial, network.output_stride):
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


def _crop_shape(run: Run) -> tuple[int, int, int, int]:
    """Return the shape of one image of the training size."""
    crop = _plain_config(run, "data.train_transform.crop_size") or 64
    height, width = (crop, crop) if isinstance(crop, int) else crop
    return 1, 3, height, width


def _plain_config(run: Run, key: str) -> Any:
    value = OmegaConf.select(run.config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
