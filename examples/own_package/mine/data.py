"""A reader: images with their labels, by index. This one draws them.

Shapes: H, W image height and width.
"""

import numpy as np

from hemnet.data import DatasetSpec, Sample


class Discs:
    """Discs of one colour on noise. Reading an index twice gives the same sample.

    Args:
        split: "train", "val" or "test"; the splits share no image.
        length: number of images.
        size: side of the images, in pixels.
    """

    spec = DatasetSpec("discs", ("ground", "disc"), ((0, 0, 0), (255, 128, 0)))

    def __init__(self, split: str, length: int = 64, size: int = 64) -> None:
        self.split, self.length, self.size = split, length, size

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Sample:
        """Return image (H, W, 3) uint8, mask (H, W) uint8 of class indices, and a name of its own."""
        rng = np.random.default_rng([("train", "val", "test").index(self.split), index])
        rows, columns = np.indices((self.size, self.size))
        y, x = rng.uniform(self.size / 4, 3 * self.size / 4, 2)
        mask_HW = ((rows - y) ** 2 + (columns - x) ** 2 < (self.size / 5) ** 2).astype(np.uint8)
        image_HWC = rng.integers(0, 160, (self.size, self.size, 3), np.uint8)
        image_HWC[mask_HW == 1, 0] += 95
        return Sample(image_HWC, mask_HW, f"{self.split}{index}")
