"""Segment images with a trained network: ``python -m hemnet.predict RUN INPUT``."""

import hemnet.lab

import argparse
import errno
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hemnet.config.command_line import add_run_arguments, log_to_terminal, override, parse, run_entry
from hemnet.data import IMAGE_SUFFIXES, DataError
from hemnet.errors import HemnetError
from hemnet.runs.run import Checkpoint, Run
from hemnet.storage.places import absolute

log = logging.getLogger(__name__)


def predict(
    folder: str | Path,
    source: str | Path,
    which: Checkpoint,
    output: Path | None,
    assignments: Sequence[str] = (),
) -> Path:
    """Write a coloured overlay and an index mask per image, and one legend; return their folder.

    An image that cannot be segmented is logged and skipped; after the others, an error names it.

    Args:
        folder: the run.
        source: an image, or a folder of images.
        which: the checkpoint.
        output: folder to write to; None is ``predictions`` in the run.
        assignments: ``key=value`` changes to the run's config.

    Raises:
        hemnet.errors.HemnetError: there is no such run, checkpoint or image; or an image could not be read,
            segmented or written.
    """
    run = Run.open(folder)
    images = _images(Path(source))
    config = override(run.config, assignments)

    # Imported here, since they take seconds, which --help and errors of the command line do without.
    import torch
    from PIL import Image

    from hemnet.config.build import build_eval_transform, build_inference, restore
    from hemnet.data import read_image
    from hemnet.figures.predictions import legend, overlay, write_mask
    from hemnet.training.inference import segment

    network, spec = restore(run, which)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    transform, inference = build_eval_transform(config), build_inference(config)
    output = output or run.path / "predictions"

    def segment_file(path: Path) -> None:
        image_HWC = read_image(path)
        size = (image_HWC.shape[0], image_HWC.shape[1])
        image_CHW = transform.prepare(image_HWC).to(device)
        classes_HW = segment(lambda x, s: network(x, s).logits, image_CHW, size, inference)
        painted_HWC = overlay(image_HWC, classes_HW, spec)
        Image.fromarray(painted_HWC).save(output / f"{path.stem}_overlay.png")
        write_mask(output / f"{path.stem}_mask.png", classes_HW, spec)

    try:
        output.mkdir(parents=True, exist_ok=True)
        failed = [path.name for path in images if not _succeeds(segment_file, path)]
    except OSError as error:
        raise DataError(f"cannot write to {output} ({error}): choose another --output") from error
    if len(failed) == len(images):
        raise DataError(f"none of the {len(failed)} images in {source} was segmented; see the messages above")
    legend(spec, output / "legend.png")
    print(f"{len(images) - len(failed)} images segmented, {len(failed)} not; written to {output}")
    if failed:
        raise DataError(
            f"{len(failed)} of {len(images)} images in {source} were not segmented: {', '.join(failed)}; "
            "see the messages above. All others were"
        )
    return output


def _succeeds(segment_file: Callable[[Path], None], path: Path) -> bool:
    """Segment an image; log an error that concerns this image alone, and return whether there was none."""
    try:
        segment_file(path)
    except HemnetError as error:
        log.error("%s: %s", path.name, error)
        return False
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        log.error("%s: its name is too long for the files to write", path.name)
        return False
    return True


def _images(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"no image or folder at {source}: give INPUT=<image or folder>")
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"no images in {source}: it should hold files ending in {', '.join(IMAGE_SUFFIXES)}")
    clashes = [stem for stem, count in Counter(p.stem for p in paths).items() if count > 1]
    if clashes:
        raise DataError(f"{source} holds several images named {clashes[0]}: rename one, or predict it alone")
    return paths


def _entry() -> None:
    parser = argparse.ArgumentParser(prog="hemnet predict", description=__doc__)
    add_run_arguments(parser)
    parser.add_argument("input", type=absolute, help="an image, or a folder of images")
    parser.add_argument("--output", type=absolute, help="folder to write to; default: RUN/predictions")
    options, assignments = parse(parser)
    log_to_terminal()
    predict(options.run, options.input, options.checkpoint, options.output, assignments)


if __name__ == "__main__":
    run_entry(_entry)
