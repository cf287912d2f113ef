"""Test reading volumes with wrong headers, truncated volumes and other file types, and the checks of a case."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from patchcore.affines import corner_shift
from patchcore.datasets.checks import check_pair, image_findings
from patchcore.errors import (
    AffineMismatchError,
    CorruptFileError,
    DataError,
    HeaderError,
    NonIntegralLabelError,
    ShapeMismatchError,
    UnsupportedDataError,
)
from patchcore.volumes.ct import examine_ct_array
from patchcore.volumes.volume import read_header, read_image, read_label, volume_at

AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, -30], [0, 0, 0, 1]])
DIM0, DATATYPE, PIXDIM1, SFORM0 = 40, 70, 80, 280


def volume(shape: tuple[int, ...] = (7, 6, 5), dtype: Any = np.int16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(dtype)


def save(path: Path, array: np.ndarray[Any, Any], affine: Any = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite bytes of a volume, also inside gzip."""
    zipped = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(gzip.compress(bytes(content)) if zipped else bytes(content))
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f4", "u1", "<i4"])
def test_images_are_read_as_nibabel_reads_them(tmp_path: Path, name: str, dtype: str) -> None:
    array = volume(dtype=np.dtype(dtype).newbyteorder("="))
    header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(np.dtype(dtype))
    kind = nibabel.Nifti1Pair if name.endswith("hdr") else nibabel.Nifti1Image
    nibabel.save(kind(array, AFFINE, header), tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.array.dtype == (np.int16 if dtype.endswith("i2") else np.float32)
    np.testing.assert_array_equal(image.array, array)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.spacing == pytest.approx((0.8, 0.8, 2.5))
    assert read_header(tmp_path / name).orientation == "LPS"


def test_nifti2_and_scaling(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    image = nibabel.Nifti2Image(volume(), AFFINE)
    image.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(image, path)
    expected = np.asarray(nibabel.load(path).dataobj)
    read = read_image(path)
    assert read.array.dtype == np.float32
    np.testing.assert_allclose(read.array, expected, atol=1e-3)


def test_a_fourth_axis_of_one_is_dropped_and_a_longer_one_refused(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "a.nii", volume((4, 3, 2, 1)))).array.shape == (4, 3, 2)
    with pytest.raises(UnsupportedDataError, match="not 3D"):
        read_image(save(tmp_path / "b.nii", volume((4, 3, 2, 2))))
    with pytest.raises(UnsupportedDataError, match="not 3D"):
        read_image(save(tmp_path / "c.nii", volume((4, 3))))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_gzip_is_corrupt(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "a.nii.gz", volume((30, 30, 30)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    for read in (read_image, read_label):
        with pytest.raises((CorruptFileError, HeaderError), match=r"ends early|cannot hold") as caught:
            read(path)
        assert caught.value.path == str(path)
        assert caught.value.remedy


def test_the_checksum_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", volume((30, 30, 30)))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="checksum does not match"):
        read_image(path)


def test_a_plain_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", volume((30, 30, 30)))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match="ends early"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_dimensions_beyond_the_file_take_no_memory(tmp_path: Path, name: str) -> None:
    path = patch(save(tmp_path / name, volume()), DIM0, struct.pack("<4h", 3, 32767, 32767, 32767))
    with pytest.raises(DataError, match="the file"):
        read_image(path)


@pytest.mark.parametrize("dims", [(3, -5, 5, 5), (3, 0, 5, 5), (99, 5, 5, 5)])
def test_impossible_dimensions(tmp_path: Path, dims: tuple[int, ...]) -> None:
    path = patch(save(tmp_path / "a.nii", volume()), DIM0, struct.pack("<4h", *dims))
    with pytest.raises((HeaderError, UnsupportedDataError)):
        read_image(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_spacing_that_is_not_finite(tmp_path: Path, value: float) -> None:
    path = patch(save(tmp_path / "a.nii", volume()), PIXDIM1, struct.pack("<3f", value, value, value))
    with pytest.raises(HeaderError, match="finite"):
        read_image(path)
    path = patch(save(tmp_path / "b.nii", volume()), SFORM0, struct.pack("<f", value))
    with pytest.raises(HeaderError, match="finite"):
        read_image(path)


def test_an_affine_without_extent(tmp_path: Path) -> None:
    path = patch(save(tmp_path / "a.nii", volume()), SFORM0, struct.pack("<12f", *([0.0] * 12)))
    with pytest.raises(HeaderError, match="must be positive"):
        read_image(path)
    flat = struct.pack("<12f", 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0)
    with pytest.raises(HeaderError, match="axes must be linearly independent"):
        read_image(patch(save(tmp_path / "b.nii", volume()), SFORM0, flat))


def test_complex_and_coloured_voxels(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDataError, match="complex"):
        read_image(save(tmp_path / "a.nii", volume().astype(np.complex64)))
    rgb = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UnsupportedDataError):
        read_image(save(tmp_path / "b.nii", rgb))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b", b"x" * 400])
def test_what_is_not_a_nifti(tmp_path: Path, content: bytes) -> None:
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((HeaderError, CorruptFileError)):
            read_image(tmp_path / name)


def test_missing_files_and_halves_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Pair(volume(), AFFINE), tmp_path / "b.hdr")
    (tmp_path / "b.img").unlink()
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "b.hdr")


def test_float_labels_become_integers_and_others_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((5, 5, 5), np.float64)
    labels[2, 2, 2] = 255
    read = read_label(save(tmp_path / "a.nii.gz", labels))
    assert read.array.dtype == np.uint8
    np.testing.assert_array_equal(read.array, labels)
    for value in (0.5, float("nan"), float("inf")):
        labels[1, 2, 3] = value
        with pytest.raises(NonIntegralLabelError, match=r"\(1, 2, 3\)"):
            read_label(save(tmp_path / "b.nii.gz", labels))


def test_a_hash_covers_both_files_of_a_pair(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(volume(), AFFINE), tmp_path / "a.hdr")
    before = volume_at(tmp_path / "a.hdr").sha256()
    patch(tmp_path / "a.img", 0, b"zz")
    assert volume_at(tmp_path / "a.hdr").sha256() != before


def test_pairs_on_one_grid_pass_and_others_do_not(tmp_path: Path) -> None:
    image = read_header(save(tmp_path / "a.nii", volume()))
    near, far, turned = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.09 * 0.8
    far[0, 3] += 0.11 * 0.8
    turned[0] *= -1
    check_pair(image, read_header(save(tmp_path / "b.nii", volume(), near)), case_id="a")
    for wrong in (far, turned):
        with pytest.raises(AffineMismatchError, match="apart") as caught:
            check_pair(image, read_header(save(tmp_path / "c.nii", volume(), wrong)), case_id="a")
        assert caught.value.case_id == "a"
    with pytest.raises(ShapeMismatchError, match="export both files again") as shape:
        check_pair(image, read_header(save(tmp_path / "d.nii", volume((7, 6, 4)))), case_id="a")
    assert (shape.value.found, shape.value.expected) == ((7, 6, 4), (7, 6, 5))


def test_a_small_difference_of_spacing_adds_up_at_the_far_corner() -> None:
    other = np.diag([1.001, 1, 1, 1])
    assert corner_shift(np.eye(4), other, (50, 50, 50)) == pytest.approx(0.049)
    assert corner_shift(np.eye(4), other, (500, 50, 50)) == pytest.approx(0.499)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 4), -3.0), "all voxels"),
        (np.array([0.0, np.nan, 50.0]), "1 voxel is NaN"),
        (np.array([0.0, np.inf, 50.0]), "1 voxel is NaN or infinite"),
        (np.arange(200, dtype=np.uint8), "8-bit"),
        (np.arange(256, dtype=np.float32), "8-bit"),
        (np.linspace(0, 1, 50), "normalised"),
        (np.arange(0, 3000, 7), "below 0 HU"),
        (np.linspace(-1e6, 1e6, 50), "lie outside"),
    ],
)
def test_what_is_not_a_ct(array: np.ndarray[Any, Any], message: str) -> None:
    (found,) = image_findings(examine_ct_array(array.reshape(-1, 1, 1)))
    assert found.level == "error"
    assert message in found.message


@pytest.mark.parametrize(
    "array",
    [
        np.arange(-1024, 3071, dtype=np.int16),
        np.array([-3024.0] * 60 + [40.0] * 40),
        np.array([20, 60, 110, 200], dtype=np.int16),
        np.append(np.full(999, -50.0), 100_000.0),
    ],
    ids=["ct", "padded", "soft tissue", "metal"],
)
def test_what_may_be_a_ct(array: np.ndarray[Any, Any]) -> None:
    assert image_findings(examine_ct_array(array.reshape(-1, 1, 1))) == []
