"""Write the two sets of README.md: make_sets.py FOLDER. Needs scikit-image and scikit-learn.

shapes/ is generated: discs, squares and triangles, told apart by form alone, in photos/ and labels/. colours/
has crops of photographs that the two packages ship, labelled by hue and brightness, with masks of colours
beside them. new_shapes/ and new_colours/ are further ones.

Shapes: H, W image height and width, C = 3 colour channels.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PALETTE = np.uint8([[0, 0, 0], [200, 30, 30], [60, 160, 40], [40, 60, 200], [240, 240, 240]])


def texture(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Return (h, w, 3) uint8: a wave on a colour, with noise."""
    base = rng.integers(40, 216, 3)
    frequency, phase = rng.uniform(0.05, 0.6, 2), rng.uniform(0, 6.28)
    y, x = np.mgrid[:h, :w]
    wave = np.sin(frequency[0] * y + frequency[1] * x + phase)[..., None] * rng.integers(10, 40, 3)
    return (base + wave + rng.normal(0, 12, (h, w, 3))).clip(0, 255).astype(np.uint8)


def shapes(rng: np.random.Generator, count: int, folder: Path) -> None:
    """Write ``count`` images, every third upright, with labels 0 (background) to 3."""
    for kind in ("photos", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        h, w = (300, 400) if i % 3 else (400, 300)
        image_HWC, mask_HW = cv2.GaussianBlur(texture(rng, h, w), (0, 0), 1), np.zeros((h, w), np.uint8)
        for _ in range(rng.integers(2, 6)):
            label = int(rng.integers(1, 4))
            center, r = rng.integers((30, 30), (w - 30, h - 30)), int(rng.integers(25, 70))
            one = np.zeros((h, w), np.uint8)
            if label == 1:
                cv2.circle(one, tuple(map(int, center)), r, 1, -1)
            elif label == 2:
                cv2.rectangle(one, tuple(map(int, center - r)), tuple(map(int, center + r)), 1, -1)
            else:
                cv2.fillPoly(one, [np.int32(center + np.array([(0, -r), (r, r), (-r, r)]))], 1)
            image_HWC[one == 1] = texture(rng, h, w)[one == 1]
            mask_HW[one == 1] = label
        Image.fromarray(image_HWC).save(folder / "photos" / f"shape {i:02}.jpg", quality=92)
        Image.fromarray(mask_HW).save(folder / "labels" / f"shape {i:02}.png")


def photographs() -> list[np.ndarray]:
    """Return the photographs that the packages ship."""
    import skimage
    import sklearn.datasets

    first, second = (Path(package.__file__).parent for package in (skimage, sklearn.datasets))
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "ihc.png",
             "hubble_deep_field.jpg", "motorcycle_left.png", "motorcycle_right.png")  # fmt: skip
    paths = [
        *(first / "data" / name for name in names),
        *(second / "images" / n for n in ("flower.jpg", "china.jpg")),
    ]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def rule(image_HWC: np.ndarray) -> np.ndarray:
    """Return labels: 0 grey or dark, 1 reddish, 2 yellow to green, 3 blue to violet, 4 bright."""
    smooth_HWC = cv2.GaussianBlur(cv2.bilateralFilter(image_HWC, 9, 60, 9), (0, 0), 2)
    hue, saturation, value = np.moveaxis(cv2.cvtColor(smooth_HWC, cv2.COLOR_RGB2HSV).astype(int), -1, 0)
    mask_HW = np.zeros(hue.shape, np.uint8)
    coloured = (saturation > 70) & (value > 60)
    mask_HW[coloured & ((hue < 22) | (hue > 165))] = 1
    mask_HW[coloured & (hue >= 22) & (hue < 85)] = 2
    mask_HW[coloured & (hue >= 85) & (hue <= 165)] = 3
    mask_HW[(saturation <= 70) & (value > 170)] = 4
    return cv2.medianBlur(mask_HW, 9)


def crops(photos: list[np.ndarray], count: int, folder: Path, seed: int) -> None:
    """Write ``count`` crops of up to 300 x 400, each with its mask of colours beside it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        photo_HWC = photos[i % len(photos)]
        height, width = photo_HWC.shape[:2]
        h, w = min(height, 300), min(width, 400)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        crop_HWC = photo_HWC[top : top + h, left : left + w]
        Image.fromarray(crop_HWC).save(folder / f"IMG_{i:03}.jpg", quality=92)
        Image.fromarray(PALETTE[rule(crop_HWC)]).save(folder / f"IMG_{i:03}_mask.png")


def main(root: Path) -> None:
    """Write the four folders."""
    rng = np.random.default_rng(1)
    shapes(rng, 50, root / "shapes")
    shapes(rng, 8, root / "new_shapes")
    photos = photographs()
    crops(photos, 50, root / "colours", 3)
    crops(photos, 8, root / "new_colours", 99)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
