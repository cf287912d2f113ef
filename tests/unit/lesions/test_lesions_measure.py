"""Tests measuring: diameters, every kind of file, rejected input."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import patchcore as pc
from patchcore.errors import CorruptFileError, DataError, HeaderError, NonIntegralLabelError, UnsupportedDataError
from patchcore.lesions.measure import lesion_spans, read_header

AFFINE = np.array([[0, 0, -2.5, 40], [0.8, 0, 0, -30], [0, 0.7, 0, 12], [0, 0, 0, 1.0]])


def blobs(shape: tuple[int, int, int] = (40, 36, 20), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    label_map = np.zeros(shape, np.uint8)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for label in (1, 2, 1, 2, 2):
        centre, radius = rng.uniform(0, shape), rng.uniform(2, 5)
        label_map[np.linalg.norm(grid - centre, axis=-1) < radius] = label
    return label_map


def same(a: pc.Lesions, b: pc.Lesions) -> None:
    assert len(a) == len(b) > 0
    for name in a.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_the_diameter_is_that_of_the_largest_slice() -> None:
    mask = np.zeros((30, 30, 9), bool)
    mask[3:8, 4, 2] = True  # 4 steps of 1 mm
    mask[3, 4:11, 3] = True  # 6 steps of 0.5 mm
    mask[3:7, 4:8, 4] = True  # 3 × 3 steps, diagonal
    mask[3, 4, 2:8] = True  # along the normal: does not count
    lesions = pc.measure_lesions(mask, spacing=(1.0, 0.5, 10.0))
    assert lesions.longest_axial_diameter_mm.tolist() == [4.0]
    sideways = pc.measure_lesions(mask, spacing=(1.0, 0.5, 10.0), axial_axis=0)
    assert sideways.longest_axial_diameter_mm[0] == 50.0


def test_a_sheared_affine_measures_true_distances() -> None:
    mask = np.zeros((8, 8, 3), bool)
    mask[2, 2, 1] = mask[3, 3, 1] = mask[4, 4, 1] = True
    affine = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    lesions = pc.measure_lesions(mask, affine=affine)
    assert lesions.longest_axial_diameter_mm[0] == pytest.approx(np.hypot(3.0, 2.0))
    assert lesions.volume_mm3[0] == pytest.approx(6.0)


def test_a_thin_oblique_lesion_takes_the_sparse_path() -> None:
    mask = np.zeros((300, 300, 300), bool)
    steps = np.arange(300)
    mask[steps, steps, steps] = True
    mask[100, 100, 100:140] = True
    for axis in range(3):
        # For axes 0 and 1, one slice holds the whole branch. For axis 2, a slice holds one voxel of the branch and one
        # of the diagonal.
        expected = 39 * np.sqrt(2) if axis == 2 else 39.0
        lesions = pc.measure_lesions(mask, axial_axis=axis)
        assert lesions.longest_axial_diameter_mm.tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".img.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">u4", "<i8", "<f4", ">f8"])
def test_files_equal_arrays(tmp_path: Path, suffix: str, kind: type, dtype: str) -> None:
    if suffix.startswith(".img"):
        kind = nib.Nifti1Pair if kind is nib.Nifti1Image else nib.Nifti2Pair
    label_map = blobs()
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(dtype)
    image = kind(label_map.astype(dtype), AFFINE, header)
    path = tmp_path / f"case{suffix}"
    nib.save(image, path)
    from_file = pc.measure_lesions(path)
    same(from_file, pc.measure_lesions(label_map, affine=from_file.affine))
    np.testing.assert_allclose(from_file.affine, nib.load(path).affine, rtol=1e-12, atol=1e-15)
    assert pc.measure_lesions(path, label=2).label.tolist() == [2] * int((from_file.label == 2).sum())
    if suffix.startswith(".img"):
        same(pc.measure_lesions(str(path).replace(".img", ".hdr")), from_file)


@pytest.mark.parametrize("forms", ["sform", "qform", "neither"])
def test_the_affine_is_nibabels(tmp_path: Path, forms: str) -> None:
    image = nib.Nifti1Image(blobs(), AFFINE)
    rotation = np.array([[0.36, 0.48, -0.8, 7], [-0.8, 0.6, 0, -4], [0.48, 0.64, 0.6, 2], [0, 0, 0, 1]])
    oblique = rotation @ np.diag([0.7, 0.8, -2.5, 1])
    image.set_sform(oblique, 1 if forms == "sform" else 0)
    image.set_qform(oblique, 1 if forms == "qform" else 0)
    path = tmp_path / "case.nii.gz"
    nib.save(image, path)
    loaded = nib.load(path)
    header = read_header(path)
    np.testing.assert_allclose(header.affine, loaded.affine, rtol=1e-12, atol=1e-15)
    assert header.shape == loaded.shape
    np.testing.assert_allclose(header.spacing, np.linalg.norm(loaded.affine[:3, :3], axis=0), rtol=1e-12)


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    stored = nib.Nifti1Image(2 * blobs().astype(np.int16) + 2, AFFINE)
    stored.header.set_slope_inter(0.5, -1)
    path = tmp_path / "case.nii.gz"
    nib.save(stored, path)
    np.testing.assert_array_equal(nib.load(path).get_fdata(), blobs())
    lesions = pc.measure_lesions(path)
    same(lesions, pc.measure_lesions(blobs(), affine=lesions.affine))


def test_masks_of_255_and_odd_booleans_are_one_label() -> None:
    mask = blobs() > 0
    odd = np.where(mask, np.where(np.indices(mask.shape)[2] % 2, 255, 1), 0).astype(np.uint8).view(bool)
    same(pc.measure_lesions(odd), pc.measure_lesions(mask))
    assert set(pc.measure_lesions(mask.astype(np.uint8) * 255).label.tolist()) == {255}


def test_specks_are_dropped_and_counted() -> None:
    lesions = pc.measure_lesions(blobs(), spacing=(1, 1, 1), label=2)
    cut = float(np.median(lesions.volume_mm3))
    kept = pc.measure_lesions(blobs(), spacing=(1, 1, 1), label=2, min_volume_mm3=cut)
    assert kept.volume_mm3.min() >= cut
    assert len(kept) + kept.speck_count == len(lesions)
    assert kept.voxel_count.sum() + kept.speck_voxel_count == lesions.voxel_count.sum()


def test_an_empty_map_has_no_lesions() -> None:
    for shape in [(4, 4, 4), (0, 4, 4), (4, 4, 0)]:
        lesions = pc.measure_lesions(np.zeros(shape, np.uint8))
        assert len(lesions) == 0
        assert lesions.centroid_mm.shape == (0, 3)
        assert pc.label_components(np.zeros(shape, np.uint8)).shape == shape


def test_the_label_image_lies_in_memory_as_the_input() -> None:
    label_map = np.asfortranarray(blobs())
    assert pc.label_components(label_map).flags.f_contiguous
    many = np.zeros((64, 64, 64), bool)
    many[::2, ::2, ::2] = True
    assert pc.label_components(many).dtype == np.uint16
    assert pc.label_components(many).max() == 32**3


def gzip_of(tmp_path: Path, name: str = "case.nii.gz") -> tuple[Path, bytes]:
    path = tmp_path / name
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, 3, (64, 64, 64)).astype(np.uint8), AFFINE), path)
    return path, path.read_bytes()


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95, 0.9999])
def test_truncated_gzip_is_refused(tmp_path: Path, keep: float) -> None:
    path, whole = gzip_of(tmp_path)
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises((CorruptFileError, HeaderError), match=r"case\.nii\.gz"):
        pc.measure_lesions(path)


def test_a_flipped_bit_fails_the_checksum(tmp_path: Path) -> None:
    path, whole = gzip_of(tmp_path)
    raw = bytearray(gzip.decompress(whole))
    stored = bytearray(gzip.compress(bytes(raw), compresslevel=0))
    stored[len(stored) // 2] ^= 1
    path.write_bytes(stored)
    with pytest.raises(CorruptFileError, match="damaged"):
        pc.measure_lesions(path)


def test_headers_that_lie_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path, whole = gzip_of(tmp_path)
    raw = bytearray(gzip.decompress(whole))
    for dims, error in [((30000, 30000, 30000), HeaderError), ((64, 64, 65), CorruptFileError)]:
        raw[42:48] = np.array(dims, "<i2").tobytes()
        path.write_bytes(gzip.compress(bytes(raw)))
        with pytest.raises(error):
            pc.measure_lesions(path)
        plain = tmp_path / "plain.nii"
        plain.write_bytes(raw)
        with pytest.raises(CorruptFileError, match="header is damaged"):
            read_header(plain)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda h: h.__setitem__("dim", [4, 8, 8, 8, 3, 1, 1, 1]), UnsupportedDataError, "not 3D"),
        (lambda h: h.__setitem__("dim", [3, 8, -8, 8, 1, 1, 1, 1]), HeaderError, "voxels"),
        (lambda h: h.__setitem__("dim", [9, 8, 8, 8, 1, 1, 1, 1]), HeaderError, "dimensions"),
        (lambda h: h.__setitem__("datatype", 128), UnsupportedDataError, "colours"),
        (lambda h: h.__setitem__("datatype", 77), HeaderError, "datatype"),
        (lambda h: h.__setitem__("pixdim", [1, np.nan, 1, 1, 0, 0, 0, 0]), HeaderError, "spacing"),
        (lambda h: h.__setitem__("srow_x", [0, 0, 0, 0]), HeaderError, "impossible"),
        (lambda h: h.__setitem__("srow_x", [np.inf, 0, 0, 0]), HeaderError, "impossible"),
        (lambda h: h.__setitem__("magic", b"xyz"), HeaderError, "magic"),
        (lambda h: h.__setitem__("vox_offset", np.nan), HeaderError, "vox_offset"),
        (lambda h: h.__setitem__("xyzt_units", 3), UnsupportedDataError, "micrometres"),
        (lambda h: h.__setitem__("sizeof_hdr", 17), HeaderError, "not a NIfTI"),
    ],
)
def test_malformed_headers_say_what_is_wrong(tmp_path: Path, change, error: type, word: str) -> None:
    image = nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4))
    image.header["vox_offset"] = 352
    image.header["magic"] = b"n+1"
    change(image.header)
    path = tmp_path / "case.nii"
    path.write_bytes(image.header.binaryblock + bytes(4) + bytes(8 * 8 * 8 * 3))
    with pytest.raises(error, match=word) as caught:
        pc.measure_lesions(path)
    assert str(path) in str(caught.value)


def test_no_file_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.nii"):
        pc.measure_lesions(tmp_path / "nothing.nii")
    with pytest.raises(IsADirectoryError):
        pc.measure_lesions(tmp_path)


def test_fractions_are_not_labels(tmp_path: Path) -> None:
    label_map = blobs().astype(np.float32)
    label_map[5, 5, 5] = 0.5
    with pytest.raises(NonIntegralLabelError, match=r"0\.5"):
        pc.measure_lesions(label_map)
    nib.save(nib.Nifti1Image(label_map, AFFINE), tmp_path / "case.nii.gz")
    with pytest.raises(NonIntegralLabelError, match=r"case\.nii\.gz"):
        pc.measure_lesions(tmp_path / "case.nii.gz")
    with pytest.raises(NonIntegralLabelError):
        pc.measure_lesions(np.full((2, 2, 2), np.nan))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"connectivity": 8}, DataError),
        ({"label": 0}, DataError),
        ({"labels": []}, DataError),
        ({"label": 1, "labels": [1]}, DataError),
        ({"spacing": (1, 1, 1), "affine": np.eye(4)}, DataError),
        ({"spacing": (1, 1, float("nan"))}, HeaderError),
        ({"spacing": (1, 0, 1)}, HeaderError),
        ({"affine": np.eye(3)}, DataError),
        ({"affine": np.zeros((4, 4))}, HeaderError),
        ({"axial_axis": 3}, DataError),
        ({"min_volume_mm3": float("nan")}, DataError),
    ],
)
def test_impossible_arguments(arguments: dict, error: type) -> None:
    with pytest.raises(error):
        pc.measure_lesions(blobs(), **arguments)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4)),
        np.zeros((2, 2, 2, 2)),
        np.zeros((2, 2, 2), complex),
        np.zeros((2, 2, 2), np.float16),
        np.zeros((2, 2, 2), object),
    ],
)
def test_arrays_that_are_not_label_map(array: np.ndarray) -> None:
    with pytest.raises(UnsupportedDataError):
        pc.measure_lesions(array)


def test_a_file_is_never_held_whole(tmp_path: Path) -> None:
    """256 MiB of voxels are measured with a few tens of MiB of memory."""
    path = tmp_path / "large.nii.gz"
    label_map = np.zeros((512, 512, 1024), np.uint8)
    label_map[200:230, 100:140, 30:900] = 1
    image = nib.Nifti1Image(label_map, AFFINE)
    with gzip.open(path, "wb", compresslevel=1) as stream:
        image.header["vox_offset"] = 352
        image.header["magic"] = b"n+1"
        stream.write(image.header.binaryblock + bytes(4))
        stream.write(label_map.tobytes(order="F"))
    code = (
        # Not getrusage: its maximum survives exec, so it would start with the memory of the parent.
        "import re, patchcore as pc, patchcore.lesions.measure\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        f"lesions = pc.measure_lesions({str(path)!r})\n"
        "assert lesions.voxel_count.tolist() == [30 * 40 * 870]\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert int(done.stdout) < 64 * 1024


def test_ctrl_c_is_heard() -> None:
    code = (
        "import numpy as np, patchcore as pc, patchcore.lesions.measure\n"
        "mask = np.random.default_rng(0).random((160, 512, 512), np.float32) < 0.3\n"
        "print('go', flush=True)\n"
        "try:\n"
        "    while True: pc.measure_lesions(mask)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        # Otherwise the process would measure forever and slow down all later tests.
        process.kill()
    assert (out, process.returncode) == ("stopped\n", 0)


def test_the_gil_is_released() -> None:
    mask = np.random.default_rng(0).random((64, 512, 512), np.float32) < 0.5
    ticks = 0
    done = threading.Event()

    def measure() -> None:
        pc.measure_lesions(mask, threads=1)
        done.set()

    thread = threading.Thread(target=measure)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks > 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_measures_too() -> None:
    mask = np.random.default_rng(0).random((32, 256, 256), np.float32) < 0.3
    expected = len(pc.measure_lesions(mask))
    child = os.fork()
    if child == 0:
        os._exit(0 if len(pc.measure_lesions(mask)) == expected else 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the forked child hangs")


def test_spans_cover_the_lesions() -> None:
    spans = lesion_spans(blobs(), labels=[2])
    assert spans.lesion_count == len(pc.measure_lesions(blobs(), label=2))
    assert spans.length.sum() == (blobs() == 2).sum()
    np.testing.assert_array_equal(np.bincount(spans.lesion, spans.length), spans.voxel_count)


def test_the_axial_axis_of_a_file_can_be_chosen(tmp_path: Path) -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[5, 5, 1:11] = 1
    path = tmp_path / "rod.nii"
    nib.save(nib.Nifti1Image(mask, AFFINE), path)
    stored = read_header(path)
    assert stored.axial_axis == 1  # the column that points along world S
    for axis in (None, 0, 1, 2):
        from_array = pc.measure_lesions(mask, affine=stored.affine, axial_axis=axis)
        same(pc.measure_lesions(path, axial_axis=axis), from_array)
    assert pc.measure_lesions(path, axial_axis=2).longest_axial_diameter_mm.tolist() == [0.0]
    assert pc.measure_lesions(path, axial_axis=0).longest_axial_diameter_mm.tolist() == [9 * 2.5]
    with pytest.raises(DataError, match="has its own"):
        pc.measure_lesions(path, spacing=(1, 1, 1))


def test_a_long_solid_lesion_along_the_slices() -> None:
    mask = np.zeros((20, 16, 3000), bool)
    mask[4:10, 3:7] = True
    assert pc.measure_lesions(mask, axial_axis=2).longest_axial_diameter_mm[0] == pytest.approx(np.hypot(5, 3))


def test_zero_padding_and_members_of_gzip_are_read(tmp_path: Path) -> None:
    path, whole = gzip_of(tmp_path)
    expected = pc.measure_lesions(path)
    path.write_bytes(whole + bytes(512))
    same(pc.measure_lesions(path), expected)
    raw = gzip.decompress(whole)
    path.write_bytes(gzip.compress(raw[:5000]) + bytes(7) + gzip.compress(raw[5000:]))
    same(pc.measure_lesions(path), expected)
    path.write_bytes(whole + b"rubbish that is no gzip")
    with pytest.raises(CorruptFileError, match="damaged"):
        pc.measure_lesions(path)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe.nii"
    os.mkfifo(path)
    with pytest.raises(UnsupportedDataError, match="pipe"):
        pc.measure_lesions(path)


def test_a_slope_with_an_impossible_intercept_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(blobs(), AFFINE)
    path = tmp_path / "case.nii"
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2, np.nan], "<f4").tobytes()
    path.write_bytes(raw)
    with pytest.raises(HeaderError, match="scl_inter"):
        pc.measure_lesions(path)


@pytest.mark.parametrize(
    "arguments", [{"label": 1.9}, {"label": 2**70}, {"threads": -1}, {"threads": 0}, {"axial_axis": -1}]
)
def test_arguments_out_of_range(arguments: dict) -> None:
    with pytest.raises(DataError):
        pc.measure_lesions(blobs(), **arguments)


def test_masked_arrays_are_refused() -> None:
    with pytest.raises(UnsupportedDataError, match="masked"):
        pc.measure_lesions(np.ma.masked_equal(blobs(), 2))


def test_missing_files_keep_their_error_number(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        pc.measure_lesions(tmp_path / "none.nii.gz")
    assert (caught.value.errno, caught.value.filename) == (2, str(tmp_path / "none.nii.gz"))


@pytest.mark.slow
def test_eight_gigavoxels_in_a_memory_map(tmp_path):
    """Offsets above 2³¹ and 2³² are correct, and memory does not grow with the number of voxels."""
    edge = 2048
    path = tmp_path / "mask.raw"
    with path.open("wb") as file:
        file.truncate(edge**3)
    mask = np.memmap(path, np.uint8, "r+", shape=(edge,) * 3)
    mask[:, 1000, 1000] = 1
    mask[3:7, 10:20, 30:33] = 1
    mask[600:604, 5:9, 7] = 1
    mask[1500:1503, 100:105, 2040:] = 2
    mask[-1, -1, -1] = 1
    mask.flush()
    code = """
import json, re, sys, threading, numpy as np, patchcore.lesions.measure as v
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
mask = np.memmap(sys.argv[1], np.uint8, "r", shape=(2048,) * 3)
v.measure_lesions(np.ones((2, 2, 2), bool))
before = most = anonymous()
done = threading.Event()
def watch():
    global most
    while not done.wait(0.01):
        most = max(most, anonymous())
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
found = v.measure_lesions(mask, spacing=(0.5, 0.5, 0.5))
spans = v.lesion_spans(mask)
done.set()
watcher.join()
columns = ("label", "voxel_count", "volume_mm3", "bbox_start", "bbox_stop", "centroid_voxel")
print(json.dumps({name: getattr(found, name).tolist() for name in columns}
      | {"kib": max(most, anonymous()) - before, "spans": len(spans.lesion), "last": spans.origin[-1].tolist()}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, encoding="utf-8")
    found = json.loads(done.stdout)
    assert found["label"] == [1, 1, 1, 2, 1]
    assert found["voxel_count"] == [2048, 120, 16, 120, 1]
    assert found["volume_mm3"] == [256, 15, 2, 15, 0.125]
    assert found["bbox_start"] == [[0, 1000, 1000], [3, 10, 30], [600, 5, 7], [1500, 100, 2040], [2047, 2047, 2047]]
    assert found["bbox_stop"][3:] == [[1503, 105, 2048], [2048, 2048, 2048]]
    assert found["centroid_voxel"][0] == [1023.5, 1000, 1000]
    assert found["centroid_voxel"][3] == [1501, 102, 2043.5]
    assert (found["spans"], found["last"]) == (2048 + 40 + 16 + 15 + 1, [2047, 2047, 2047])
    assert found["kib"] <= 1 << 20
