from itertools import product

import numpy as np
import pytest

from hemnet.data.random_streams import stream


def test_streams_of_different_keys_purposes_and_seeds_differ():
    keys = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (1, 1), (2**32 - 1,), (0, 0, 1)]
    firsts = {
        stream(seed, purpose, *key).integers(2**63)
        for seed, purpose, key in product((0, 1, 2**40), ("a", "b"), keys)
    }
    assert len(firsts) == 3 * 2 * len(keys)


def test_plain_tuples_collide_which_is_why_stream_exists():
    draws = [np.random.default_rng(key).integers(2**63) for key in ((3, 1), (3, 1, 0))]
    assert draws[0] == draws[1]


def test_stream_is_reproducible():
    assert np.array_equal(stream(5, "x", 1, 2).random(8), stream(5, "x", 1, 2).random(8))


@pytest.mark.parametrize(("seed", "key"), [(-1, ()), (0, (-2,)), (0, (2**32,))])
def test_numbers_out_of_range_are_refused(seed, key):
    with pytest.raises(ValueError, match="needs seed >= 0 and keys in"):
        stream(seed, "x", *key)
