"""Independent random number generators, one per purpose and key."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Return the generator of (seed, purpose, key).

    The key is a spawn key and not part of the seed: NumPy pads short seeds with zeros, so that
    `np.random.default_rng((seed, epoch))` and `default_rng((seed, epoch, 0))` would give the same numbers.

    Args:
        seed: non-negative integer, the user's seed.
        purpose: what the numbers are for; different purposes get different numbers.
        key: integers in 0..2^32-1, for example epoch and index.

    Raises:
        ValueError: a negative seed, or a key out of range.
    """
    # A larger part would fill two 32-bit words, and the key would equal a longer one.
    if seed < 0 or any(not 0 <= part < 2**32 for part in key):
        raise ValueError(f"a random stream needs seed >= 0 and keys in 0..2^32-1, got {seed=} {key=}")
    spawn_key = (zlib.crc32(purpose.encode()), *key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))
