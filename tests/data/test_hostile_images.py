"""Images that nobody vouches for: each is read as what it shows, or refused by name.

What is right is computed from the bytes that were put in, by the definitions of the formats.
"""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemnet.data import EvalTransform, Sample, TrainTransform
from hemnet.data.decoding import read_image, read_labels
from hemnet.data.listing import MOST_PIXELS, read_list
from hemnet.data.mat import read_mat
from hemnet.data.sets.folder import own_classes
from hemnet.data.spec import DataError

pytestmark = pytest.mark.usefixtures("bounded")

DRAW = np.random.default_rng(0)
RGB = DRAW.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY, RGBA, TRUE_COLOR = 0, 6, 2  # PNG's numbers


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, color: int, rows: bytes, *further: bytes) -> bytes:
    """Return a PNG by its definition: ``rows`` are unfiltered, each after a zero byte."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = [chunk(b"IHDR", head), *further, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(data)


def deep(array: np.ndarray, color: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return png(array.shape[1], array.shape[0], 16, color, rows)


def read_bytes(folder: Path, content: bytes, name: str = "x.png") -> np.ndarray:
    (folder / name).write_bytes(content)
    return read_image(folder / name)


# -- what no image is --------------------------------------------------------------------------------------

NOT_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "not a readable image"),
    "text": (lambda p: p.write_text("hello"), "not a readable image"),
    "svg": (lambda p: p.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'), "not a readable image"),
    "folder": (lambda p: p.mkdir(), "a folder, not a file"),
    "pipe": (lambda p: os.mkfifo(p), "a pipe, a device or the like"),
    "device": (lambda p: p.symlink_to("/dev/zero"), "a pipe, a device or the like"),
    "link to itself": (lambda p: p.symlink_to(p), "cannot be read"),
    "link to nothing": (lambda p: p.symlink_to(p.parent / "nothing"), "no such file"),
    "bare PNG head": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "not a readable image"),
    "PNG without pixels": (lambda p: p.write_bytes(png(5, 5, 8, GREY, b"")), "not a readable image"),
    "PNG of no size": (lambda p: p.write_bytes(png(0, 5, 8, TRUE_COLOR, b"")), "not a readable image"),
    "PNG bomb": (lambda p: p.write_bytes(png(100_000, 100_000, 8, TRUE_COLOR, b"")), "at most 67108864"),
    "largest PNG": (lambda p: p.write_bytes(png(2**31 - 1, 2**31 - 1, 16, RGBA, b"")), "at most 67108864"),
    "just too large": (lambda p: p.write_bytes(png(2**13, 2**13 + 1, 8, GREY, b"")), "claims 8192 x 8193"),
}


@pytest.mark.parametrize("case", NOT_IMAGES)
@pytest.mark.parametrize("read", [read_image, read_labels, lambda path: read_mat(path, "labels")])
def test_what_is_no_image_is_refused_by_name(case: str, read: Callable, tmp_path: Path) -> None:
    make, said = NOT_IMAGES[case]
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    if read in (read_image, read_labels) or "not a file" in said:
        assert said in str(caught.value)


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_too_large_an_image_is_refused_before_its_pixels_are_made(
    read: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").write_bytes(png(2**13, 2**13 + 1, 8, GREY, b""))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda _: pytest.fail("decoded"))
    with pytest.raises(DataError, match="at most 67108864"):
        read(tmp_path / "x.png")


def test_the_largest_image_is_taken_for_what_it_is(tmp_path: Path) -> None:
    # It passes the limit and fails for its missing pixels.
    (tmp_path / "x.png").write_bytes(png(2**13, MOST_PIXELS // 2**13, 1, GREY, b""))
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "x.png")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    # Pillow would hand this to Ghostscript, whatever the file is called.
    program = f"({tmp_path}/ran) (w) file closefile showpage"
    (tmp_path / "x.png").write_text(
        f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{program}\n"
    )
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "EPS"
    with pytest.raises(DataError, match="not a readable image"):
        read_image(tmp_path / "x.png")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(DataError, match=r"x\.png: .*Permission denied"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "bmp", "webp", "ppm"])
def test_cut_anywhere_it_is_refused_or_whole(suffix: str, tmp_path: Path) -> None:
    picture = DRAW.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / f"x.{suffix}")
    content = (tmp_path / f"x.{suffix}").read_bytes()
    whole, refused = read_image(tmp_path / f"x.{suffix}"), 0
    lengths = np.unique(np.linspace(0, len(content) - 1, 60).astype(int))
    for length in lengths:
        try:
            read = read_bytes(tmp_path, content[:length])
        except DataError:
            refused += 1
        else:
            assert np.array_equal(read, whole)
    assert refused > 0.9 * len(lengths)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "bmp", "webp"])
def test_damage_ends_in_an_image_or_an_error(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(DRAW.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / f"x.{suffix}")
    content, draw = (tmp_path / f"x.{suffix}").read_bytes(), np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(content)
        for at in draw.integers(0, len(content), 3):
            damaged[at] = draw.integers(256)
        try:
            read = read_bytes(tmp_path, bytes(damaged))
        except DataError:
            continue
        assert (read.dtype, read.ndim, read.shape[2]) == (np.uint8, 3, 3)


# -- what is an image, if an odd one -----------------------------------------------------------------------


def test_sixteen_bit_colour_keeps_its_high_bytes(tmp_path: Path) -> None:
    wide = DRAW.integers(0, 2**16, (6, 9, 3), dtype=np.uint16)
    read = read_bytes(tmp_path, deep(wide, TRUE_COLOR))
    assert np.array_equal(read, wide >> 8)
    assert np.abs(read - wide / 257).max() < 1


def test_sixteen_bit_grey_is_rounded(tmp_path: Path) -> None:
    wide = DRAW.integers(0, 2**16, (6, 9), dtype=np.uint16)
    assert np.array_equal(read_bytes(tmp_path, deep(wide, GREY)), np.rint(wide / 257)[..., None].repeat(3, 2))


@pytest.mark.parametrize(("depth", "levels"), [(1, 2), (2, 4), (4, 16)])
def test_grey_of_few_bits_spans_black_to_white(depth: int, levels: int, tmp_path: Path) -> None:
    values = np.arange(8) % levels
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    content = png(8, 2, depth, GREY, (b"\0" + row) * 2)
    expected = np.rint(values * 255 / (levels - 1))
    assert np.array_equal(read_bytes(tmp_path, content)[1, :, 2], expected)
    # As labels, these would be stretched too: a mask like this is refused.
    with pytest.raises(DataError, match="a mask must be 8-bit"):
        read_labels(tmp_path / "x.png")


def test_a_palette_with_transparency_shows_its_colours(tmp_path: Path) -> None:
    colors = DRAW.integers(0, 256, (4, 3), dtype=np.uint8)
    indices = DRAW.integers(0, 4, (6, 9), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    further = chunk(b"PLTE", colors.tobytes()), chunk(b"tRNS", bytes([0, 128]))
    assert np.array_equal(read_bytes(tmp_path, png(9, 6, 8, 3, rows, *further)), colors[indices])
    assert np.array_equal(read_labels(tmp_path / "x.png"), indices)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_any_kind_is_near_what_was_put_in(mode: str, progressive: bool, tmp_path: Path) -> None:
    across = np.linspace(0, 255, 64).round().astype(np.uint8)
    smooth = np.stack(np.broadcast_arrays(across, across[::-1, None], np.uint8(90)), axis=2)
    source = Image.fromarray(smooth).convert(mode)
    source.save(tmp_path / "x.jpg", quality=95, progressive=progressive)
    # Smooth, so that JPEG at this quality is off by a few levels.
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - np.asarray(source.convert("RGB"))).max() <= 8


@pytest.mark.parametrize("suffix", ["gif", "tiff", "png", "webp"])
def test_of_several_frames_the_first_is_read(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 6), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / f"x.{suffix}") as picture:
        assert getattr(picture, "n_frames", 1) == 3
    assert np.array_equal(read_image(tmp_path / f"x.{suffix}"), np.asarray(frames[0]))


@pytest.mark.parametrize("name", ["a b.png", "ü→日本.png", "new\nline.png", "-rf.png", "%s{0}.png", "x.jpg"])
def test_names_are_only_names(name: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / name, format="PNG")
    assert np.array_equal(read_image(tmp_path / name), RGB)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png"])
def test_names_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_the_thinnest_images_pass_through_the_transforms(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = DRAW.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png")
    assert np.array_equal(image, pixels)
    sample = Sample(image, np.zeros(size, np.uint8), "x")
    for base in (None, (16, 16)):
        for seed in range(5):
            item = TrainTransform(16, base)(sample, np.random.default_rng(seed))
            assert item["image"].shape == (3, 16, 16)
            assert torch.isfinite(item["image"]).all()
            assert item["mask"].shape == (16, 16)
    assert EvalTransform()(sample)["image"].shape == (3, *size)
    assert EvalTransform(24)(sample)["image"].shape == (3, 24, 24)


# -- masks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_masks_of_formats_that_lose_something_are_refused(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / f"x.{suffix}")
    with pytest.raises(DataError, match="not a readable image"):
        read_labels(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, bool])
def test_masks_of_other_pixels_are_refused(dtype: type, tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0].astype(dtype)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match="8-bit with one channel"):
        read_labels(tmp_path / "x.tiff")


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "LA"])
def test_masks_of_several_channels_are_refused(kind: str, tmp_path: Path) -> None:
    Image.fromarray(RGB).convert(kind).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="8-bit with one channel"):
        read_labels(tmp_path / "x.png")


def grey_tiff(bits: int, black: int) -> bytes:
    """Return a TIFF of the labels 0, 1, 2, 3 by its definition; black is 1: zero, 0: the largest."""
    pixels = {4: b"\x01\x23", 8: b"\0\1\2\3"}[bits]
    entries = {256: 4, 257: 1, 258: bits, 259: 1, 262: black, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + struct.pack("<H", 9) + table + bytes(4)


def test_masks_whose_numbers_would_change_are_refused(tmp_path: Path) -> None:
    labels = bytes(range(4))
    changed = [grey_tiff(4, 1), grey_tiff(8, 0), b"P5 4 1 11\n" + labels, b"P2 4 1 11\n0 1 2 3\n"]
    for content in changed:
        (tmp_path / "x.png").write_bytes(content)
        with pytest.raises(DataError, match="fewer bits or levels of grey, or inverted"):
            read_labels(tmp_path / "x.png")
    for content in (grey_tiff(8, 1), b"P5 4 1 255\n" + labels, b"P2 4 1 255\n0 1 2 3\n"):
        (tmp_path / "x.png").write_bytes(content)
        assert read_labels(tmp_path / "x.png").tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("palette", [False, True])
def test_a_mask_is_turned_as_its_image_is(palette: bool, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB[..., 0]).convert("RGB").save(tmp_path / "image.png", exif=exif)
    mask = Image.fromarray(RGB[..., 0], mode="P") if palette else Image.fromarray(RGB[..., 0])
    if palette:
        mask.putpalette(list(range(255, -1, -1)) * 3)
    mask.save(tmp_path / "mask.png", exif=exif)
    assert np.array_equal(read_labels(tmp_path / "mask.png"), read_image(tmp_path / "image.png")[..., 0])


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.array([None])], ids=["float", "pickle"])
def test_a_numpy_file_is_no_mask(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match="not a readable image"):
        read_labels(tmp_path / "x.npy")


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.mkdir()])
def test_lists_and_classes_are_read_from_files_alone(make: Callable, tmp_path: Path) -> None:
    make(tmp_path / "x")
    for read in (lambda: read_list(tmp_path / "x", ""), lambda: own_classes(str(tmp_path / "x"), tmp_path)):
        with pytest.raises(DataError, match="not a file; check the path"):
            read()


@pytest.mark.parametrize("text", ["[" * 99_999, "[a, 2001-99-99]", "!!python/object/apply:os.getcwd []"])
def test_hostile_yaml_is_no_list_of_classes(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(DataError, match=r"x\.yaml: not a readable YAML file"):
        own_classes(str(tmp_path / "x.yaml"), tmp_path)


def test_a_matlab_bomb_is_stopped_at_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "x.mat", {"labels": np.zeros((80, 80), np.uint8)}, do_compression=True)
    monkeypatch.setattr("hemnet.data.mat.MOST_PIXELS", 6399)
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(DataError, match="claims more than 6399 values"):
        read_mat(tmp_path / "x.mat", "labels")
