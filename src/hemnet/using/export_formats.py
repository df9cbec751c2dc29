"""The formats of exported networks: each writes a file with what must be known about it, and loads it again.

Shapes: B images, K classes, H and W pixels, h and w of the head's output.
"""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hemnet.errors import HemnetError
from hemnet.nets.segmenter import at_size
from hemnet.training.inference import Forward as Sized
from hemnet.using.export_check import first_line

Forward = Callable[[Tensor], Tensor]
"""Takes images (B, 3, H, W) float32 and returns logits (B, K, H, W)."""
Format = Literal["onnx", "torch"]
METADATA_KEY = "hemnet"
"""The JSON is at this key of an ONNX file's metadata_props, or in the file ``hemnet.json`` of a .pt2."""


class Interface(NamedTuple):
    """What goes into an exported network, as an example, with the axes of free length, and what comes out."""

    example: Tensor
    axes: dict[int, str]
    outputs: tuple[str, ...]


NETWORK = Interface(torch.zeros(2, 3, 75, 101), {0: "batch", 2: "height", 3: "width"}, ("logits", "scores"))
"""Normalised images to logits, and to the scores of the head."""
WHOLE = Interface(
    torch.zeros(2, 75, 101, 3, dtype=torch.uint8),
    {0: "batch", 1: "height", 2: "width"},
    ("classes", "confidence"),
)
"""8-bit images to classes, see `hemnet.using.export_pipeline.Pipeline`."""


class TorchProgram:
    """A program of ``torch.export``, for torch alone."""

    suffix = ".pt2"
    scores = False
    """Whether the file has a second output, the scores (B, K, h, w) of the head."""

    def write(self, program: ExportedProgram, path: Path, about: str, interface: Interface = NETWORK) -> None:
        """Write the program, with ``about``, which is JSON."""
        whole = io.BytesIO()  # not to the file: torch aborts the process if the disk is full
        torch.export.save(program, whole, extra_files={f"{METADATA_KEY}.json": about})
        path.write_bytes(whole.getbuffer())

    def load(self, path: Path) -> Forward:
        """Return the network in a file."""
        return torch.export.load(path).module()

    def sized(self, path: Path, stride: int) -> Sized | None:
        """Return the network in a file as `hemnet.training.inference` calls it; None without scores."""
        return None

    def _about(self, path: Path) -> str:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith(f"extra/{METADATA_KEY}.json")]
            return archive.read(name).decode()

    def record_of(self, path: Path) -> dict[str, Any] | None:
        """Return the JSON in an exported file; None if it has none, or is no such file."""
        try:
            return dict(json.loads(self._about(path)))
        except Exception:  # anything can be at the path
            return None


@dataclass
class Onnx(TorchProgram):
    """An ONNX file.

    Attributes:
        opset: the operator set; None is torch's default.

    Raises:
        HemnetError: the extra ``export`` is not installed.
    """

    opset: int | None = None
    suffix = ".onnx"
    scores = True

    def __post_init__(self) -> None:
        try:
            import onnx  # noqa: F401  here, as the others: optional, and slow to import
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise HemnetError(
                f"the format onnx needs the extra 'export' ({error}): pip install 'hemnet[export]'"
            ) from error

    def write(self, program: ExportedProgram, path: Path, about: str, interface: Interface = NETWORK) -> None:
        """Write the program, with ``about``, which is JSON.

        Raises:
            HemnetError: the program has no translation, or none to the operator set.
        """
        try:
            with quiet():
                written = torch.onnx.export(
                    program, input_names=["image"], output_names=list(interface.outputs), dynamo=True,
                    dynamic_shapes={"image": interface.axes}, opset_version=self.opset, verbose=False,
                )  # fmt: skip
        except Exception as error:  # of many types
            raise HemnetError(f"this network has no translation to ONNX: {first_line(error)}") from error
        assert written is not None
        got = written.model.opset_imports.get("")
        if self.opset not in (None, got):
            raise HemnetError(
                f"this network cannot be written in opset {self.opset}, only in {got}: leave --opset out"
            )
        written.model.metadata_props[METADATA_KEY] = about
        written.save(str(path))

    def load(self, path: Path) -> Forward:
        """Return the network in a file."""
        import onnx

        onnx.checker.check_model(str(path))
        run = _session(path)
        return lambda image: run("logits", image)

    def load_whole(self, path: Path) -> Callable[[np.ndarray], np.ndarray]:
        """Return the pipeline in a file, which maps an image (H, W, 3) uint8 to classes (H, W) uint8."""
        run = _session(path)
        return lambda image_HWC: run("classes", torch.from_numpy(image_HWC)[None])[0].numpy()

    def sized(self, path: Path, stride: int) -> Sized:
        """Return the network in a file as `hemnet.training.inference` calls it, from the output "scores"."""
        run = _session(path)

        def forward(image: Tensor, size: tuple[int, int]) -> Tensor:
            height, width = image.shape[-2:]
            padded = height + -height % stride, width + -width % stride
            return at_size(run("scores", image), padded, (height, width), size)

        return forward

    def _about(self, path: Path) -> str:
        import onnx

        return str({entry.key: entry.value for entry in onnx.load(path).metadata_props}[METADATA_KEY])


def _session(path: Path) -> Callable[[str, Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda output, image: torch.from_numpy(session.run([output], {"image": image.numpy()})[0])


def format_of(name: Format, opset: int | None = None) -> TorchProgram:
    """Return the format of this name.

    Raises:
        HemnetError: ``opset`` is given for another format than ONNX; or see `Onnx`.
    """
    if name == "onnx":
        return Onnx(opset)
    if opset is not None:
        raise HemnetError(
            f"opset {opset} is for ONNX, not for the format {name}: leave it out, or choose onnx"
        )
    return TorchProgram()


def trace(portable: nn.Module, interface: Interface = NETWORK) -> ExportedProgram:
    """Return a network as a graph, for any batch and size.

    Raises:
        HemnetError: the network has an operation that fixes one of them.
    """
    dynamic = {"image": dict.fromkeys(interface.axes, Dim.DYNAMIC)}
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(portable, (interface.example,), dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # the tracer raises many types
        raise HemnetError(
            f"this network cannot be traced for free batch and size: {first_line(error)}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
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
