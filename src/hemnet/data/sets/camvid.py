"""CamVid, in the layout of the SegNet release."""

from pathlib import Path
from typing import get_args

from hemnet.data.listing import list_images, list_masks, require_folder, require_split
from hemnet.data.matching import match_files
from hemnet.data.readers import FileReader
from hemnet.data.spec import IGNORE_INDEX, DatasetSpec, Split

CAMVID = DatasetSpec(
    name="camvid",
    classes=("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car",
             "pedestrian", "bicyclist"),
    palette=((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
             (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)  # fmt: skip
"""The 11 classes of the SegNet release of CamVid."""


_LAYOUT = "{train,val,test}/*.png|jpg with {train,val,test}annot/*.png of the same names"


class CamVid(FileReader):
    """CamVid: 11 classes, void ignored.

    Source: Brostow et al., Pattern Recognition Letters 30 (2009); labels as regrouped by Badrinarayanan et
    al. (SegNet, 2015).

    Args:
        root: folder with `train/`, `val/`, `test/` (images) and `trainannot/`, `valannot/`, `testannot/`
            (masks, same stems, labels 0..10 and 11 = void).
        split: "train", "val" or "test"; a test split without masks has images alone.

    Raises:
        DataError: unknown split, missing folder, empty folder, an image without a mask. `read` raises it
            for a corrupt file, unequal sizes, a mask that is not single-channel and unknown labels.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        require_split(split, get_args(Split), "CamVid")
        root = require_folder(Path(root), _LAYOUT)
        images = list_images(root / split, _LAYOUT)
        masks = list_masks(root / f"{split}annot", _LAYOUT, split)
        labels = {**{k: k for k in range(11)}, 11: IGNORE_INDEX}
        super().__init__(CAMVID, match_files(images, images, masks, split), labels)
