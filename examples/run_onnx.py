"""Segment an image with an exported network and onnxruntime alone: run_onnx.py MODEL.onnx IMAGE MASK.png.

The mask is that of ``hemnet predict``: the metadata of the file say how the network was evaluated, in which
size (``eval_size`` or ``eval_longest``) and over which scales, mirror images and windows (``inference``);
this does the same.

Shapes: K classes, H and W pixels of the image, h and w of what the network is given, n and m of its scores.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def read(path):
    """Return an image file as (H, W, 3) uint8 RGB, turned as its EXIF orientation says."""
    with Image.open(path) as picture:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if picture.mode not in EIGHT_BIT:
        raise ValueError(f"pixel format {picture.mode!r} is not supported; convert the image to 8-bit RGB")
    return np.array(picture.convert("RGB"))


def linear(count, positions):
    """Return the matrix, (positions, count), that interpolates a row of ``count`` values linearly."""
    positions = np.clip(positions, 0, count - 1)[:, None]
    share = positions - np.floor(positions)
    place = np.arange(count)
    return (place == np.floor(positions)) * (1 - share) + (place == np.floor(positions) + 1) * share


def centres(count, size):
    """Return where the centres of ``size`` pixels are on a row of ``count`` pixels of the same length."""
    return (np.arange(size) + 0.5) * count / size - 0.5


def neighbours(count, size):
    """Return which pixels of a row of ``count`` each of ``size`` is between, and their shares in 1/256."""
    positions = np.clip(centres(count, size), 0, count - 1)[:, None]
    share = np.rint((positions - np.floor(positions)) * 256) / 256
    return np.floor(positions) + np.arange(2), np.hstack([1 - share, share])


def length(count, size):
    """Return how many of ``count`` pixels each of ``size`` longer ones covers, as OpenCV computes it."""
    return 1 / (size / count)  # which is above 98 for 98 and 1


def areas(count, size, whole):
    """Return which pixels of a row of ``count`` each of ``size`` longer ones covers, and their weights."""
    scale = length(count, size)
    low = np.arange(size)[:, None] * scale
    high = low + scale
    last = np.minimum(np.floor(high), count - 1)
    first = np.minimum(np.ceil(low), last)
    index = np.floor(low) + np.arange(-(-count // size) + 1)
    if whole:
        return index, 1.0 * ((index >= low) & (index < high))
    # As OpenCV has it: less than 1/1000 of a pixel is dropped.
    cell = np.minimum(scale, count - low)
    weights = 1.0 * ((index >= first) & (index < last))
    weights += ((index == first - 1) & (first - low > 1e-3)) * (first - low)
    weights += ((index == last) & (high - last > 1e-3)) * np.minimum(np.minimum(high - last, 1), cell)
    return index, weights / cell


def resize(image_HWC, size):
    """Resize a uint8 image as OpenCV does in evaluation: by area if both sides shrink, else linearly.

    Pixels are added up in OpenCV's order and in float32, as there: many sums are halves, and rounding errors
    decide to which side they fall.
    """
    sides = image_HWC.shape[:2]
    shrinks = size[0] <= sides[0] and size[1] <= sides[1]
    whole = shrinks and all(length(n, m) == n // m for n, m in zip(sides, size, strict=True))
    image = image_HWC.astype(np.float32)
    for axis in (1, 0):
        n, m = sides[axis], size[axis]
        index, weights = areas(n, m, whole) if shrinks else neighbours(n, m)
        index, weights = np.minimum(index, n - 1).astype(int), weights.astype(np.float32)
        image, total = np.moveaxis(image, axis, -1), 0
        for k in range(index.shape[1]):
            total = total + image[..., index[:, k]] * weights[:, k]
        image = np.moveaxis(total, -1, axis)
    if whole:
        image = image * np.float32(1 / (sides[0] // size[0] * (sides[1] // size[1])))
    # Halves are rounded as OpenCV does: to even, except where it halves the image or interpolates.
    halves_up = not shrinks or sides == (2 * size[0], 2 * size[1])
    return (np.floor(image + 0.5) if halves_up else np.rint(image)).astype(np.uint8)


def prepare(image_HWC, about):
    """Return a uint8 image as the network is given it, (3, h, w) float32, resized and normalised."""
    size, given, longest = image_HWC.shape[:2], about["eval_size"], about.get("eval_longest")
    if longest:  # the longer side; halves are rounded up
        given = [max(1, (side * longest + max(size) // 2) // max(size)) for side in size]
    if given:
        image_HWC = resize(image_HWC, (given, given) if isinstance(given, int) else tuple(given))
    return ((image_HWC / 255 - about["mean"]) / about["std"]).astype(np.float32).transpose(2, 0, 1)


class Network:
    """An exported network and what its metadata say."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["hemnet"])

    def logits(self, image_Chw, size):
        """Return logits, (K, *size), of a normalised image: its scores, interpolated to the size at once."""
        (scores_Knm,) = self.session.run(["scores"], {"image": image_Chw[None].astype(np.float32)})[0]
        stride, matrices = self.about["output_stride"], []
        for count, side, wanted in zip(scores_Knm.shape[1:], image_Chw.shape[1:], size, strict=True):
            filled = -(-side // stride) * stride  # the network pads its input to a multiple of the stride
            positions = (np.arange(wanted) + 0.5) * (side / wanted) * (count / filled) - 0.5
            matrices.append(linear(count, positions).astype(np.float32))
        return matrices[0] @ scores_Knm @ matrices[1].T

    def segment(self, image_HWC):
        """Return the class of each pixel, (H, W) uint8."""
        if self.about.get("whole"):  # a file of ``hemnet export --whole`` does the rest by itself
            return self.session.run(["classes"], {"image": image_HWC[None]})[0][0]
        how, size = self.about["inference"], image_HWC.shape[:2]
        image_Chw = prepare(image_HWC, self.about)
        total = 0
        for scale in how["scales"]:
            scaled = image_Chw
            if scale != 1:
                sides = [self.scaled(side, scale) for side in image_Chw.shape[1:]]
                down, across = (
                    linear(n, centres(n, m)).astype(np.float32)
                    for n, m in zip(image_Chw.shape[1:], sides, strict=True)
                )
                scaled = down @ image_Chw @ across.T
            total = total + softmax(self.windowed(scaled, size))
            if how["flip"]:
                total = total + softmax(self.windowed(scaled[..., ::-1], size)[..., ::-1])
        return total.argmax(0).astype(np.uint8)

    def scaled(self, side, scale):
        """Return a side of the scaled image: the nearest multiple of ``multiple``."""
        multiple = self.about["inference"]["multiple"]
        return max(1, int(side * scale / multiple + 0.5)) * multiple

    def windowed(self, image_Chw, size):
        """Return logits at ``size``, of the whole image or averaged over sliding windows."""
        window, stride = self.about["inference"]["window"], self.about["inference"]["stride"]
        h, w = image_Chw.shape[1:]
        if window is None or (h, w) == tuple(window):
            return self.logits(image_Chw, size)
        stride = stride or [max(1, 2 * side // 3) for side in window]
        image_Chw = np.pad(image_Chw, ((0, 0), (0, max(window[0] - h, 0)), (0, max(window[1] - w, 0))))
        total, count = 0, np.zeros(image_Chw.shape[1:], np.float32)
        for top in starts(image_Chw.shape[1], window[0], stride[0]):
            for left in starts(image_Chw.shape[2], window[1], stride[1]):
                place = (slice(top, top + window[0]), slice(left, left + window[1]))
                found = softmax(self.logits(image_Chw[:, *place], window))
                if isinstance(total, int):
                    total = np.zeros((len(found), *count.shape), np.float32)
                total[:, *place] += found
                count[place] += 1
        mean = (total / count)[:, :h, :w]
        if (h, w) != tuple(size):
            down, across = (
                linear(n, centres(n, m)).astype(np.float32) for n, m in zip((h, w), size, strict=True)
            )
            mean = down @ mean @ across.T
        return np.log(np.maximum(mean, np.finfo(np.float32).tiny))


def starts(length, window, stride):
    """Return where windows start along a side; the last is shifted to end at ``length``."""
    return [*range(0, length - window, stride), length - window]


def softmax(logits):
    """Return probabilities over axis 0."""
    raised = np.exp(logits - logits.max(0))
    return raised / raised.sum(0)


def write(path, classes_HW, palette):
    """Write the classes as a PNG with a palette."""
    mask = Image.fromarray(classes_HW, mode="P")
    mask.putpalette([channel for colour in palette for channel in colour])
    mask.save(path)


def main(arguments):
    """Segment one image; an error is one line, and the exit status 2."""
    if len(arguments) != 3:
        sys.exit("usage: run_onnx.py MODEL.onnx IMAGE MASK.png")
    model, source, target = arguments
    what = f"the network {model}"
    try:
        network = Network(model)
        missing = {"inference", "output_stride"} - network.about.keys()
        if missing:
            raise ValueError("an older hemnet exported it: export it again")
        what = f"the image {source}"
        classes_HW = network.segment(read(source))
        what = f"the mask {target}"
        write(target, classes_HW, network.about["palette"])
    except Exception as error:
        reason = " ".join(str(error).split())
        print(f"error: {what}: {type(error).__name__}: {reason[:300]}", file=sys.stderr)
        sys.exit(2)
    print(*(network.about["classes"][k] for k in np.unique(classes_HW)), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
