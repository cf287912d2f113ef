"""Reads the ROIs of an RTSTRUCT and rasterises their contours on the grid of a CT.

A voxel belongs to an ROI if its centre lies inside an odd number of the ROI's contours in its slice. Therefore a
contour inside another contour is a hole (XOR), and the two coinciding edges of a keyhole's bridge cancel. A centre
exactly on a left or top edge of a contour is inside; a centre exactly on a right or bottom edge is outside. Therefore
regions that share an edge neither overlap nor leave a gap.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import CorruptFileError, DataError
from patchcore.types import BoolArray, Float64Array
from patchcore.volumes.dicom.grid import Grid, Placement
from patchcore.volumes.dicom.objects import guarded, numbers, open_dataset
from patchcore.volumes.dicom.segments import Piece, Segment

__all__ = ["RTSTRUCT_CLASS", "inside", "read_rois", "roi_names"]

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_OFF_SLICE = 0.1


def roi_names(dataset: Any, path: Path) -> dict[int, str]:
    """Return the name of each ROI by its number."""
    names: dict[int, str] = {}
    for item in dataset.get("StructureSetROISequence") or ():
        number = numbers(item, "ROINumber", 1, path)
        if number is not None:
            names[int(number[0])] = str(item.get("ROIName") or "").strip() or f"ROI {int(number[0])}"
    return names


def read_rois(path: Path, grid: Grid) -> tuple[list[Segment], list[str]]:
    """Read the closed contours of an RTSTRUCT; ROIs without closed contours are skipped and named in the notes.

    Raises:
        DataError: A contour lies between slices, outside the CT or not parallel to its slices, or the file is damaged.
        OSError: The file cannot be read.
    """
    dataset = open_dataset(path)
    segments, notes = [], []
    with guarded(path):
        names = roi_names(dataset, path)
        for item in dataset.get("ROIContourSequence") or ():
            number = numbers(item, "ReferencedROINumber", 1, path)
            if number is None:
                continue
            name = names.get(int(number[0]), f"ROI {int(number[0])}")
            by_slice: dict[int, list[Float64Array]] = {}
            kinds: Counter[str] = Counter()
            for order, contour in enumerate(item.get("ContourSequence") or (), start=1):
                kind = str(contour.get("ContourGeometricType") or "CLOSED_PLANAR")
                kinds[kind] += 1
                if not kind.startswith("CLOSED_PLANAR"):
                    continue
                points = _points(contour, path, f"contour {order} of {name}")
                index, flat = _on_slice(points, grid, path, f"contour {order} of {name}")
                by_slice.setdefault(index, []).append(flat)
            if by_slice:
                segments.append(Segment(int(number[0]), name, path, _pieces(by_slice, grid, name)))
            elif kinds:
                notes.append(f"ROI {name} has no closed contours ({', '.join(sorted(kinds))}) and is skipped")
    return segments, notes


def _points(contour: Any, path: Path, name: str) -> Float64Array:
    data = contour.get("ContourData")
    points = np.asarray([] if data is None else [float(value) for value in data], dtype=np.float64)
    if len(points) < 3 or len(points) % 3 or not np.isfinite(points).all():
        raise CorruptFileError(f"{name} is not a list of points (x, y, z)", path=path, remedy="export it again")
    return points.reshape(-1, 3)


def _on_slice(points: Float64Array, grid: Grid, path: Path, name: str) -> tuple[int, Float64Array]:
    """Return the slice that a contour lies in, and its points in voxels (i, j)."""
    inverse = grid.from_lps
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    index = float(np.median(voxels[:, 2]))
    off = float(np.abs(voxels[:, 2] - round(index)).max()) if abs(index) < 1e6 else np.inf
    at = f"({', '.join(f'{value:.6g}' for value in points[0])}) mm"
    if off > _OFF_SLICE:
        mm = off * float(np.linalg.norm(grid.affine[:3, 2]))
        raise DataError(
            f"{name} at {at} lies {mm:.3g} mm off the nearest slice",
            path=path,
            remedy="export the contours on the CT's slices",
        )
    if not 0 <= round(index) < grid.shape[2] or np.abs(voxels).max() > 1e6:
        raise DataError(
            f"{name} at {at} lies outside the CT", path=path, remedy="add the CT that the contours were drawn on"
        )
    if voxels[:, :2].max() < -0.5 or (voxels[:, :2].min(axis=0) > np.asarray(grid.shape[:2]) - 0.5).any():
        raise DataError(
            f"{name} at {at} lies outside the CT", path=path, remedy="add the CT that the contours were drawn on"
        )
    return round(index), voxels[:, :2]


def _pieces(by_slice: dict[int, list[Float64Array]], grid: Grid, name: str) -> list[Piece]:
    pieces = []
    for index, contours in sorted(by_slice.items()):
        # Only the rows and columns that the contours cover are filled.
        points = np.concatenate(contours)
        low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, np.asarray(grid.shape[:2]))
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, low, np.asarray(grid.shape[:2]))
        shape = (int(high[1] - low[1]), int(high[0] - low[0]))
        moved = [contour - low for contour in contours]
        place = Placement((int(low[0]), int(low[1]), index), 0, 1, 1, 1, shape)
        pieces.append(Piece(f"contour at slice {index} of {name}", place, _reader(moved, shape)))
    return pieces


def _reader(contours: list[Float64Array], shape: tuple[int, int]) -> Any:
    return lambda: np.asarray(np.logical_xor.reduce([inside(contour, shape) for contour in contours]))


def inside(points: Float64Array, shape: tuple[int, int]) -> BoolArray:
    """Return which pixel centres lie inside a closed polygon, by counting the edges to their left.

    Args:
        points: Corners (column, row) in pixels; the centre of the first pixel is (0, 0). Shape (N, 2).
        shape: Number of rows, number of columns.

    Returns:
        A mask of shape `shape`; a polygon that crosses itself is filled by the even-odd rule.

    Example:
        >>> inside(np.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]]), (3, 4)).astype(int).tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    rows, columns = shape
    flips = np.zeros((rows, columns + 1), dtype=np.int64)
    x0, y0 = points[:, 0], points[:, 1]
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # Rows with a centre line that an edge crosses; the edge's upper end counts, its lower end does not.
    first = np.clip(np.ceil(np.minimum(y0, y1)), 0, rows).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1)), 0, rows).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = x0[edge] + (row - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    # Inside and outside swap, starting at the first centre at or right of the crossing.
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    np.add.at(flips, (row, column), 1)
    return np.asarray(np.cumsum(flips, axis=1)[:, :columns] % 2, dtype=np.bool_)
