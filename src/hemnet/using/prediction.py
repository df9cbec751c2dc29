"""Segment images with a trained network: ``python -m hemnet.predict RUN INPUT``."""

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from hemnet.config.build import build_eval_transform, build_inference, restore
from hemnet.config.command_line import override
from hemnet.config.machine import on_this_machine
from hemnet.data import IMAGE_SUFFIXES, DataError, DatasetSpec, read_image
from hemnet.data.listing import scan
from hemnet.errors import HemnetError
from hemnet.figures.predictions import legend, overlay, record_of, write_mask, write_png
from hemnet.runs.outputs import Origin
from hemnet.runs.run import Checkpoint, Run
from hemnet.training.arithmetic import use_float32
from hemnet.training.inference import explain_memory, segment
from hemnet.wording import counted

log = logging.getLogger(__name__)
FOLDER = "predictions"


def predict(
    folder: str | Path,
    source: str | Path,
    which: Checkpoint,
    output: Path | None,
    assignments: Sequence[str] = (),
) -> Path:
    """Write a coloured overlay and an index mask per image, and one legend; return their folder.

    Each file has its origin inside, see `hemnet.figures.predictions.record_of`. An image that cannot be
    segmented is logged and skipped, whatever the reason; after the others, an error names it.

    Args:
        folder: the run.
        source: an image, or a folder of images.
        which: the checkpoint.
        output: folder to write to; None is ``predictions`` in the run for plain inference of the last
            checkpoint, and else has the name of `Origin` too, as ``predictions-best-flip`` has.
        assignments: ``key=value`` changes to the run's config.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or image; the folder to write to holds the
            output of another origin; or an image could not be read, segmented or written.
    """
    run = Run.open(folder)
    config = override(run.config, assignments)
    images, left_out = _images(Path(source))
    transform, inference = build_eval_transform(config), build_inference(config)
    origin = Origin.of(run, which, config, inference.settings)
    run.config = on_this_machine(config, assignments)
    network, spec = restore(run, which)
    use_float32(OmegaConf.select(run.config, "task.float32_precision", default="highest"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    output = output or run.path / (FOLDER if origin.name == "last" else f"{FOLDER}-{origin.name}")

    def segment_file(path: Path) -> None:
        image_HWC = read_image(path)
        about = _own(output, path.stem, origin, image_HWC)
        size = (image_HWC.shape[0], image_HWC.shape[1])
        image_CHW = transform.prepare(image_HWC).to(device)
        classes_HW = segment(lambda x, s: network(x, s).logits, image_CHW, size, inference)
        write_png(_overlay(output, path.stem), Image.fromarray(overlay(image_HWC, classes_HW, spec)), about)
        write_mask(_mask(output, path.stem), classes_HW, spec, about)

    _claim(output, origin, spec)
    failed = [path.name for path in images if not _succeeds(segment_file, path)]
    if len(failed) == len(images):
        raise DataError(
            f"none of {counted(len(failed), 'image')} in {source} was segmented; see the messages above"
        )
    print(f"{counted(len(images) - len(failed), 'image')} segmented, {len(failed)} not; written to {output}")
    if left_out:
        print(f"left out of {source}: {left_out}")
    if failed:
        raise DataError(
            f"{len(failed)} of {counted(len(images), 'image')} in {source} were not segmented: "
            f"{', '.join(failed)}; see the messages above. All others were"
        )
    return output


def _mask(folder: Path, stem: str) -> Path:
    return folder / f"{stem}_mask.png"


def _overlay(folder: Path, stem: str) -> Path:
    return folder / f"{stem}_overlay.png"


def _claim(output: Path, origin: Origin, spec: DatasetSpec) -> None:
    """Write the legend, which marks the folder as this origin's.

    Raises:
        HemnetError: the folder is another's, or cannot be written to.
    """
    path = output / "legend.png"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if path.exists():
            origin.require_own(path, record_of(path))
        legend(spec, path, json.dumps(origin.record()))
    except OSError as error:
        raise DataError(f"cannot write to {output} ({error}): choose another --output") from error


def _own(output: Path, stem: str, origin: Origin, image_HWC: np.ndarray) -> str:
    """Return the origin of an image's files, as JSON; it has a hash of the image too.

    Raises:
        HemnetError: the files exist, and have another origin or are of another image.
    """
    image = {"image_sha256": hashlib.sha256(f"{image_HWC.shape}".encode() + image_HWC.tobytes()).hexdigest()}
    for path in (_mask(output, stem), _overlay(output, stem)):
        if path.exists():
            origin.require_own(path, record_of(path), **image)
    return json.dumps(origin.record() | image)


def _succeeds(segment_file: Callable[[Path], None], path: Path) -> bool:
    """Segment an image; log an error, and return whether there was none."""
    try:
        with explain_memory([path.name]):
            segment_file(path)
    except HemnetError as error:
        log.error("%s: %s", path.name, error)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            log.error("%s: its name is too long for the files to write", path.name)
        else:
            log.error("%s: cannot be written (%s): make room, or choose another --output", path.name, error)
    except Exception as error:  # the other images can still be segmented
        log.error("%s: not segmented (%s: %s)", path.name, type(error).__name__, error)
    else:
        return True
    return False


def _images(source: Path) -> tuple[list[Path], str]:
    """Return the images of a folder, or the one named, and what is left out, see `scan`."""
    if source.is_file():
        return [source], ""
    if not source.is_dir():
        raise DataError(f"no image or folder at {source}: name an image or a folder")
    files, left_out = scan(source, IMAGE_SUFFIXES)
    if not files:
        held = f", and it holds {left_out}" if left_out else ""
        raise DataError(
            f"no images in {source}: it should hold files ending in {', '.join(IMAGE_SUFFIXES)}{held}"
        )
    return [*map(Path, files.values())], left_out
