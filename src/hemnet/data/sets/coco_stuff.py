"""COCO-Stuff: the images of COCO with 80 thing and 91 stuff classes.

Source: Caesar, Uijlings and Ferrari, COCO-Stuff, CVPR 2018; names and numbers from `labels.txt` of its
release. Class ids run from 1 to 182, and no image uses eleven of them. The classes here are the other 171 in
the order of their ids: id 1, person, is class 0, and id 182, wood, is class 170.
"""

from pathlib import Path
from typing import Literal, get_args

from hemnet.data.listing import (
    list_images,
    list_masks,
    read_list,
    require_folder,
    require_split,
    warn_count,
)
from hemnet.data.matching import match_files
from hemnet.data.readers import FileReader
from hemnet.data.spec import IGNORE_INDEX, DatasetSpec, Split, voc_colors

_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
IDS = tuple(number for number in range(1, 183) if number not in _UNUSED)
"""The id of each class, as in the masks of the 10k release; those of the 164k release are one lower."""

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple,
sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining
table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch,
bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes,
clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other,
floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel,
ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper,
pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof,
rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other,
wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""

# The set has no colours of its own; this project uses the colour map of VOC.
COCO_STUFF_CLASSES = DatasetSpec(
    "coco_stuff", tuple(" ".join(_NAMES.split()).split(", ")), voc_colors(1, 171)
)
"""The 171 classes of COCO-Stuff, the same in both releases."""

_LAYOUT_10K = "images/*.jpg, annotations/*.mat and imageLists/{train,test}.txt"
_LAYOUT_164K = "images/{train2017,val2017}/*.jpg and annotations/{train2017,val2017}/*.png"


class CocoStuff10k(FileReader):
    """COCO-Stuff 10k, version 1.1: 9000 training and 1000 test images; unlabelled pixels are ignored.

    Args:
        root: folder with `images/*.jpg`, `annotations/*.mat` (label map `S`: ids, 0 = unlabelled) and
            `imageLists/`.
        split: "train" or "test"; there is no other.

    Raises:
        DataError: unknown split, a missing folder or list, a listed image that is missing or has no mask.
    """

    def __init__(self, root: str | Path, split: Literal["train", "test"]) -> None:
        require_split(split, ("train", "test"), "coco_stuff_10k")
        root = require_folder(Path(root), _LAYOUT_10K)
        names = read_list(root / "imageLists" / f"{split}.txt", _LAYOUT_10K)
        warn_count("coco_stuff_10k", split, len(names), {"train": 9000, "test": 1000}[split])
        images = list_images(root / "images", _LAYOUT_10K)
        masks = list_masks(root / "annotations", _LAYOUT_10K, split, (".mat",))
        labels = {0: IGNORE_INDEX, **{number: k for k, number in enumerate(IDS)}}
        super().__init__(
            COCO_STUFF_CLASSES, match_files(names, images, masks, split), labels, mat_keys=("S",)
        )


class CocoStuff164k(FileReader):
    """COCO-Stuff on COCO 2017: 118287 training and 5000 validation images; unlabelled pixels are ignored.

    Args:
        root: folder with `images/{train2017,val2017}` and `annotations/{train2017,val2017}` (PNG,
            id - 1, 255 = unlabelled).
        split: "train" or "val"; or "test", the 40670 images of test2017, which have no labels.

    Raises:
        DataError: unknown split, a missing folder, an image without a mask.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        require_split(split, get_args(Split), "coco_stuff_164k")
        root = require_folder(Path(root), _LAYOUT_164K)
        images = list_images(root / "images" / f"{split}2017", _LAYOUT_164K)
        masks = list_masks(root / "annotations" / f"{split}2017", _LAYOUT_164K, split)
        expected = {"train": 118287, "val": 5000, "test": 40670}
        warn_count("coco_stuff_164k", split, len(images), expected[split])
        labels = {255: IGNORE_INDEX, **{number - 1: k for k, number in enumerate(IDS)}}
        super().__init__(COCO_STUFF_CLASSES, match_files(images, images, masks, split), labels)
