"""ADE20K in the version of the MIT scene parsing benchmark.

Source: Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017. Class names are those of the benchmark's
list, for each class the first synonym that no other class has.
"""

from pathlib import Path
from typing import get_args

from hemnet.data.listing import list_images, list_masks, require_folder, require_split, warn_count
from hemnet.data.matching import match_files
from hemnet.data.readers import FileReader
from hemnet.data.spec import IGNORE_INDEX, DatasetSpec, Split, voc_colors

_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth,
door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug,
field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column,
signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path,
stairs, runway, case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee
table, toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair,
boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle,
buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool,
barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave,
pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

# The set has no colours of its own; this project uses the colour map of VOC.
ADE20K_CLASSES = DatasetSpec("ade20k", tuple(" ".join(_NAMES.split()).split(", ")), voc_colors(1, 150))
"""The 150 classes of the benchmark."""

_LAYOUT = "{images,annotations}/{training,validation}/*.jpg|png of the same names"


class ADE20K(FileReader):
    """ADE20K (20210 training and 2000 validation images), 150 classes; label 0, all other things, is ignored.

    Args:
        root: folder `ADEChallengeData2016`, or the one that holds it, with `images/` and `annotations/`.
        split: "train" or "val"; or "test", 3352 images without labels, which are in `release_test/testing/`
            of the root or in `images/testing/`.

    Raises:
        DataError: unknown split, a missing folder, an image without a mask.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        require_split(split, get_args(Split), "ade20k")
        root = require_folder(Path(root), _LAYOUT)
        inner = root / "ADEChallengeData2016"
        root = inner if inner.is_dir() else root
        known = {"train": ("training", 20210), "val": ("validation", 2000), "test": ("testing", 3352)}
        folder, expected = known[split]
        released = root.parent / "release_test" if root == inner else root / "release_test"
        place = released if split == "test" and released.is_dir() else root / "images"
        images = list_images(place / folder, _LAYOUT)
        masks = list_masks(root / "annotations" / folder, _LAYOUT, split)
        warn_count("ade20k", split, len(images), expected)
        labels = {0: IGNORE_INDEX, **{k + 1: k for k in range(150)}}
        super().__init__(ADE20K_CLASSES, match_files(images, images, masks, split), labels)
