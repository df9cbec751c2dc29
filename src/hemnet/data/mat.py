"""Masks in MATLAB files of version 5 to 7.2.

Shapes: H, W image height and width.
"""

import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from hemnet.data.listing import MOST_PIXELS, require_file
from hemnet.data.spec import DataError

MOST_BYTES = 8 * MOST_PIXELS
"""Most bytes that a file may unpack to: the largest label map, in MATLAB's default type, double."""
_COMPRESSED, _CHUNK = 15, 1 << 20


def read_mat(path: str | Path, variable: str, *fields: str) -> np.ndarray:
    """Read a label map from a MATLAB file.

    Args:
        path: the file.
        variable: the variable to read.
        fields: field of the struct `variable`, field of that, ...

    Returns:
        (H, W) uint8 or uint16 raw labels, C-contiguous.

    Raises:
        DataError: the file is missing, no regular file, corrupt, of version 7.3, or lacks the variable or
            field; the labels are no (H, W) array of integers in 0..65535, or more than `MOST_PIXELS`; the
            file unpacks to more than `MOST_BYTES`.
    """
    from scipy.io import loadmat, whosmat  # slow to import, and few data sets need it

    require_file(path)
    try:
        with open(path, "rb") as file:
            # The sizes in the header, checked before any content is read.
            if any(math.prod(shape) > MOST_PIXELS for name, shape, _ in whosmat(file) if name == variable):
                raise DataError(f"{path}: {variable} claims more than {MOST_PIXELS} values; restore the file")
            # The header of a struct does not state the size of its fields.
            if _unpacked(file) > MOST_BYTES:
                raise DataError(f"{path}: unpacks to more than {MOST_BYTES} bytes; restore the file")
            file.seek(0)
            value: Any = loadmat(file, variable_names=[variable])
    except DataError:
        raise
    except NotImplementedError:
        raise DataError(
            f"{path}: a MATLAB 7.3 (HDF5) file, which is not supported; save it with -v7 in MATLAB"
        ) from None
    # On damaged files SciPy raises exceptions of many types (ValueError, TypeError, zlib.error, ...).
    except Exception as error:
        raise DataError(f"{path}: not a readable MATLAB file ({error}); restore the file") from error
    name = ".".join((variable, *fields))
    try:
        value = value[variable]
        for field in fields:
            value = value[field][0, 0]
    except (KeyError, ValueError, IndexError, TypeError):
        raise DataError(f"{path}: has no {name}; is this file of another data set?") from None
    return _to_labels(value, f"{path}: {name}")


def _unpacked(file: IO[bytes]) -> int:
    """Return the unpacked bytes of a file's compressed elements; counting stops above `MOST_BYTES`."""
    file.seek(0)
    order = "<" if file.read(128)[126:] == b"IM" else ">"
    total = 0
    while len(tag := file.read(8)) == 8 and total <= MOST_BYTES:
        kind, size = struct.unpack(f"{order}II", tag)
        if kind != _COMPRESSED:
            file.seek(size, 1)
            continue
        stream, packed = zlib.decompressobj(), file.read(size)
        while packed and total <= MOST_BYTES:
            total += len(stream.decompress(packed, _CHUNK))
            packed = stream.unconsumed_tail
    return total


def _to_labels(value: Any, where: str) -> np.ndarray:
    labels_HW = np.asarray(value)
    if labels_HW.ndim == 2 and labels_HW.size and labels_HW.dtype.kind in "buif":
        low, high = labels_HW.min(), labels_HW.max()
        if low >= 0 and high < 2**16 and (labels_HW.dtype.kind != "f" or (labels_HW % 1 == 0).all()):
            return np.ascontiguousarray(labels_HW, dtype=np.uint8 if high < 256 else np.uint16)
    raise DataError(
        f"{where} is {labels_HW.dtype} {labels_HW.shape}, not a (height, width) array of labels in 0..65535"
    )
