"""Label maps from MATLAB files."""

import numpy as np
import pytest
from scipy.io import savemat

from hemnet.data.mat import read_mat
from hemnet.data.spec import DataError

LABELS = np.arange(35).reshape(5, 7) * 13


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("version", ["5", "4"])
def test_labels_of_any_integral_type_are_read(dtype, compressed, version, tmp_path):
    # MATLAB itself writes doubles unless told otherwise.
    labels = (LABELS % 200).astype(dtype)
    options = {"do_compression": compressed} if version == "5" else {}
    if version == "4" and dtype in (np.int64,):
        pytest.skip("version 4 has no such type")
    savemat(tmp_path / "a.mat", {"S": labels, "other": np.ones(3)}, format=version, **options)
    read_HW = read_mat(tmp_path / "a.mat", "S")
    assert read_HW.dtype == np.uint8
    assert read_HW.flags.c_contiguous
    assert np.array_equal(read_HW, labels)


def test_labels_above_255_take_sixteen_bits(tmp_path):
    savemat(tmp_path / "a.mat", {"LabelMap": LABELS.astype(float)})
    read_HW = read_mat(tmp_path / "a.mat", "LabelMap")
    assert read_HW.dtype == np.uint16
    assert np.array_equal(read_HW, LABELS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"T": LABELS}, "has no S"),
        ({"S": LABELS + 0.5}, "not a .* array of labels"),
        ({"S": LABELS - 1}, "not a .* array of labels"),
        ({"S": LABELS * 1000}, "not a .* array of labels"),
        ({"S": np.full((2, 2), np.nan)}, "not a .* array of labels"),
        ({"S": np.ones((2, 2, 2))}, r"float64 \(2, 2, 2\)"),
        ({"S": "text"}, "not a .* array of labels"),
        ({"S": np.zeros((0, 0))}, "not a .* array of labels"),
    ],
)
def test_what_is_no_label_map_is_named(content, match, tmp_path):
    savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError, match=match) as caught:
        read_mat(tmp_path / "a.mat", "S")
    assert str(tmp_path / "a.mat") in str(caught.value)


def test_a_missing_field_of_a_struct_is_named(tmp_path):
    savemat(tmp_path / "a.mat", {"GTcls": {"Boundaries": LABELS}, "GTinst": LABELS})
    assert np.array_equal(read_mat(tmp_path / "a.mat", "GTcls", "Boundaries"), LABELS)
    for variable in ("GTcls", "GTinst"):
        with pytest.raises(DataError, match=rf"has no {variable}\.Segmentation; is this file of another"):
            read_mat(tmp_path / "a.mat", variable, "Segmentation")


@pytest.mark.parametrize("keep", [0, 1, 60, 127, 128, 200, 0.5, 0.9])
def test_a_truncated_file_is_never_read_in_part(keep, tmp_path):
    savemat(tmp_path / "whole.mat", {"S": np.random.default_rng(0).integers(0, 200, (40, 40))})
    whole = (tmp_path / "whole.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=r"cut\.mat: (not a readable MATLAB file|has no S)"):
        read_mat(tmp_path / "cut.mat", "S")


def test_version_7_3_and_missing_files_say_what_to_do(tmp_path):
    # The head of such a file: a text, then version 2.0 and the byte order.
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (tmp_path / "a.mat").write_bytes(header.ljust(512, b"\x00") + b"\x89HDF\r\n\x1a\n".ljust(512, b"\x00"))
    with pytest.raises(DataError, match=r"a\.mat: a MATLAB 7\.3 .* save it with -v7"):
        read_mat(tmp_path / "a.mat", "S")
    with pytest.raises(DataError, match=r"none\.mat: no such file"):
        read_mat(tmp_path / "none.mat", "S")


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_a_struct_hides_is_counted_before_it_is_read(order, tmp_path, monkeypatch):
    # The header says 1 x 1: a struct. Zeros shrink a thousandfold.
    path = tmp_path / "a.mat"
    savemat(path, {"GTcls": {"Segmentation": np.zeros((3000, 3000), np.uint8)}}, do_compression=True)
    if order == ">":  # two bytes that say so, and the first tag
        content = path.read_bytes()
        tag = b"".join(content[at : at + 4][::-1] for at in (128, 132))
        path.write_bytes(content[:124] + b"\x01\x00MI" + tag + content[136:])
    monkeypatch.setattr("scipy.io.whosmat", lambda _: [])
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("read"))
    monkeypatch.setattr("hemnet.data.mat.MOST_BYTES", 8_000_000)
    with pytest.raises(DataError, match=r"a\.mat: unpacks to more than 8000000 bytes"):
        read_mat(path, "GTcls", "Segmentation")
