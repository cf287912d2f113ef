"""Tests RTSTRUCT: contours are rasterised by pixel centres; holes, keyholes, slices found by position."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import dicom_files as files
import patchcore as pc
from patchcore.datasets.check import check_dataset
from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts import CaseFiles
from patchcore.datasets.layouts.indices import with_indices
from patchcore.volumes.dicom.contours import inside
from patchcore.volumes.dicom.options import SegmentOptions
from patchcore.volumes.volume import read_label


def square(low: float, high: float, k: float) -> np.ndarray:
    """A square from voxel `low` to `high` along columns and rows, as points in mm."""
    corners = np.array([[low, low], [high, low], [high, high], [low, high]])
    return np.column_stack([-10.5 + 0.7 * corners[:, 0], -20.25 + 0.8 * corners[:, 1], np.full(4, 30 + 2.5 * k)])


def case_of(folder: Path, rois: dict[str, list[np.ndarray]], *, named: bool = True) -> CaseFiles:
    series = files.ct_series()
    files.save([*series, files.rtstruct(series, rois, named=named)], folder / "in")
    (case,) = with_indices(find_dicom(folder / "in"), folder / "x").cases
    assert case.problem is None
    return case


def naive(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Slow reference: the even-odd rule, one pixel centre at a time."""
    mask = np.zeros(shape, bool)
    for row, column in np.ndindex(shape):
        odd = False
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if min(y0, y1) <= row < max(y0, y1) and x0 + (row - y0) * ((x1 - x0) / (y1 - y0)) <= column:
                odd = not odd
        mask[row, column] = odd
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_scan_conversion_equals_the_naive_rule(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(-3, 17, (random.integers(3, 30), 2))
    if seed % 2:
        # Corners and edges on pixel centres, so that the rule for ties decides.
        points = np.rint(points)
    np.testing.assert_array_equal(inside(points, (13, 15)), naive(points, (13, 15)))


def test_regions_that_share_an_edge_neither_overlap_nor_leave_a_gap() -> None:
    left = inside(np.array([[2, 2], [5, 2], [5, 8], [2, 8]], float), (12, 12))
    right = inside(np.array([[5, 2], [9, 2], [9, 8], [5, 8]], float), (12, 12))
    both = inside(np.array([[2, 2], [9, 2], [9, 8], [2, 8]], float), (12, 12))
    assert not (left & right).any()
    np.testing.assert_array_equal(left | right, both)


@pytest.mark.parametrize("named", [True, False])
def test_contours_become_voxels_with_holes(tmp_path: Path, named: bool) -> None:
    rois = {"Tumor_1": [square(2.5, 12.5, 1), square(5.5, 8.5, 1)], "Liver": [square(0.5, 20.5, k) for k in (1, 2)]}
    label = read_label(case_of(tmp_path, rois, named=named).label).array
    expected = np.zeros((40, 34, 5), np.uint8)
    expected[1:21, 1:21, 1:3] = 1
    expected[3:13, 3:13, 1] = 2
    expected[6:9, 6:9, 1] = 1
    np.testing.assert_array_equal(label, expected)


def test_keyhole_contour_is_a_ring(tmp_path: Path) -> None:
    outer, inner = square(2.5, 12.5, 1), square(5.5, 8.5, 1)
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]])
    ring = {"Tumor": [keyhole]}
    measured = measure_segments(case_of(tmp_path, ring).label)
    assert measured.lesions.voxel_count.tolist() == [100 - 9]


def notes_of(case: CaseFiles) -> dict[str, str]:
    return {note.check: note.text for note in measure_segments(case.label).notes}


def test_contours_between_slices_belong_to_the_nearest_slice(tmp_path: Path) -> None:
    # The contour at 1.4 is nearer to slice 1 than the one at 0.5, which belongs to slice 1 too.
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, 1.4), square(2.5, 6.5, 0.5), square(2.5, 4.5, 2.7)]})
    label = read_label(case.label).array
    assert [int((label[:, :, k] != 0).sum()) for k in range(5)] == [0, 100, 0, 4, 0]
    found = notes_of(case)["contours-between"]
    assert "3 contours lie between slices, by up to 1.25 mm" in found
    assert "1 plane of contours has no slice and is not used" in found


def test_contours_beyond_the_last_slice_are_left_out_and_counted(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, k) for k in (3, 4, 5, 7)], "Couch": [square(2.5, 12.5, 90)]})
    measured = measure_segments(case.label)
    assert [(row["name"], row["voxel_count"]) for row in measured.segments] == [("Tumor", 200)]
    texts = [note.text for note in measured.notes if note.check == "roi-outside"]
    assert "2 of 4 contours lie beyond the first or last slice of the CT, by up to 7.5 mm" in texts[0]
    assert "1 of 1 contour lies beyond the first or last slice of the CT, by up to 215 mm" in texts[1]


def test_contours_beyond_the_border_of_a_slice_are_cut_and_counted(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(-4.5, 5.5, 1)], "Edge": [square(-0.5, 5.5, 2)]})
    measured = measure_segments(case.label)
    assert [(row["name"], row["voxel_count"]) for row in measured.segments] == [("Edge", 36), ("Tumor", 36)]
    (note,) = (note for note in measured.notes if note.check == "roi-outside")
    assert "1 of 1 contour reaches beyond the border of the CT's slices, by up to 3.2 mm" in note.text


def test_contours_across_the_slices_are_left_out_and_counted(tmp_path: Path) -> None:
    upright = square(2.5, 12.5, 1)
    upright[2:, 2] += 5
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, 1), upright]})
    measured = measure_segments(case.label)
    assert [row["voxel_count"] for row in measured.segments] == [100]
    assert "1 of 2 contours is not parallel to the CT's slices" in notes_of(case)["roi-outside"]


def test_only_the_lesion_may_not_leave_the_ct(tmp_path: Path) -> None:
    rois = {"Tumor": [square(2.5, 12.5, k) for k in (1, 2)], "Couch": [square(2.5, 12.5, 90)]}
    series = files.ct_series()
    files.save([*series, files.rtstruct(series, rois)], tmp_path / "in")
    (record,) = check_dataset(tmp_path / "in").cases
    assert {item.check: item.level for item in record.findings}["roi-outside"] == "warning"
    assert record.status == "accepted"
    rois["Tumor"].append(square(2.5, 12.5, 6))
    files.save([*series, files.rtstruct(series, rois)], tmp_path / "in")
    (record,) = check_dataset(tmp_path / "in").cases
    assert record.status == "quarantined"
    assert "ROI Tumor: 1 of 3 contours lies beyond" in str(record.reason)


def test_overlapping_contours_are_joined_and_repeated_ones_count_once(tmp_path: Path) -> None:
    apart = [square(2.5, 8.5, 1), square(6.5, 12.5, 1), square(2.5, 8.5, 1)[::-1]]
    case = case_of(tmp_path, {"Tumor": apart})
    measured = measure_segments(case.label)
    assert measured.lesions.voxel_count.tolist() == [36 + 36 - 4]
    found = notes_of(case)
    assert "contours overlap on 1 slice, neither inside the other; they are joined" in found["contours-overlap"]
    assert "1 contour is drawn twice and counts once" in found["contours-repeated"]


def test_an_island_in_a_hole_is_region_again(tmp_path: Path) -> None:
    nested = [square(0.5, 15.5, 1), square(2.5, 13.5, 1), square(5.5, 10.5, 1)]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        case = case_of(tmp_path / str(order), {"Tumor": [nested[at] for at in order]})
        assert int((read_label(case.label).array != 0).sum()) == 15**2 - 11**2 + 5**2
        assert not {"contours-overlap", "contours-repeated"} & notes_of(case).keys()


def test_a_hole_in_the_common_part_of_two_regions_is_a_hole_in_both(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(0.5, 12.5, 1), square(3.5, 15.5, 1), square(5.5, 9.5, 1)]})
    assert int((read_label(case.label).array != 0).sum()) == 144 + 144 - 81 - 16


def test_xor_contours_make_holes_where_they_overlap(tmp_path: Path) -> None:
    series = files.ct_series()
    made = files.rtstruct(series, {"Tumor": [square(2.5, 8.5, 1), square(6.5, 12.5, 1)]})
    for item in made.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = "CLOSEDPLANAR_XOR"
    files.save([*series, made], tmp_path / "in")
    (case,) = with_indices(find_dicom(tmp_path / "in"), tmp_path / "x").cases
    assert int((read_label(case.label).array != 0).sum()) == 36 + 36 - 2 * 4


def test_open_items_within_a_closed_roi_are_skipped_and_counted(tmp_path: Path) -> None:
    series = files.ct_series()
    made = files.rtstruct(series, {"Tumor": [square(2.5, 12.5, 1), square(3, 9, 1), square(4, 5, 1), square(4, 6, 2)]})
    for item, kind in zip(
        made.ROIContourSequence[0].ContourSequence[1:], ("OPEN_PLANAR", "POINT", "POINT"), strict=True
    ):
        item.ContourGeometricType = kind
    made.ROIContourSequence[0].ContourSequence[3].ContourData = ["-7.7", "-17.05", "35.0"]
    files.save([*series, made], tmp_path / "in")
    (case,) = with_indices(find_dicom(tmp_path / "in"), tmp_path / "x").cases
    assert int((read_label(case.label).array != 0).sum()) == 100
    assert "ROI Tumor: 1 OPEN_PLANAR, 2 POINT are skipped: nothing is enclosed" in notes_of(case)["contours-open"]


def test_a_single_slice_without_contour_is_named(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, k) for k in (0, 1, 3, 4)]})
    assert "has no contour on slice 2, but overlapping ones below and above" in notes_of(case)["contour-missing"]


def test_two_lesions_of_one_roi_are_not_a_gap(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(2.5, 5.5, 0), square(8.5, 12.5, 2)]})
    assert not {"contour-missing", "contour-gaps"} & notes_of(case).keys()


def test_rtstruct_without_ct_is_a_case_with_a_problem(tmp_path: Path) -> None:
    files.save([files.rtstruct(files.ct_series(), {"Tumor": [square(2, 9, 1)]})], tmp_path / "in")
    (case,) = find_dicom(tmp_path / "in").cases
    assert "the CT of this RTSTRUCT is missing" in str(case.problem)


def test_points_are_not_region_and_are_reported(tmp_path: Path) -> None:
    series = files.ct_series()
    made = files.rtstruct(series, {"Tumor": [square(2.5, 12.5, 1)], "Marker": [square(1, 2, 1)]})
    made.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    files.save([*series, made], tmp_path / "in")
    (case,) = with_indices(find_dicom(tmp_path / "in"), tmp_path / "x").cases
    measured = measure_segments(case.label)
    assert [row["name"] for row in measured.segments] == ["Tumor"]
    (note,) = (note for note in measured.notes if note.check == "contours-open")
    assert note.text.endswith("ROI Marker: 1 POINT is skipped: nothing is enclosed; it has no closed contour")


def test_contours_within_a_tenth_of_a_slice_are_all_used(tmp_path: Path) -> None:
    shift = [square(8.5, 13.5, k) for k in (1, 2, 3)] + [square(20.5, 25.5, k + 0.07) for k in (1, 2, 3)]
    measured = measure_segments(case_of(tmp_path, {"Tumor": shift}).label)
    assert measured.lesions.voxel_count.tolist() == [75, 75]


def test_gaps_are_found_lesion_by_lesion(tmp_path: Path) -> None:
    series = files.ct_series(shape=(40, 34, 14))
    first = [square(2.5, 6.5, k) for k in (2, 4, 6, 8)]
    second = [square(20.5, 25.5, k) for k in (3, 5, 7, 9)]
    whole = [square(20.5, 25.5, k) for k in range(2, 13)]
    third = [square(2.5, 6.5, k) for k in (2, 5, 8)]
    for number, (contours, check) in enumerate(
        ((first + second, "contour-gaps"), (whole + third, "contour-gaps"), (whole, None))
    ):
        folder = tmp_path / str(number)
        files.save([*series, files.rtstruct(series, {"Tumor": contours})], folder / "in")
        (case,) = with_indices(find_dicom(folder / "in"), folder / "x").cases
        found = {note.check for note in measure_segments(case.label).notes}
        assert (check in found) if check else not found
        filled = find_dicom(folder / "in", options=SegmentOptions(interpolate_contours=True))
        (case,) = with_indices(filled, folder / "filled").cases
        assert len(measure_segments(case.label).lesions) == (1 if contours is whole else 2)


def test_rois_and_contours_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    series = files.ct_series()
    rois = {"Tumor": [square(2.5, 12.5, 1)], "Empty": [square(1, 2, 1)], "Lost": [square(1, 2, 1)]}
    made = files.rtstruct(series, rois)
    made.ROIContourSequence[1].ContourSequence = []
    del made.ROIContourSequence[2].ReferencedROINumber
    files.save([*series, made], tmp_path / "in")
    (case,) = with_indices(find_dicom(tmp_path / "in"), tmp_path / "x").cases
    texts = " / ".join(note.text for note in measure_segments(case.label).notes)
    assert "ROI Empty has no contour" in texts
    assert "1 contour belongs to no ROI and is skipped" in texts
    made.StructureSetROISequence[1].ROINumber = 1
    files.save([*series, made], tmp_path / "again")
    problems = " / ".join(str(case.problem) for case in find_dicom(tmp_path / "again").cases)
    assert "two ROIs have the number 1" in problems


def test_a_contour_half_a_slice_beyond_the_last_one_is_counted(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, k) for k in (3, 4, 4.5)]})
    assert "1 of 3 contours lies beyond the first or last slice" in notes_of(case)["roi-outside"]


def test_the_chosen_lesions_cover_the_organs_around_them(tmp_path: Path) -> None:
    series = files.ct_series()
    rois = {"GTV-1": [square(8.5, 12.5, k) for k in (1, 2)], "Lung Left": [square(2.5, 20.5, k) for k in (1, 2)]}
    files.save([*series, files.rtstruct(series, rois)], tmp_path / "in")
    study = pc.analyze(tmp_path / "in", tmp_path / "study", lesion_label="GTV")
    (record,) = study.accepted()
    lesion = study.fingerprint().lesion_label
    assert int((record.read_label().array == lesion).sum()) == 32


def test_of_merged_lesions_none_may_leave_the_ct(tmp_path: Path) -> None:
    series = files.ct_series()
    rois = {"Grade A": [square(2.5, 6.5, k) for k in (1, 2)], "Grade B": [square(8.5, 12.5, k) for k in (4, 5)]}
    files.save([*series, files.rtstruct(series, rois)], tmp_path / "in")
    study = pc.analyze(tmp_path / "in", tmp_path / "study", lesion_label="Grade A,Grade B")
    assert [record.status for record in study.cases()] == ["quarantined"]


def test_many_contours_take_no_quadratic_time(tmp_path: Path) -> None:
    """Four hundred small contours and forty nested ones: compared one by one, they take minutes."""
    small = [np.add(square(a, a + 0.8, 1), (0, b, 0)) for a in range(20) for b in range(20)]
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    rings = [
        np.column_stack([3 + 0.2 * n * np.cos(turn), -8 + 0.2 * n * np.sin(turn), np.full(400, 35.0)])
        for n in range(1, 41)
    ]
    measured = measure_segments(case_of(tmp_path, {"Small": small, "Rings": rings}).label)
    assert len(measured.segments) == 2


def test_an_ignored_label_moves_no_row_of_the_segments(tmp_path: Path) -> None:
    series = files.ct_series()
    rois = {"Ignore": [square(2.5, 6.5, k) for k in (1, 2)], "Tumor": [square(8.5, 12.5, k) for k in (1, 2)]}
    files.save([*series, files.rtstruct(series, rois)], tmp_path / "in")
    study = pc.analyze(tmp_path / "in", tmp_path / "study")
    assert study.accepted()[0].ignore_label == 1
    with (study.path / "segments.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with (study.path / "lesions.csv").open(encoding="utf-8", newline="") as handle:
        lesions = list(csv.DictReader(handle))
    assert [row["name"] for row in rows] == ["Tumor"]
    assert len(lesions) == 1
    assert rows[0]["lesions"] == lesions[0]["lesion"]
