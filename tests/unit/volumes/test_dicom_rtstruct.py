"""Tests RTSTRUCT: contours are rasterised by pixel centres; holes, keyholes, slices found by position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dicom_files as files
from patchcore.datasets.dicom.find import find_dicom
from patchcore.datasets.dicom.measure import measure_segments
from patchcore.datasets.layouts import CaseFiles
from patchcore.datasets.layouts.indices import with_indices
from patchcore.errors import DataError
from patchcore.volumes.dicom.rtstruct import inside
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


def test_a_contour_between_slices_is_an_error(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, 1.5)]})
    with pytest.raises(DataError, match=r"contour 1 of Tumor at \(.*\) mm lies 1.25 mm off the nearest slice"):
        read_label(case.label)


def test_a_contour_outside_the_ct_is_an_error(tmp_path: Path) -> None:
    case = case_of(tmp_path, {"Tumor": [square(2.5, 12.5, 7)]})
    with pytest.raises(DataError, match="outside the CT"):
        read_label(case.label)


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
    assert any("Marker has no closed contours (POINT)" in note for note in measured.notes)
