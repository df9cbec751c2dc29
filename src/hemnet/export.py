"""Write a trained network as one file that runs without hemnet: ``python -m hemnet.export RUN``.

The file maps normalised images (B, 3, H, W) float32 to logits (B, K, H, W) float32, for any batch and size,
and states as JSON what is needed to use it: classes, colours, normalisation (see `describe`).

Shapes: B images, K classes, H and W pixels.
"""

import hemnet.lab

import argparse
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from omegaconf import OmegaConf

import hemnet
from hemnet.config.command_line import add_checkpoint_arguments, log_to_terminal, run_entry
from hemnet.data import IGNORE_INDEX
from hemnet.errors import HemnetError
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.files import replacing
from hemnet.storage.places import absolute

if TYPE_CHECKING:  # slow to import, as what functions import below
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from hemnet.data import DatasetSpec
    from hemnet.nets import Segmenter

log = logging.getLogger(__name__)

Format = Literal["onnx", "torch"]
SUFFIX: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
METADATA_KEY = "hemnet"
"""The JSON is at this key of an ONNX file's metadata_props, or in the file ``hemnet.json`` of a .pt2."""
TOLERANCE = 1e-3
"""Largest accepted difference of logits, in units of the largest logit.

Rounding in float32 gives about 1e-6, which an EM layer can amplify where two components tie. An operation
that is translated wrongly, or for one size only, gives differences of the order of 1.
"""
DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
TRACED_SHAPE = (2, 3, 75, 101)
ODD_SHAPE = (3, 3, 61, 90)

Forward = Callable[["Tensor"], "Tensor"]


def export(
    folder: str | Path,
    form: Format,
    which: Checkpoint = "last",
    output: str | Path | None = None,
    opset: int | None = None,
) -> Path:
    """Write the network of a run to one file, and compare the loaded file with the network.

    An existing file is replaced only if the comparison succeeds.

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
            extra ``export`` is not installed; the network cannot be translated, or not faithfully.
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
    import torch

    from hemnet.config.build import restore
    from hemnet.nets.portable import drop_tolerance, portable_copy

    network, spec = restore(run, which)
    drop_tolerance(network)  # also here, because the file is compared with it
    try:
        with replacing(path) as partial:
            about = json.dumps(describe(run, which, spec))
            program = _trace(portable_copy(network))
            if form == "onnx":
                _write_onnx(program, partial, about, opset)
            else:
                torch.export.save(program, partial, extra_files={f"{METADATA_KEY}.json": about})
            loaded = _load_onnx(partial) if form == "onnx" else _load_torch(partial)
            _compare(loaded, network, _crop_shape(run))
    except OSError as error:
        raise HemnetError(f"cannot write {path} ({error}): choose another --output") from error
    print(f"written to {path}, {path.stat().st_size / 2**20:.1f} MiB")
    return path


def describe(run: Run, which: Checkpoint, spec: "DatasetSpec") -> dict[str, Any]:
    """Return what a user of the file must know about checkpoint ``which`` of a run, as plain containers."""
    from hemnet.data.transforms import MEAN_RGB, STD_RGB

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
    }


def _trace(portable: "nn.Module") -> "ExportedProgram":
    import torch
    from torch.export import Dim

    dynamic = {"image": dict.fromkeys(DYNAMIC_AXES, Dim.DYNAMIC)}
    try:
        with torch.no_grad(), _quiet():
            example = (torch.randn(TRACED_SHAPE),)
            return torch.export.export(portable, example, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # the tracer raises many types
        raise HemnetError(
            f"this network cannot be traced for free batch and size: {_first(error)}"
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


def _write_onnx(program: "ExportedProgram", path: Path, about: str, opset: int | None) -> None:
    import torch

    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image": DYNAMIC_AXES},
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of many types
        raise HemnetError(f"this network has no translation to ONNX: {_first(error)}") from error
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
    import torch

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])


def _load_torch(path: Path) -> Forward:
    import torch

    return torch.export.load(path).module()


def _compare(loaded: Forward, network: "Segmenter", crop: tuple[int, int, int, int]) -> None:
    """Print the difference between file and network at two sizes; raise a HemnetError if it is too large."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for shape in (crop, ODD_SHAPE):
        image = torch.randn(shape, generator=generator)
        with torch.no_grad():
            expected = network(image).logits
        size = "x".join(map(str, shape))
        try:
            with _quiet(), torch.no_grad():
                found = loaded(image)
            if found.shape != expected.shape:
                raise ValueError(f"it gives {tuple(found.shape)}, not {tuple(expected.shape)}")
            difference = (found - expected).abs().max().item()
        except Exception as error:  # the runtime raises many types
            raise HemnetError(
                f"the exported network fails on an image of {size}, so it was not kept: {_first(error)}"
            ) from error
        limit = TOLERANCE * expected.abs().max().item()
        agreed = (found.argmax(1) == expected.argmax(1)).double().mean().item()
        print(
            f"image {size}: largest difference of logits {difference:.2e} (accepted: {limit:.2e}), "
            f"same class in {100 * agreed:.3f} % of the pixels"
        )
        if not difference <= limit:  # so that NaN fails
            raise HemnetError(
                f"the exported network differs from the trained one by {difference:.2e} at {size}, more than "
                f"{limit:.2e}, so it was not kept: export in the other format, and report this"
            )


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


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0]}"


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet export", description=__doc__)
    add_checkpoint_arguments(parser)
    parser.add_argument("--format", choices=get_args(Format), default="onnx",
                        help="onnx (needs the extra 'export'), or torch; default: onnx")  # fmt: skip
    parser.add_argument("--output", type=absolute, help="file; default: RUN/model_CHECKPOINT.{onnx,pt2}")
    parser.add_argument("--opset", type=int, help="operator set of ONNX; default: torch's")
    options = parser.parse_args()
    log_to_terminal()
    export(options.run, options.format, options.checkpoint, options.output, options.opset)


if __name__ == "__main__":
    run_entry(_entry)
