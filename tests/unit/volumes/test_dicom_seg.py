"""Tests DICOM SEG: every encoding, frames placed by reference or position, overlaps, names, measurements."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from scipy import ndimage

import dicom_files as files
from patchcore.datasets.check import check_dataset
from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts import CaseFiles, Layout
from patchcore.datasets.layouts.indices import with_indices
from patchcore.errors import DataError, HeaderError
from patchcore.volumes.dicom.names import label_numbers
from patchcore.volumes.volume import read_header, read_image, read_label

NAMES = ("Liver", "Tumor_1", "Tumor_2")
WRITTEN = [
    (kind, syntax)
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP")
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless)
    if kind != "BINARY" or syntax not in (RLELossless, JPEGLSLossless)
]


def masks(*, overlapping: bool = False) -> np.ndarray:
    """Liver and two tumours, shape (slices, rows, columns, segments)."""
    made = np.zeros((5, 34, 40, 3), bool)
    made[1:4, 4:30, 3:35, 0] = True
    made[1:3, 6:10, 5:11, 1] = True
    made[3:5, 20:24, 15:23, 2] = np.random.default_rng(0).random((2, 4, 8)) > 0.3
    if not overlapping:
        made[..., 0] &= ~made[..., 1:].any(axis=-1)
    return made


def layout_of(folder: Path) -> Layout:
    return with_indices(find_dicom(folder / "in"), folder / "x")


def only_case(folder: Path) -> CaseFiles:
    (case,) = layout_of(folder).cases
    assert case.problem is None
    return case


def painted(made: np.ndarray) -> np.ndarray:
    """Return the expected label map in stored order: liver 1, tumours 2 on top."""
    volume = made[..., 0].astype(np.uint8)
    volume[made[..., 1:].any(axis=-1)] = 2
    return volume.transpose(2, 1, 0)


@pytest.mark.parametrize("omit", [True, False])
@pytest.mark.parametrize(("kind", "syntax"), WRITTEN)
def test_every_encoding_that_highdicom_writes(tmp_path: Path, kind: str, syntax: str, omit: bool) -> None:
    series, made = files.ct_series(), masks()
    array = made * 0.9 + 0.05 if kind == "FRACTIONAL" else made
    seg = files.segmentation(series, array, NAMES, kind=kind, syntax=syntax, omit_empty_frames=omit)
    files.save([*series, seg], tmp_path / "in")
    case = only_case(tmp_path)
    label = read_label(case.label)
    np.testing.assert_array_equal(label.array, painted(made))
    assert case.image is not None
    np.testing.assert_array_equal(label.affine, read_image(case.image).affine)
    measured = measure_segments(case.label)
    assert [row["voxel_count"] for row in measured.segments] == made.sum(axis=(0, 1, 2)).tolist()
    assert any("fractional" in note.text for note in measured.notes) == (kind == "FRACTIONAL")


def test_frames_in_any_order_and_without_references_go_by_position(tmp_path: Path) -> None:
    series, made = files.ct_series(), masks()
    seg = files.segmentation(series, made, NAMES, omit_empty_frames=False)
    frames = list(seg.PerFrameFunctionalGroupsSequence)
    order = np.random.default_rng(3).permutation(len(frames))
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")[: len(frames) * 34 * 40]
    seg.PixelData = np.packbits(bits.reshape(len(frames), -1)[order].ravel(), bitorder="little").tobytes()
    seg.PerFrameFunctionalGroupsSequence = [frames[n] for n in order]
    for frame in frames:
        del frame.DerivationImageSequence
    files.save([*series, seg], tmp_path / "in")
    np.testing.assert_array_equal(read_label(only_case(tmp_path).label).array, painted(made))


@pytest.mark.parametrize("flip", [(False, True), (True, False), (True, True)])
def test_frames_flipped_in_plane_fall_on_the_same_voxels(tmp_path: Path, flip: tuple[bool, bool]) -> None:
    series, made = files.ct_series(), masks()
    mirrored = copy.deepcopy(series)
    for item in mirrored:
        along = np.array([float(v) for v in item.ImageOrientationPatient])
        at = np.array([float(v) for v in item.ImagePositionPatient])
        if flip[0]:
            at, along[3:] = at + along[3:] * 0.8 * 33, -along[3:]
        if flip[1]:
            at, along[:3] = at + along[:3] * 0.7 * 39, -along[:3]
        item.ImageOrientationPatient, item.ImagePositionPatient = along.tolist(), at.round(6).tolist()
    view = made[:, :: -1 if flip[0] else 1, :: -1 if flip[1] else 1]
    files.save([*series, files.segmentation(mirrored, view, NAMES)], tmp_path / "in")
    np.testing.assert_array_equal(read_label(only_case(tmp_path).label).array, painted(made))


def test_rows_and_columns_exchanged(tmp_path: Path) -> None:
    series, made = files.ct_series(), masks()
    turned = files.ct_series(shape=(34, 40, 5), orientation=(0, 1, 0, 1, 0, 0), spacing=(0.7, 0.8))
    seg = files.segmentation(turned, made.transpose(0, 2, 1, 3), NAMES)
    files.save([*series, seg], tmp_path / "in")
    np.testing.assert_array_equal(read_label(only_case(tmp_path).label).array, painted(made))


def test_a_frame_off_the_grid_is_named_with_its_distance(tmp_path: Path) -> None:
    series = files.ct_series()
    seg = files.segmentation(series, masks(), NAMES)
    frame = seg.PerFrameFunctionalGroupsSequence[1]
    del frame.DerivationImageSequence
    frame.PlanePositionSequence[0].ImagePositionPatient[2] += 1.0
    files.save([*series, seg], tmp_path / "in")
    with pytest.raises(DataError, match=r"frame 2 at \(.*\) mm lies 1 mm off"):
        read_label(only_case(tmp_path).label)


def test_a_frame_near_the_slice_it_refers_to_is_put_there_and_reported(tmp_path: Path) -> None:
    series, made = files.ct_series(), masks()
    seg = files.segmentation(series, made, NAMES)
    for position in {id(f.PlanePositionSequence[0]): f for f in seg.PerFrameFunctionalGroupsSequence}.values():
        position.PlanePositionSequence[0].ImagePositionPatient[2] += 1.0
    files.save([*series, seg], tmp_path / "in")
    case = only_case(tmp_path)
    np.testing.assert_array_equal(read_label(case.label).array, painted(made))
    assert any("1 mm off the slices" in note.text for note in measure_segments(case.label).notes)


def test_overlaps_cost_no_label_a_voxel(tmp_path: Path) -> None:
    series, made = files.ct_series(), masks(overlapping=True)
    files.save([*series, files.segmentation(series, made, NAMES)], tmp_path / "in")
    case = only_case(tmp_path)
    measured = measure_segments(case.label, connectivity=26)
    by_label = {1: made[..., 0], 2: made[..., 1:].any(axis=-1)}
    counts = measured.lesions.voxel_count
    labels = measured.lesions.label
    assert len(measured.lesions) == len(counts)
    for label, mask in by_label.items():
        numbered, count = ndimage.label(mask, np.ones((3, 3, 3)))
        assert sorted(counts[labels == label]) == sorted(np.bincount(numbered.ravel())[1:])
        assert (labels == label).sum() == count
    np.testing.assert_array_equal(read_label(case.label).array, painted(made))


def test_segments_keep_their_identity_and_disagreements_are_reported(tmp_path: Path) -> None:
    series, made = files.ct_series(), np.zeros((5, 34, 40, 4), bool)
    made[1, 2:5, 2:5, 0] = made[1, 5:7, 2:5, 1] = True
    made[3, 20:22, 20:22, 2] = made[3, 30:32, 30:32, 2] = True
    made[0, 33, 39, 3] = True
    seg = files.segmentation(series, made, ["Tumor_1", "Tumor_2", "Tumor_3", "Tumor_4"])
    files.save([*series, seg], tmp_path / "in")
    case = only_case(tmp_path)
    measured = measure_segments(case.label, min_volume_mm3=2.0)
    assert measured.lesions.speck_count == 1
    assert measured.lesions.voxel_count.tolist() == [15, 4, 4]
    assert [row["lesions"] for row in measured.segments] == [[0], [0], [1, 2], []]
    assert [row["components"] for row in measured.segments] == [1, 1, 2, 1]
    notes = " / ".join(note.text for note in measured.notes)
    assert "Tumor_1 and Tumor_2 touch or overlap: one component contains 2 segments" in notes
    assert "Tumor_3 consists of 2 components" in notes


def test_given_affine_scales_volumes(tmp_path: Path) -> None:
    series = files.ct_series()
    files.save([*series, files.segmentation(series, masks(), NAMES)], tmp_path / "in")
    path = only_case(tmp_path).label
    affine = read_header(path).affine.copy()
    affine[:, 2] *= 2
    plain, scaled = measure_segments(path), measure_segments(path, affine=affine)
    np.testing.assert_allclose(scaled.lesions.volume_mm3, plain.lesions.volume_mm3 * 2)
    assert scaled.segments[0]["volume_mm3"] == pytest.approx(plain.segments[0]["volume_mm3"] * 2)


def test_several_segs_of_one_ct_are_combined_and_reported(tmp_path: Path) -> None:
    series, made = files.ct_series(), masks()
    liver = files.segmentation(series, made[..., :1], ["Liver"], key="a")
    tumours = files.segmentation(series, made[..., 1:], ["Tumor_1", "Tumor_2"], key="b")
    files.save([*series, liver, tumours], tmp_path / "in")
    case = only_case(tmp_path)
    np.testing.assert_array_equal(read_label(case.label).array, painted(made))
    assert any("2 SEG objects" in note.text for note in measure_segments(case.label).notes)
    (checked,) = check_dataset(tmp_path / "in").cases
    assert [item.message for item in checked.findings if "2 SEG objects" in item.message] == [
        note.text for note in measure_segments(case.label).notes if "2 SEG objects" in note.text
    ]


def test_seg_without_ct_is_measured_on_its_own_grid(tmp_path: Path) -> None:
    series, made = files.ct_series(), masks()
    made[2] = False
    files.save([files.segmentation(series, made, NAMES)], tmp_path / "in")
    case = only_case(tmp_path)
    assert case.image is None
    label = read_label(case.label)
    np.testing.assert_array_equal(label.array, painted(made)[:, :, 1:])
    assert label.spacing == (0.7, 0.8, 2.5)
    assert label.affine[2, 3] == pytest.approx(32.5)


def test_seg_of_another_modality_is_ignored(tmp_path: Path) -> None:
    series, other = files.ct_series(), files.ct_series(name="mr")
    seg = files.segmentation(other, masks(), NAMES)
    for item in other:
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        item.Modality = "MR"
    files.save([*series, *other, seg], tmp_path / "in")
    (case,) = layout_of(tmp_path).cases
    assert case.problem == "no SEG or RTSTRUCT refers to this CT"
    assert case.label.found is None


@pytest.mark.parametrize("keep_frame", [True, False])
def test_seg_that_names_no_series_finds_its_ct(tmp_path: Path, keep_frame: bool) -> None:
    series, made = files.ct_series(), masks()
    away = files.ct_series(name="far", origin=(500, 0, 0))
    seg = files.segmentation(series, made, NAMES)
    del seg.ReferencedSeriesSequence
    for frame in seg.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    if not keep_frame:
        del seg.FrameOfReferenceUID
    files.save([*series, *away, seg], tmp_path / "in")
    (case,) = (case for case in layout_of(tmp_path).cases if case.problem is None)
    np.testing.assert_array_equal(read_label(case.label).array, painted(made))


def test_labels_are_numbered_over_the_cohort(tmp_path: Path) -> None:
    for number, names in enumerate(
        (["Tumor_1", "Tumor_7"], ["Liver_Remnant", "Tumor_1"], ["Liver Remnant", "Hepatic"])
    ):
        series = files.ct_series(patient=f"P{number}")
        seg = files.segmentation(series, masks()[..., 1:], names)
        files.save([*series, seg], tmp_path / "in", prefix=f"{number}-")
    layout = layout_of(tmp_path)
    assert dict(layout.label_names) == {1: "Hepatic", 2: "Liver Remnant", 3: "Tumor"}
    assert [sorted(np.unique(read_label(case.label).array)) for case in layout.cases] == [[0, 3], [0, 2, 3], [0, 1, 2]]


def test_label_numbers_do_not_depend_on_order() -> None:
    names = ["Tumor", "liver", "Lesion", "Liver", "tumor"]
    assert label_numbers(names) == label_numbers(reversed(names)) == {"Lesion": 1, "Liver": 2, "Tumor": 3}


def test_a_name_that_looks_numbered_twice_is_found_again(tmp_path: Path) -> None:
    series = files.ct_series()
    names = ["Nodule 1 - Annotation IL057_127364", "Lesion 3 4", "Segment_2", "GTV-1 (reader A)", "ROI 7 #2"]
    seg = files.segmentation(series, masks()[..., [1, 1, 1, 1, 1]], names)
    files.save([*series, seg], tmp_path / "in")
    measured = measure_segments(only_case(tmp_path).label)
    assert {row["label_name"] for row in measured.segments} == {"Nodule", "Lesion 3", "Segment 2", "GTV", "ROI 7"}


def test_voxels_beyond_the_ct_are_left_out_and_counted(tmp_path: Path) -> None:
    longer = files.ct_series(shape=(40, 34, 8))
    made = np.zeros((8, 34, 40, 1), bool)
    made[3:7, 10:14, 10:14] = True
    seg = files.segmentation(longer, made, ["Couch"])
    files.save([*longer[:5], seg], tmp_path / "in")
    measured = measure_segments(only_case(tmp_path).label)
    assert [row["voxel_count"] for row in measured.segments] == [32]
    (note,) = (note for note in measured.notes if note.check == "roi-outside")
    assert "segment Couch: 32 voxels on 2 frames lie outside the CT" in note.text


def test_a_frame_of_an_unlisted_segment_is_an_error(tmp_path: Path) -> None:
    series = files.ct_series()
    seg = files.segmentation(series, masks(), NAMES)
    del seg.SegmentSequence[2]
    files.save([*series, seg], tmp_path / "in")
    with pytest.raises(HeaderError, match="segment 3, which is not listed"):
        read_label(only_case(tmp_path).label)


def test_more_frames_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    series = files.ct_series()
    seg = files.segmentation(series, masks(), NAMES)
    seg.NumberOfFrames = 1_000_000
    files.save([*series, seg], tmp_path / "in")
    with pytest.raises(DataError, match="promises"):
        read_label(only_case(tmp_path).label)
