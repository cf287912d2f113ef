"""Test CT series: geometry from positions, HU from rescale, one of several acquisitions, any file names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

import dicom_files as files
from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts import CaseFiles, find_cases
from patchcore.datasets.layouts.indices import with_indices
from patchcore.errors import CorruptFileError, DataError, HeaderError, UnsupportedDataError
from patchcore.volumes.types import CtImage
from patchcore.volumes.volume import DicomVolume, read_header, read_image, read_label


def only_case(folder: Path, indices: Path) -> CaseFiles:
    layout = with_indices(find_dicom(folder), indices)
    assert len(layout.cases) == 1
    return layout.cases[0]


def read_ct(folder: Path, indices: Path) -> CtImage:
    case = only_case(folder, indices)
    assert case.image is not None
    return read_image(case.image)


def test_slices_are_ordered_by_position_and_placed_in_ras(tmp_path: Path) -> None:
    series = files.ct_series()
    files.save([series[k] for k in (3, 0, 4, 1, 2)], tmp_path / "in")
    image = read_ct(tmp_path / "in", tmp_path / "x")
    np.testing.assert_array_equal(image.array, files.stored_values(series).astype(int) - 1024)
    assert image.array.dtype == np.int16
    # Columns point to the patient's left, rows to the back: both are opposite to RAS.
    expected = [[-0.7, 0, 0, 10.5], [0, -0.8, 0, 20.25], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(image.affine, expected, atol=1e-9)
    assert image.spacing == (0.7, 0.8, 2.5)


def test_header_equals_image_and_lists_every_file(tmp_path: Path) -> None:
    paths = files.save(files.ct_series(), tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    header, image = read_header(case.image), read_image(case.image)
    assert header.shape == image.array.shape == (40, 34, 5)
    np.testing.assert_array_equal(header.affine, image.affine)
    assert header.orientation == "LPS"
    assert set(case.image.files()) == {case.image.path, *paths}


def test_indices_are_only_written_where_they_change(tmp_path: Path) -> None:
    files.save(files.ct_series(), tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    before = case.image.path.stat().st_mtime_ns
    assert only_case(tmp_path / "in", tmp_path / "x").image == case.image
    assert case.image.path.stat().st_mtime_ns == before


def test_each_slice_has_its_own_rescale_and_padding_is_air(tmp_path: Path) -> None:
    series = files.ct_series()
    stored = files.stored_values(series).astype(np.float64)
    for k, item in enumerate(series):
        item.RescaleSlope, item.RescaleIntercept = 1 + k, -1000 - k
        item.PixelPaddingValue = int(stored[0, 0, k])
    files.save(series, tmp_path / "in")
    expected = stored * np.arange(1, 6) - 1000 - np.arange(5)
    expected[stored == stored[0, 0]] = -1024
    np.testing.assert_array_equal(read_ct(tmp_path / "in", tmp_path / "x").array, expected)


def test_fractional_slopes_give_float32(tmp_path: Path) -> None:
    series = files.ct_series()
    series[2].RescaleSlope = "0.25"
    files.save(series, tmp_path / "in")
    image = read_ct(tmp_path / "in", tmp_path / "x")
    assert image.array.dtype == np.float32
    stored = files.stored_values(series).astype(np.float64)
    np.testing.assert_array_equal(image.array[:, :, 2], stored[:, :, 2] * 0.25 - 1024)
    np.testing.assert_array_equal(image.array[:, :, 1], stored[:, :, 1] - 1024)


def test_signed_values_of_twelve_bits_with_rubbish_above_them(tmp_path: Path) -> None:
    series = files.ct_series(shape=(4, 3, 3))
    values = np.array([[-2048, -1, 0, 1], [2047, -1000, 5, 6], [7, 8, 9, -10]])
    for item in series:
        files.pixels(item, (values & 0x0FFF) | 0x5000, bits_stored=12, signed=True)
        item.RescaleIntercept = 0
    files.save(series, tmp_path / "in")
    np.testing.assert_array_equal(read_ct(tmp_path / "in", tmp_path / "x").array[:, :, 0], values.T)


def test_monochrome1_changes_the_display_and_not_the_numbers(tmp_path: Path) -> None:
    series = files.ct_series()
    for item in series:
        item.PhotometricInterpretation = "MONOCHROME1"
    files.save(series, tmp_path / "in")
    image = read_ct(tmp_path / "in", tmp_path / "x")
    np.testing.assert_array_equal(image.array, files.stored_values(series).astype(int) - 1024)


def test_tilted_gantry_gives_a_sheared_affine(tmp_path: Path) -> None:
    files.save(files.ct_series(step=(0, 0.5, 2.5)), tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    np.testing.assert_allclose(read_header(case.image).affine[:3, 2], [0, -0.5, 2.5], atol=1e-9)
    assert any("tilted by 11.31°" in note for note in read_header(case.image).notes)


def test_tilt_below_a_tenth_of_a_degree_is_straightened(tmp_path: Path) -> None:
    files.save(files.ct_series(step=(0, 0.002, 2.5)), tmp_path / "in")
    image = read_ct(tmp_path / "in", tmp_path / "x")
    np.testing.assert_allclose(image.affine[:3, 2], [0, 0, 2.5], atol=1e-9)


def test_sagittal_series(tmp_path: Path) -> None:
    series = files.ct_series(orientation=(0, 1, 0, 0, 0, -1), step=(-3, 0, 0))
    files.save(series, tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    assert read_header(case.image).orientation == "PIR"
    np.testing.assert_array_equal(read_image(case.image).array, files.stored_values(series).astype(int) - 1024)


def test_missing_slice_is_named_by_its_position(tmp_path: Path) -> None:
    series = files.ct_series()
    files.save(series[:2] + series[3:], tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.problem is not None
    assert "1 slice is missing at (-10.5, -20.25, 35) mm" in case.problem


def test_unequal_spacing_is_an_error_and_rounding_is_reported(tmp_path: Path) -> None:
    series = files.ct_series(shape=(40, 34, 6))
    series[2].ImagePositionPatient[2] += 0.9
    files.save(series, tmp_path / "bad")
    assert "not equally spaced" in str(only_case(tmp_path / "bad", tmp_path / "x").problem)
    series[2].ImagePositionPatient[2] -= 0.8
    files.save(series, tmp_path / "rounded")
    case = only_case(tmp_path / "rounded", tmp_path / "y")
    assert case.image is not None
    assert any("deviate from equal spacing" in note for note in read_header(case.image).notes)


def test_two_slices_at_one_position_are_an_error(tmp_path: Path) -> None:
    series = files.ct_series()
    double = files.ct_series(name="ct", seed=1)[2]
    double.SOPInstanceUID = double.file_meta.MediaStorageSOPInstanceUID = files.uid("double")
    files.save([*series, double], tmp_path / "in")
    assert "two slices lie at (-10.5, -20.25, 35) mm" in str(only_case(tmp_path / "in", tmp_path / "x").problem)


def test_the_same_file_twice_counts_once(tmp_path: Path) -> None:
    series = files.ct_series()
    files.save(series, tmp_path / "in" / "a")
    files.save(series, tmp_path / "in" / "b")
    image = read_ct(tmp_path / "in", tmp_path / "x")
    np.testing.assert_array_equal(image.array, files.stored_values(series).astype(int) - 1024)


@pytest.mark.parametrize("kept", [1, 2])
def test_of_several_acquisitions_the_one_that_is_referred_to_is_kept(tmp_path: Path, kept: int) -> None:
    acquisitions = {number: files.ct_series(seed=number) for number in (1, 2)}
    for number, series in acquisitions.items():
        for k, item in enumerate(series):
            item.AcquisitionNumber = number
            item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = files.uid(number, k)
    mask = np.ones((5, 34, 40, 1), bool)
    seg = files.segmentation(acquisitions[kept], mask, ["Liver"])
    files.save([*acquisitions[1], *acquisitions[2], seg], tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.problem is None
    assert case.image is not None
    expected = files.stored_values(acquisitions[kept]).astype(int) - 1024
    np.testing.assert_array_equal(read_image(case.image).array, expected)
    assert any("2 acquisitions" in note and "refers to" in note for note in read_header(case.image).notes)


def test_localizers_and_other_modalities_are_excluded(tmp_path: Path) -> None:
    series = files.ct_series()
    scout = files.ct_series(shape=(50, 60, 1), name="ct", orientation=(1, 0, 0, 0, 0, -1))[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = files.uid("scout")
    mr = files.dataset("1.2.840.10008.5.1.4.1.1.4", "PAT-1", files.uid("mr"), files.uid("mr", 1), "MR")
    capture = files.dataset("1.2.840.10008.5.1.4.1.1.7", "PAT-1", files.uid("sc"), files.uid("sc", 1), "OT")
    files.save([*series, scout, mr, capture], tmp_path / "in")
    layout = find_dicom(tmp_path / "in")
    assert len(layout.cases) == 1
    assert layout.cases[0].problem == "no SEG or RTSTRUCT refers to this CT"
    assert "1 MR" in layout.reason
    assert "1 localizers" in layout.reason
    np.testing.assert_array_equal(
        read_ct(tmp_path / "in", tmp_path / "x").array, files.stored_values(series).astype(int) - 1024
    )


def test_enhanced_multi_frame_ct_equals_its_slices(tmp_path: Path) -> None:
    series = files.ct_series()
    for k, item in enumerate(series):
        item.RescaleIntercept = -1000 - k
    files.save([files.enhanced([series[k] for k in (2, 0, 1, 4, 3)])], tmp_path / "in")
    image = read_ct(tmp_path / "in", tmp_path / "x")
    np.testing.assert_array_equal(image.array, files.stored_values(series).astype(int) - 1000 - np.arange(5))
    assert image.spacing == (0.7, 0.8, 2.5)


@pytest.mark.parametrize(
    "syntax", [JPEGLSLossless, RLELossless, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian]
)
def test_transfer_syntaxes(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    series = files.ct_series()
    expected = files.stored_values(series).astype(int) - 1024
    for item in series:
        if syntax.is_encapsulated:
            item.compress(
                syntax, encoding_plugin="pydicom" if syntax == RLELossless else "", generate_instance_uid=False
            )
        else:
            item.file_meta.TransferSyntaxUID = syntax
    files.save(series, tmp_path / "in")
    np.testing.assert_array_equal(read_ct(tmp_path / "in", tmp_path / "x").array, expected)


def test_nested_and_renamed_archives_with_loops_and_other_files(tmp_path: Path) -> None:
    for number in (1, 2):
        for k, item in enumerate(files.ct_series(patient=f"P/{number}")):
            files.save([item], tmp_path / "in" / f"{k % 2}", prefix=f"{number}-{k}-")
    (tmp_path / "in" / "0" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "outside").symlink_to(tmp_path)
    (tmp_path / "in" / "LICENSE").write_text("not DICOM")
    files.save(files.ct_series(patient="outside"), tmp_path / "elsewhere")
    layout = find_dicom(tmp_path / "in")
    assert [case.case_id for case in layout.cases] == ["P-1", "P-2"]
    assert [case.patient for case in layout.cases] == ["P/1", "P/2"]


def test_several_series_of_one_patient_are_reported_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        files.save(files.ct_series(name=name), tmp_path / "in" / name)
    names = [case.case_id for case in find_dicom(tmp_path / "in").cases]
    assert len(set(names)) == 2
    assert all(name.startswith("PAT-1_") for name in names)


def test_a_damaged_file_is_a_case_of_its_own_and_stops_nothing(tmp_path: Path) -> None:
    paths = files.save(files.ct_series(), tmp_path / "in")
    files.save(files.ct_series(patient="good"), tmp_path / "in" / "good")
    content = paths[4].read_bytes()
    paths[4].write_bytes(content[:200])
    layout = find_dicom(tmp_path / "in")
    assert [case.case_id for case in layout.cases][:2] == ["PAT-1", "good"]
    assert layout.cases[2].case_id.startswith("unreadable_")
    assert "f4" in str(layout.cases[2].problem)


def test_a_file_cut_within_its_pixels_is_corrupt(tmp_path: Path) -> None:
    paths = files.save(files.ct_series(), tmp_path / "in")
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    with pytest.raises(CorruptFileError, match="f1"):
        read_image(case.image)


def test_sizes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    series = files.ct_series()
    for item in series:
        item.Rows = 60000
    files.save(series, tmp_path / "in")
    with pytest.raises(DataError):
        read_ct(tmp_path / "in", tmp_path / "x")


def test_files_that_changed_since_they_were_indexed_are_refused(tmp_path: Path) -> None:
    series = files.ct_series()
    files.save(series, tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    series[2].ImagePositionPatient[0] += 5
    files.save(series, tmp_path / "in")
    with pytest.raises(HeaderError, match="position or size of a slice has changed"):
        read_image(case.image)


def test_colour_is_refused(tmp_path: Path) -> None:
    series = files.ct_series()
    for item in series:
        item.SamplesPerPixel = 3
    files.save(series, tmp_path / "in")
    with pytest.raises(UnsupportedDataError, match="colour"):
        read_ct(tmp_path / "in", tmp_path / "x")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    series = files.ct_series()
    for item in series:
        item.FloatPixelData = np.frombuffer(item.PixelData, "<i2").astype("<f4").tobytes()
        item.BitsAllocated = 32
        del item.PixelData
    files.save(series, tmp_path / "in")
    with pytest.raises(UnsupportedDataError, match="floating-point"):
        read_ct(tmp_path / "in", tmp_path / "x")


def test_a_folder_without_dicom_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no DICOM"):
        find_dicom(tmp_path)


def with_label(series: list[pydicom.Dataset], *, on: list[pydicom.Dataset] | None = None) -> list[pydicom.Dataset]:
    """Return a series with a SEG drawn on some of its slices."""
    drawn = series if on is None else on
    mask = np.zeros((len(drawn), 34, 40, 1), bool)
    mask[:, 10:20, 10:20] = True
    return [*series, files.segmentation(drawn, mask, ["Tumor"])]


def stack(positions: list[float], acquisitions: list[int]) -> list[pydicom.Dataset]:
    series = files.ct_series(shape=(40, 34, len(positions)))
    for item, z, number in zip(series, positions, acquisitions, strict=True):
        item.ImagePositionPatient = [-10.5, -20.25, z]
        item.AcquisitionNumber = number
    return series


@pytest.mark.parametrize(
    ("positions", "acquisitions", "problem"),
    [
        # Two acquisitions that follow each other, and one slice is missing.
        ([0, 4, 8, 12, 20, 24, 28], [1, 1, 1, 2, 2, 2, 2], "1 slice is missing at (-10.5, -20.25, 16) mm"),
        # Odd and even slices have different acquisition numbers, and one slice is missing.
        ([0, 4, 8, 12, 20, 24, 28, 32], [1, 2, 1, 2, 2, 1, 2, 1], "1 slice is missing at (-10.5, -20.25, 16) mm"),
        # The distance changes: 4 mm, one of 1.08 mm, then 7 mm.
        ([0, 4, 8, 12, 13.08, 20.08, 27.08], [1, 1, 1, 1, 2, 2, 2], "equally spaced from (-10.5, -20.25, 12) mm on"),
        ([0, 4, 8, 12, 16, 23, 30, 37], [1] * 8, "from (-10.5, -20.25, 16) mm on: the next gap is 7 mm"),
        # A slice was appended far away.
        ([0, 4, 8, 12, 200], [1, 1, 1, 1, 2], "46 slices are missing at (-10.5, -20.25, 16) mm"),
        ([0, 4, 12, 16, 20, 28, 32, 36, 40, 44], [1] * 10, "at (-10.5, -20.25, 8) mm, (-10.5, -20.25, 24) mm"),
    ],
)  # fmt: skip
def test_a_part_of_a_ct_is_never_taken_for_the_whole(
    tmp_path: Path, positions: list[float], acquisitions: list[int], problem: str
) -> None:
    series = stack(positions, acquisitions)
    half = [item for item in series if item.AcquisitionNumber == acquisitions[-1]]
    files.save(with_label(series, on=half[:2]), tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert problem in str(case.problem)
    assert case.image is None


def test_slices_of_another_spacing_that_continue_the_ct_are_not_dropped(tmp_path: Path) -> None:
    series = stack([0.0, 4, 8, 12, 16, 20], [1] * 6)
    for item in series[4:]:
        item.PixelSpacing = [0.9, 0.9]
    files.save(with_label(series, on=series[:4]), tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert "tilt of the slices changes at (-10.5, -20.25, 16) mm: 4 slices are alike, 2 differ" in str(case.problem)


def test_a_second_reconstruction_over_the_first_may_be_left_out(tmp_path: Path) -> None:
    series = stack([0.0, 4, 8, 12, 16, 0, 4, 8, 12, 16], [1] * 10)
    for item in series[5:]:
        item.PixelSpacing = [0.9, 0.9]
    files.save(with_label(series, on=series[:5]), tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.problem is None
    layout = find_dicom(tmp_path / "in")
    assert len(layout.ignored) == 5
    assert case.image is not None
    assert any("5 slices of another size" in note for note in read_header(case.image).notes)


def test_slices_that_a_segmentation_names_but_that_are_not_there_are_reported(tmp_path: Path) -> None:
    series = files.ct_series(shape=(40, 34, 7))
    files.save([*series[:5], *with_label(series)[-1:]], tmp_path / "in")
    case = only_case(tmp_path / "in", tmp_path / "x")
    assert case.image is not None
    assert any("refers to 2 slices that are not in the folder" in note for note in read_header(case.image).notes)


def test_links_to_files_are_followed_and_broken_ones_are_named(tmp_path: Path) -> None:
    paths = files.save(with_label(files.ct_series()), tmp_path / "store")
    root = tmp_path / "in"
    root.mkdir()
    for path in paths:
        (root / path.name).symlink_to(path)
    (root / "more").symlink_to(root)
    assert only_case(root, tmp_path / "x").problem is None
    (root / "f9.dcm").symlink_to(tmp_path / "nothing")
    (root / "README.md").symlink_to(tmp_path / "nothing")
    cases = {case.case_id: case for case in find_dicom(root).cases}
    (broken,) = (case for name, case in cases.items() if name.startswith("unreadable"))
    assert "f9.dcm: [Errno 2] a broken link" in str(broken.problem)
    image = cases["PAT-1"].image
    assert isinstance(image, DicomVolume)
    assert image.found is not None
    assert any("1 file in the folder of this CT cannot be read" in note for note in image.found.notes)


def test_every_dicom_file_is_in_a_case_or_ignored(tmp_path: Path) -> None:
    series = with_label(files.ct_series())
    scout = files.ct_series(shape=(50, 60, 1), name="ct", orientation=(1, 0, 0, 0, 0, -1))[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SOPInstanceUID = scout.file_meta.MediaStorageSOPInstanceUID = files.uid("scout")
    mr = files.dataset("1.2.840.10008.5.1.4.1.1.4", "PAT-1", files.uid("mr"), files.uid("mr", 1), "MR")
    gap = stack([0.0, 4, 8, 20, 24], [1] * 5)
    for item in gap:
        item.SeriesInstanceUID = files.uid("gap")
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = files.uid("gap", item.SOPInstanceUID)
    root = tmp_path / "in"
    files.save([*series, scout, mr], root)
    files.save(series, root / "copy")
    files.save(gap, root / "gap")
    (root / "labels.nii.gz").write_bytes(b"")
    (root / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    layout = find_cases(root)
    used = {path for case in layout.cases for volume in (case.image, case.label) for path in dicom_files_of(volume)}
    used |= {path for case in layout.cases for path in case.others}
    reasons = {item.path.relative_to(root.resolve()).as_posix(): item.reason for item in layout.ignored}
    everything = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {path.relative_to(root.resolve()).as_posix() for path in used} | reasons.keys() == everything
    assert reasons["f6"] == "a localizer"
    assert reasons["f7"] == "MR: not a CT, SEG or RTSTRUCT"
    assert reasons["labels.nii.gz"] == "not used by the layout dicom"
    assert sum(reason == "a copy of another file" for reason in reasons.values()) == 6
    assert layout.used_count == len(used)


def dicom_files_of(volume: object) -> tuple[Path, ...]:
    if not isinstance(volume, DicomVolume):
        return ()
    return (volume.path,) if volume.found is None else volume.found.files


def ircadb(root: Path, *, name: str = "3Dircadb1.1") -> tuple[list[pydicom.Dataset], np.ndarray]:
    """Write a patient of 3D-IRCADb: a CT, and masks with the values 0 and 255 as CT series of their own."""
    series = files.ct_series()
    masks = np.random.default_rng(0).random((3, 5, 34, 40)) < 0.2
    files.save(series, root / name / "PATIENT_DICOM", prefix="image_")
    for structure, mask in zip(("liver", "livertumor01", "livertumor2"), masks, strict=True):
        made = files.ct_series(name=structure)
        for item, plane in zip(made, mask, strict=True):
            files.pixels(item, plane * 255, signed=False)
        files.save(made, root / name / "MASKS_DICOM" / structure, prefix="image_")
    return series, masks


def test_ircadb_masks_are_read_beside_their_ct(tmp_path: Path) -> None:
    _series, masks = ircadb(tmp_path / "in")
    layout = with_indices(find_cases(tmp_path / "in"), tmp_path / "x")
    assert layout.name == "ircadb"
    assert dict(layout.label_names) == {1: "liver", 2: "livertumor"}
    (case,) = layout.cases
    assert (case.case_id, case.problem) == ("3Dircadb1.1", None)
    expected = np.where(masks[1] | masks[2], 2, np.where(masks[0], 1, 0)).transpose(2, 1, 0)
    np.testing.assert_array_equal(read_label(case.label).array, expected)
    counts = {row["name"]: row["voxel_count"] for row in measure_segments(case.label).segments}
    assert counts == {"liver": masks[0].sum(), "livertumor01": masks[1].sum(), "livertumor2": masks[2].sum()}


def test_masks_without_the_layout_are_recognised(tmp_path: Path) -> None:
    ircadb(tmp_path)
    shutil.move(tmp_path / "3Dircadb1.1" / "MASKS_DICOM", tmp_path / "3Dircadb1.1" / "masks")
    problems = [str(case.problem) for case in find_cases(tmp_path).cases]
    assert sum("looks like a mask that was exported as a CT" in problem for problem in problems) == 3


def test_an_incomplete_ircadb_patient_is_a_case_with_a_problem(tmp_path: Path) -> None:
    ircadb(tmp_path)
    shutil.rmtree(tmp_path / "3Dircadb1.1" / "MASKS_DICOM")
    (tmp_path / "3Dircadb1.1" / "MASKS_DICOM").mkdir()
    (case,) = find_cases(tmp_path).cases
    assert "MASKS_DICOM/ holds no mask" in str(case.problem)


def test_every_folder_of_ircadb_is_a_case_or_ignored(tmp_path: Path) -> None:
    root = tmp_path / "in"
    ircadb(root, name="whole")
    ircadb(root, name="no_masks")
    shutil.rmtree(root / "no_masks" / "MASKS_DICOM")
    ircadb(root, name="a/b/c/d/deep")
    files.save(files.ct_series(name="labelled"), root / "whole" / "LABELLED_DICOM", prefix="image_")
    files.save(files.ct_series(name="linked"), tmp_path / "elsewhere")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    layout = find_cases(root)
    problems = {case.case_id: case.problem for case in layout.cases}
    assert problems == {"whole": None, "no_masks": "MASKS_DICOM/ holds no mask", "deep": None}
    reasons = {item.path.relative_to(root).parts[:2]: item.reason for item in layout.ignored}
    assert reasons.pop(("link",)) == "a link to another folder, which is not searched"
    assert reasons == {("whole", "LABELLED_DICOM"): "not in its two folders (PATIENT_DICOM, MASKS_DICOM)"}
    assert layout.used_count == 20 + 5 + 20


def test_patients_of_one_name_in_two_folders_have_different_ids(tmp_path: Path) -> None:
    for site in ("a", "b"):
        ircadb(tmp_path / site, name="p1")
    names = [case.case_id for case in find_cases(tmp_path).cases]
    assert len(set(names)) == 2
    assert all(name.startswith("p1_") for name in names)
