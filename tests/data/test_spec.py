import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hemnet.data.sets.camvid import CAMVID
from hemnet.data.spec import IGNORE_INDEX, DataError, DatasetSpec
from hemnet.errors import HemnetError

COLOR = st.tuples(*[st.integers(0, 255)] * 3)


@given(
    palette=st.one_of(
        st.lists(COLOR, min_size=1, max_size=20, unique=True),
        st.lists(st.sampled_from([(g, g, g) for g in (0, 1, 128, 254, 255)]), min_size=1, unique=True),
    ),
    data=st.data(),
)
def test_colorize_paints_each_pixel_and_can_be_read_back(palette, data):
    spec = DatasetSpec("x", tuple(map(str, range(len(palette)))), tuple(palette))
    labels = st.sampled_from([*range(len(palette)), IGNORE_INDEX])
    mask = data.draw(arrays(np.uint8, (3, 5), elements=labels))
    painted = spec.colorize(mask)
    assert painted.shape == (3, 5, 3)
    assert painted.dtype == np.uint8
    back = {color: k for k, color in enumerate(palette)} | {spec.ignore_color: IGNORE_INDEX}
    assert len(back) == len(palette) + 1  # the ignored colour is no class's
    assert np.array_equal([[back[tuple(map(int, pixel))] for pixel in row] for row in painted], mask)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.full((2, 2), 11, np.uint8), r"classes 0\.\.10, got \[11\]"),
        (np.zeros((2, 2), np.int64), "uint8"),
        (np.zeros((2, 2, 1), np.uint8), "uint8"),
    ],
)
def test_colorize_refuses_what_it_cannot_paint(mask, match):
    with pytest.raises(ValueError, match=match):
        CAMVID.colorize(mask)


@pytest.mark.parametrize(
    ("classes", "palette", "match"),
    [
        ((), (), "1 to 255"),
        (tuple(map(str, range(256))), tuple((k, 0, 0) for k in range(256)), "1 to 255"),
        (("a", "b"), ((1, 1, 1),), "2 classes but 1 colour;"),
        (("a", "a"), ((1, 1, 1), (2, 2, 2)), r"names repeat \(a\)"),
        (("a", "b"), ((1, 1, 1), (1, 1, 1)), "colours repeat"),
        (("a",), ((1, 1, 256),), r"0\.\.255"),
        (("a",), ((1, 1),), "three integers"),
    ],
)
def test_bad_specs_are_refused(classes, palette, match):
    with pytest.raises(ValueError, match=match):
        DatasetSpec("bad", classes, palette)


def test_camvid_order_and_colours():
    assert CAMVID.num_classes == 11
    assert [CAMVID.classes[k] for k in (0, 3, 6, 10)] == ["sky", "road", "sign symbol", "bicyclist"]
    assert CAMVID.palette[CAMVID.classes.index("road")] == (128, 64, 128)
    assert CAMVID.ignore_color == (0, 0, 0)


def test_black_background_makes_ignored_pixels_white():
    assert DatasetSpec("voc-like", ("background", "cat"), ((0, 0, 0), (64, 0, 0))).ignore_color == (255,) * 3


def test_data_errors_are_for_users():
    assert issubclass(DataError, HemnetError)
