"""Random streams that never overlap by accident: one independent generator per purpose and key."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return the generator that belongs to (seed, purpose, key).

    `np.random.default_rng((seed, epoch))` and `default_rng((seed, epoch, 0))` are the same stream, because
    NumPy pads short seeds with zeros; a spawn key is not padded, and the purpose keeps, say, the drawing of
    a synthetic image apart from its augmentation.

    Args:
        seed: non-negative integer, the user's seed.
        purpose: what the numbers are for.
        key: integers in 0..2^32-1, for example epoch and index.

    Raises:
        ValueError: a negative seed, or a key out of range.
    """
    # A larger part would fill two words and collide with a longer key.
    if seed < 0 or any(not 0 <= part < 2**32 for part in key):
        raise ValueError(f"a random stream needs seed >= 0 and keys in 0..2^32-1, got {seed=} {key=}")
    spawn_key = (zlib.crc32(purpose.encode()), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))
