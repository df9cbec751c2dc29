import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hemnet.data.decoding import read_image, read_labels
from hemnet.data.sets.camvid import CAMVID, CamVid
from hemnet.data.spec import IGNORE_INDEX, DataError

RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
GREY16 = (np.arange(35, dtype=np.uint16) * 1800).reshape(5, 7)


def save(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


# -- CamVid ------------------------------------------------------------------------------------------------


def test_camvid_reads_what_was_written(camvid_root):
    reader = CamVid(camvid_root, "train")
    assert reader.spec is CAMVID
    assert len(reader) == 6
    for i in range(6):
        sample = reader.read(i)
        assert sample.name == f"train_{i}"
        assert sample.image_HWC.dtype == sample.mask_HW.dtype == np.uint8
        assert np.array_equal(sample.image_HWC, np.asarray(Image.open(camvid_root / f"train/train_{i}.png")))
        raw = np.asarray(Image.open(camvid_root / f"trainannot/train_{i}.png"))
        assert np.array_equal(sample.mask_HW, np.where(raw == 11, IGNORE_INDEX, raw))


def test_camvid_takes_jpeg_images_any_case_and_skips_stray_files(camvid_root):
    for path in (camvid_root / "train").iterdir():
        save(path.with_suffix(".JPG" if path.stem.endswith("0") else ".jpeg"), np.asarray(Image.open(path)))
        path.unlink()
    (camvid_root / "train/.hidden.png").write_bytes(b"")
    (camvid_root / "train/Thumbs.db").write_bytes(b"")
    (camvid_root / "train/no_mask_needed.txt").write_text("")
    reader = CamVid(str(camvid_root), "train")
    assert [reader.read(i).name for i in range(len(reader))] == [f"train_{i}" for i in range(6)]


def test_missing_root_names_path_layout_and_remedy(tmp_path):
    with pytest.raises(DataError, match=r"data\.root=.*HEMNET_DATA.*\{train,val,test\}annot") as caught:
        CamVid(tmp_path / "nowhere", "train")
    assert str(tmp_path / "nowhere") in str(caught.value)


@pytest.mark.parametrize("folder", ["val", "valannot"])
def test_missing_or_empty_folder_is_named(camvid_root, folder):
    for path in (camvid_root / folder).iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"{folder}: no .* files.*HEMNET_DATA"):
        CamVid(camvid_root, "val")
    (camvid_root / folder).rmdir()
    with pytest.raises(DataError, match=rf"{folder}: no such folder.*HEMNET_DATA"):
        CamVid(camvid_root, "val")


def test_unknown_split(camvid_root):
    with pytest.raises(DataError, match="train, val and test, got 'trainval'"):
        CamVid(camvid_root, "trainval")


def test_images_without_masks_are_counted_and_named(camvid_root):
    for i in range(4):
        (camvid_root / f"trainannot/train_{i}.png").unlink()
    expected = r"trainannot: no mask for 4 of 6 samples \(train_0, train_1, train_2, \.\.\.\)"
    with pytest.raises(DataError, match=expected):
        CamVid(camvid_root, "train")


def test_two_images_of_one_name(camvid_root):
    save(camvid_root / "train/train_0.jpg", RGB)
    with pytest.raises(DataError, match="same stem"):
        CamVid(camvid_root, "train")


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.full((24, 32), 12, np.uint8), r"unknown labels \[12\]"),
        (np.full((24, 32), 255, np.uint8), r"unknown labels \[255\]"),
        (np.zeros((24, 31), np.uint8), r"\(24, 31\).*\(24, 32\)"),
        (np.zeros((24, 32, 3), np.uint8), "one channel.*RGB"),
        (np.zeros((24, 32), np.uint16), "one channel"),
    ],
)
def test_bad_masks_name_their_file(camvid_root, mask, match):
    path = save(camvid_root / "valannot/val_1.png", mask)
    reader = CamVid(camvid_root, "val")
    reader.read(0)
    with pytest.raises(DataError, match=match) as caught:
        reader.read(1)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["val/val_1.png", "valannot/val_1.png"])
def test_a_file_that_vanishes_is_named(camvid_root, name):
    reader = CamVid(camvid_root, "val")
    (camvid_root / name).unlink()
    with pytest.raises(DataError, match=f"{re.escape(name)}: no such file"):
        reader.read(1)


# -- decoding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.floats(0, 1, exclude_max=True))
def test_a_truncated_image_is_never_read_in_part(tmp_path, suffix, keep):
    noise = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    whole = save(tmp_path / f"whole.{suffix}", noise).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: int(keep * len(whole))])
    # The last bytes are checksums and end markers: without those the picture may still be read, but whole.
    if len(whole) - cut.stat().st_size > 24:
        with pytest.raises(DataError, match=rf"cut\.{suffix}: not a readable image"):
            read_image(cut)
    else:
        with suppress(DataError):
            assert np.array_equal(read_image(cut), read_image(tmp_path / f"whole.{suffix}"))


def test_text_in_an_image_file_and_a_missing_file(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        for read in (read_image, read_labels):
            with pytest.raises(DataError, match=name):
                read(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    # The standard's table: which side of the picture the first row and the first column are.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", RGB, exif=exif)
    assert np.array_equal(read_image(path), upright[orientation](RGB))


def test_every_eight_bit_format_is_read_as_rgb(tmp_path):
    grey = RGB[..., 0]
    alpha = np.concatenate([RGB, np.zeros((5, 7, 1), np.uint8)], axis=2)
    expected_grey = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(read_image(save(tmp_path / "rgb.png", RGB)), RGB)
    assert np.array_equal(read_image(save(tmp_path / "rgba.png", alpha)), RGB)
    assert np.array_equal(read_image(save(tmp_path / "grey.png", grey)), expected_grey)
    assert np.array_equal(read_image(save(tmp_path / "one_bit.png", grey > 50)), (expected_grey > 50) * 255)
    palette = Image.fromarray(grey % 4)
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png")[..., 0], grey % 4 * 30 + 10)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    read = read_image(save(tmp_path / "deep.png", GREY16))
    # 65535 / 257 = 255, so the value in 0..255 is off by the rounding alone.
    assert np.abs(read - GREY16[..., None] / 257).max() <= 0.5
    assert read.dtype == np.uint8


def test_cmyk_jpeg_has_natural_colours(tmp_path):
    color = np.tile(np.uint8([200, 60, 30]), (16, 16, 1))
    Image.fromarray(color).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    # JPEG at quality 95 moves a flat colour by a few grey levels; inverted CMYK would be off by over 100.
    assert np.abs(read_image(tmp_path / "print.jpg").astype(int) - color).max() <= 8


def test_formats_without_a_sound_reading_are_refused(tmp_path):
    save(tmp_path / "float.tiff", RGB[..., 0].astype(np.float32))
    save(tmp_path / "wide.tiff", RGB[..., 0].astype(np.int32))
    for name in ("float.tiff", "wide.tiff"):
        with pytest.raises(DataError, match=rf"{name}: pixel format '[FI]' is not supported; convert"):
            read_image(tmp_path / name)


def test_masks_give_palette_indices_not_colours(tmp_path):
    indices = RGB[..., 0] % 4
    picture = Image.fromarray(indices)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    picture.save(tmp_path / "palette.png")
    assert np.array_equal(read_labels(tmp_path / "palette.png"), indices)


def test_arrays_are_fresh_and_writable(tmp_path):
    shutil.copy(save(tmp_path / "a.png", RGB), tmp_path / "b.png")
    image = read_image(tmp_path / "b.png")
    image += 1
    assert np.array_equal(read_image(tmp_path / "b.png"), RGB)
