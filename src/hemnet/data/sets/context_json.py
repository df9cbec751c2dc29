"""Converts `trainval_merged.json`, the annotation of the Detail API, to masks of PASCAL Context, once.

python -m hemnet.data.sets.context_json trainval_merged.json VOCdevkit/VOC2010

The file has `images` (`image_id`, `height`, `width`, `phase`: train or val) and `annos_segmentation`
(`image_id`, `category_id`: one of the 459 labels, `segmentation`: the COCO run lengths of a mask). It is
too large to read for every training, which needs only one label per pixel.

Shapes: H, W image height and width.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hemnet.data.listing import MOST_PIXELS, require_file
from hemnet.data.sets.context import LABEL_OF_CLASS
from hemnet.data.spec import DataError
from hemnet.storage.places import absolute


def decode_runs(counts: str, height: int, width: int) -> np.ndarray:
    """Decode COCO's compressed run lengths of a binary mask.

    Runs of zeros and ones alternate down the columns. A run length is written in groups of five bits, lowest
    first, each as the character 48 + bits; bit 5 says that another group follows, bit 4 of the last group is
    the sign. From the fourth run on, the difference to the run two before is written.

    Args:
        counts: the encoded runs.
        height: H, in pixels.
        width: W, in pixels.

    Returns:
        (H, W) bool.

    Raises:
        DataError: the runs do not fill the mask.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode("latin-1", "replace"):
        value |= ((code - 48) & 0x1F) << shift
        shift += 5
        if (code - 48) & 0x20:
            continue
        if (code - 48) & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise DataError(
            f"the run lengths do not fill a mask of {height} x {width}; the annotation is corrupt"
        )
    ones = np.arange(len(runs)) % 2 == 1
    return np.repeat(ones, runs).reshape(width, height).T


def write_masks(annotation: Path, devkit: Path) -> dict[str, int]:
    """Write `SegmentationClassContext/*.png` (0 = background, 1..59), `ImageSets/SegmentationContext/*.txt`.

    Both folders are moved into place when complete; nothing is overwritten.

    Args:
        annotation: `trainval_merged.json`.
        devkit: folder `VOC2010`.

    Returns:
        number of images written, per split.

    Raises:
        DataError: one of the folders exists, or the file is missing or not such an annotation.
    """
    masks, lists = devkit / "SegmentationClassContext", devkit / "ImageSets" / "SegmentationContext"
    for folder in (masks, lists):
        if folder.exists():
            raise DataError(f"{folder} already exists; remove it to write it again")
    if not devkit.is_dir():
        raise DataError(f"{devkit}: no such folder; name the folder VOC2010")
    require_file(annotation)
    with tempfile.TemporaryDirectory(dir=devkit, prefix=".context-") as temporary:
        draft = Path(temporary)
        try:
            splits = _write(json.loads(annotation.read_text("utf-8")), draft)
        except (DataError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{annotation}: not the annotation of the Detail API ({error!r})") from error
        lists.parent.mkdir(exist_ok=True)
        # The lists last: the reader chooses the masks first, and then their lists.
        shutil.move(draft / "masks", masks)
        shutil.move(draft / "lists", lists)
    return splits


def _write(content: dict[str, Any], draft: Path) -> dict[str, int]:
    class_of_label = np.zeros(460, np.uint8)
    class_of_label[list(LABEL_OF_CLASS.values())] = np.arange(1, 60)
    of_image: dict[int, list[dict[str, Any]]] = {}
    for segment in content["annos_segmentation"]:
        of_image.setdefault(segment["image_id"], []).append(segment)
    names: dict[str, list[str]] = {"train": [], "val": []}
    for folder in ("masks", "lists"):
        (draft / folder).mkdir()
    for image in content["images"]:
        if image["phase"] not in names:
            continue
        height, width = image["height"], image["width"]
        if not isinstance(image["image_id"], int):
            raise DataError(f"image_id is {image['image_id']!r}, which is not a whole number")
        if height * width > MOST_PIXELS:
            raise DataError(f"claims {width} x {height}, and at most {MOST_PIXELS} pixels are read")
        mask_HW = np.zeros((height, width), np.uint8)
        for segment in of_image.get(image["image_id"], []):
            inside_HW = decode_runs(segment["segmentation"]["counts"], height, width)
            if not 0 <= segment["category_id"] < len(class_of_label):
                raise DataError(f"category_id is {segment['category_id']}, but labels are 0..459")
            mask_HW[inside_HW] = class_of_label[segment["category_id"]]
        # Image 2008_000002 has the number 2008000002.
        name = re.sub(r"^(\d{4})(\d{6})$", r"\1_\2", str(image["image_id"]))
        names[image["phase"]].append(name)
        Image.fromarray(mask_HW).save(draft / "masks" / f"{name}.png")
    for split, of_split in names.items():
        (draft / "lists" / f"{split}.txt").write_text(
            "".join(f"{name}\n" for name in sorted(of_split)), "utf-8"
        )
    return {split: len(of_split) for split, of_split in names.items()}


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("annotation", type=absolute, help="trainval_merged.json")
    parser.add_argument("devkit", type=absolute, help="the folder VOC2010")
    arguments = parser.parse_args()
    try:
        splits = write_masks(arguments.annotation, arguments.devkit)
    except DataError as error:
        sys.exit(str(error))
    print(f"wrote the masks of {splits['train']} training and {splits['val']} validation images")


if __name__ == "__main__":
    main()
