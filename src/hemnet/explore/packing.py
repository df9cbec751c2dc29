"""Arrays as short text, which the page's script unpacks: what is written here, explorer.js reads.

A responsibility z in 0..1 is the byte q = round(255 sqrt(z)). (q / 255)² is at most 1/255 away from z, and
less where z is small: at most 1/2000 where 64 components hold a pixel alike.

An array of bytes is written as differences along its first axis, modulo 256, since maps of successive
iterations differ little; then compressed (zlib) and coded in base64.
"""

import base64
import io
import zlib
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 255


def coded(z: np.ndarray) -> np.ndarray:
    """Return responsibilities, 0..1, of any shape, as bytes: q = round(255 sqrt(z)), uint8."""
    return np.rint(LARGEST * np.sqrt(z.clip(0, 1))).astype(np.uint8)


def decoded(q: np.ndarray) -> np.ndarray:
    """Return the responsibilities that bytes stand for, (q / 255)², float64."""
    return (q / LARGEST) ** 2


def packed(array: np.ndarray) -> dict[str, Any]:
    """Return a uint8 array as ``{"shape": [...], "bytes": text}``; `unpacked` is its inverse."""
    change = array.copy()
    change[1:] -= array[:-1]
    content = zlib.compress(change.tobytes(), 9)
    return {"shape": list(array.shape), "bytes": base64.b64encode(content).decode()}


def unpacked(text: dict[str, Any]) -> np.ndarray:
    """Return the array that `packed` wrote."""
    content = zlib.decompress(base64.b64decode(text["bytes"]))
    change = np.frombuffer(content, np.uint8).reshape(text["shape"])
    return np.cumsum(change, axis=0, dtype=np.uint8)


def picture(image_HWC: np.ndarray, quality: int = 82) -> str:
    """Return an (H, W, 3) uint8 RGB image as a data URI of a WebP file."""
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
