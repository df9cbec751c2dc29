"""Inference over scales, mirror images and windows, against loops over pixels in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hemnet.errors import HemnetError
from hemnet.training.inference import Inference, segment, window_starts

SIZE = (20, 28)
CLASSES = 3


def make_forward() -> tuple[nn.Module, list[tuple[int, int]]]:
    """A network whose output depends on its whole input, and the list of the input sizes it was given."""
    torch.manual_seed(3)
    local = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, CLASSES, 3, padding=1)
    ).double()
    shown: list[tuple[int, int]] = []

    def forward(x: Tensor, size: tuple[int, int]) -> Tensor:
        shown.append((x.shape[-2], x.shape[-1]))
        ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)  # distinguishes left from right
        y = 3 * local(x + 0.3 * ramp) + x.mean((2, 3), keepdim=True)
        return F.interpolate(y, size, mode="bilinear", align_corners=False)

    return forward, shown


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slow_resize(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing with aligned pixel centres and repeated borders."""
    h, w = a.shape[-2:]
    out = np.zeros((*a.shape[:-2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            top, left = math.floor(y), math.floor(x)
            for row, v in ((top, 1 - (y - top)), (min(top + 1, h - 1), y - top)):
                for column, u in ((left, 1 - (x - left)), (min(left + 1, w - 1), x - left)):
                    out[..., i, j] += v * u * a[..., row, column]
    return out


def slow_softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(a - a.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def run(forward, a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return slow_softmax(forward(torch.from_numpy(np.ascontiguousarray(a)), size).detach().numpy())


def probabilities(inference: Inference, forward, x: Tensor, size: tuple[int, int] = SIZE) -> np.ndarray:
    return slow_softmax(inference(forward, x, size).numpy())


@pytest.mark.parametrize("flip", [False, True])
def test_scales_and_mirror_images_are_averaged_as_probabilities(flip: bool) -> None:
    forward, shown = make_forward()
    a, size = image().numpy(), (40, 50)
    # Nearest multiples of 8 to 10 x 14 and 30 x 42; scale 1 stays.
    sizes = {0.5: (8, 16), 1.0: SIZE, 1.5: (32, 40)}
    views = []
    for scaled in sizes.values():
        resized = a if scaled == SIZE else slow_resize(a, scaled)
        views.append(run(forward, resized, size))
        if flip:
            views.append(run(forward, resized[..., ::-1], size)[..., ::-1])
    shown.clear()
    found = probabilities(Inference(scales=(0.5, 1.0, 1.5), flip=flip), forward, image(), size)
    np.testing.assert_allclose(found, sum(views) / len(views), rtol=0, atol=1e-12)
    assert shown == [s for s in sizes.values() for _ in range(1 + flip)]


def slow_windows(forward, a: np.ndarray, window: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    h, w = a.shape[-2:]
    padded = np.zeros((*a.shape[:-2], max(h, window[0]), max(w, window[1])))
    padded[..., :h, :w] = a
    H, W = padded.shape[-2:]
    total, count = np.zeros((len(a), CLASSES, H, W)), np.zeros((H, W))
    rows = -(-(H - window[0]) // stride[0]) + 1
    columns = -(-(W - window[1]) // stride[1]) + 1
    for i in range(rows):
        for j in range(columns):
            top, left = min(i * stride[0], H - window[0]), min(j * stride[1], W - window[1])
            p = run(forward, padded[..., top : top + window[0], left : left + window[1]], window)
            for y in range(window[0]):
                for x in range(window[1]):
                    total[..., top + y, left + x] += p[..., y, x]
                    count[top + y, left + x] += 1
    assert count.min() >= 1
    return (total / count)[..., :h, :w]


@pytest.mark.parametrize(
    ("window", "stride"),
    [((12, 16), (8, 11)), ((12, 16), (12, 16)), ((20, 9), (1, 9)), ((24, 16), (5, 5)), ((30, 30), (30, 30))],
)
def test_windows_are_averaged_as_probabilities(window: tuple[int, int], stride: tuple[int, int]) -> None:
    forward, shown = make_forward()
    found = probabilities(Inference(window=window, stride=stride), forward, image())
    assert set(shown) == {window}
    expected = slow_windows(forward, image().numpy(), window, stride)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_windows_scales_and_mirror_images_together_at_another_size() -> None:
    forward, _ = make_forward()
    a, size, views = image(1).numpy(), (33, 31), []
    for scaled in ((16, 24), (24, 32)):  # 0.75 and 1.25 times 20 x 28: 15 x 21 and 25 x 35
        for step in (1, -1):
            p = slow_windows(forward, slow_resize(a, scaled)[..., ::step], (12, 16), (8, 10))
            views.append(slow_resize(p, size)[..., ::step])
    # The stride is 2/3 of the window.
    inference = Inference(scales=(0.75, 1.25), flip=True, window=(12, 16), multiple=8)
    np.testing.assert_allclose(
        probabilities(inference, forward, image(1), size), sum(views) / 4, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    "inference", [Inference(), Inference(window=SIZE), Inference(window=SIZE, stride=(3, 3))]
)
def test_one_view_in_one_piece_is_the_network_itself(inference: Inference) -> None:
    forward, shown = make_forward()
    x = image().float()
    plain = F.conv2d(x, torch.ones(CLASSES, 3, 3, 3))
    assert torch.equal(inference(lambda x, size: F.conv2d(x, torch.ones(CLASSES, 3, 3, 3)), x, SIZE), plain)
    assert torch.equal(inference(forward, image(), (9, 9)), forward(image(), (9, 9)))
    assert shown == [SIZE, SIZE]


def test_the_result_s_softmax_is_the_mean_probability_even_where_it_underflows() -> None:
    far = torch.tensor([0.0, -1e4, -50.0]).view(1, 3, 1, 1)
    logits = Inference(flip=True)(lambda x, size: far.expand(1, 3, *size), torch.zeros(1, 3, 4, 4), (4, 4))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1)[0, :, 0, 0], far.softmax(1).flatten())


def test_classes_of_an_image() -> None:
    forward, _ = make_forward()
    inference = Inference(scales=(0.5, 1.0), flip=True)
    classes = segment(forward, image()[0], (31, 17), inference)
    assert (classes.shape, classes.dtype) == ((31, 17), np.uint8)
    expected = probabilities(inference, forward, image()[:1], (31, 17))
    np.testing.assert_array_equal(classes, expected[0].argmax(0))


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"window": (16, 16)}], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_make_no_classes(options: dict, value: float) -> None:
    def forward(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        logits = torch.zeros(len(x), 3, *size)
        logits[:, 1, 5, 5] = value
        return logits

    with pytest.raises(HemnetError, match="not finite"):
        segment(forward, torch.zeros(3, 24, 24), (24, 24), Inference(**options))


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (4, 4, 2, [0]), (5, 4, 4, [0, 1]), (8, 4, 4, [0, 4])],
)
def test_windows_end_where_the_image_does(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, window, stride) == starts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scales": ()}, "scales"), ({"scales": (1.0, 0.0)}, "above 0"), ({"scales": (math.nan,)}, "above 0"),
        ({"window": (0, 4)}, "window"), ({"stride": (2, 2)}, "without a window"),
        ({"window": (4, 4), "stride": (5, 4)}, "left out"),
        ({"window": (4, 4), "stride": (0, 4)}, "left out"),
        ({"multiple": 0}, "multiple"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Inference(**options)
