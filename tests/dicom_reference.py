"""Slow, independent readers of RTSTRUCT and SEG: what patchcore must find in the same bytes.

They share no code with patchcore. Points are compared one by one with exact fractions where a rounding error could
decide, and a voxel whose centre lies within 1e-9 of an edge is doubtful: it may be inside or outside. The rules are
those that ``patchcore.volumes.dicom.contours`` states.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom

Point = tuple[float, float]
TOLERANCE, STEP, MOST_STEPS = 0.05, 0.5, 200
NEAR = 1e-9


class DoubtfulError(Exception):
    """A comparison that a rounding error decides; such an object is not compared."""


@dataclass
class Drawn:
    """A region in one plane, shape (columns, rows)."""

    mask: np.ndarray
    doubtful: np.ndarray
    overlaps: int = 0
    repeated: int = 0


def even_odd(polygon: list[Point], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return which voxel centres lie inside a polygon, and which ones are doubtful; shape (columns, rows)."""
    mask, doubtful = np.zeros(shape, bool), np.zeros(shape, bool)
    edges = [(polygon[at - 1], polygon[at]) for at in range(len(polygon))]
    for row in range(shape[1]):
        crossings = []
        for (xa, ya), (xb, yb) in edges:
            if abs(ya - row) < NEAR or abs(yb - row) < NEAR:
                # A corner on the centre line: exact, unless it is off by a rounding error.
                if ya not in (row, yb) and abs(ya - row) < NEAR:
                    doubtful[:, row] = True
                if yb not in (row, ya) and abs(yb - row) < NEAR:
                    doubtful[:, row] = True
            if not min(ya, yb) <= row < max(ya, yb):
                continue
            part = Fraction(row) - Fraction(ya)
            crossings.append(Fraction(xa) + part * (Fraction(xb) - Fraction(xa)) / (Fraction(yb) - Fraction(ya)))
        for column in range(shape[0]):
            mask[column, row] = sum(crossing <= column for crossing in crossings) % 2 == 1
            if any(abs(float(crossing - column)) < NEAR for crossing in crossings):
                doubtful[column, row] = True
    return mask, doubtful


def is_inside(inner: list[Point], outer: list[Point]) -> bool:
    """Return whether a polygon lies wholly inside another one, by points along its edges."""
    for (xa, ya), (xb, yb) in zip(inner, inner[1:] + inner[:1], strict=True):
        count = min(max(1, math.ceil(math.hypot(xb - xa, yb - ya) / STEP)), MOST_STEPS)
        for step in range(count):
            x, y = xa + step / count * (xb - xa), ya + step / count * (yb - ya)
            if not _point_in(x, y, outer):
                away = min(_distance(x, y, a, b) for a, b in zip(outer, outer[1:] + outer[:1], strict=True))
                if abs(away - TOLERANCE) < 1e-6:
                    raise DoubtfulError
                if away > TOLERANCE:
                    return False
    return True


def _point_in(x: float, y: float, polygon: list[Point]) -> bool:
    odd = False
    for (xa, ya), (xb, yb) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if min(ya, yb) <= y < max(ya, yb) and xa + (y - ya) * (xb - xa) / (yb - ya) <= x:
            odd = not odd
    return odd


def _distance(x: float, y: float, a: Point, b: Point) -> float:
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    part = 0.0 if length == 0 else min(1.0, max(0.0, ((x - a[0]) * dx + (y - a[1]) * dy) / length))
    return math.hypot(x - a[0] - part * dx, y - a[1] - part * dy)


def _area(polygon: list[Point]) -> float:
    return (
        abs(sum(xa * yb - xb * ya for (xa, ya), (xb, yb) in zip(polygon, polygon[1:] + polygon[:1], strict=True))) / 2
    )


def combine(polygons: list[list[Point]], shape: tuple[int, int], *, xor: bool) -> Drawn:
    """Combine the contours of one plane: XOR, or union with holes and islands."""
    masks = [even_odd(polygon, shape) for polygon in polygons]
    doubtful = np.logical_or.reduce([item for _, item in masks])
    if xor or len(polygons) == 1:
        return Drawn(np.logical_xor.reduce([mask for mask, _ in masks]), doubtful)
    areas = [_area(polygon) for polygon in polygons]
    for one in range(len(areas)):
        for other in range(one):
            if areas[one] != areas[other] and abs(areas[one] - areas[other]) < 1e-6:
                raise DoubtfulError
    order = sorted(range(len(polygons)), key=lambda at: -areas[at])
    kept: list[int] = []
    around: dict[int, set[int]] = {}
    repeated = 0
    for at in order:
        holders = {other for other in kept if is_inside(polygons[at], polygons[other])}
        if any(is_inside(polygons[other], polygons[at]) for other in holders):
            repeated += 1
            continue
        kept.append(at)
        around[at] = holders
    overlaps = sum(
        bool((masks[a][0] & masks[b][0]).any())
        for place, a in enumerate(kept)
        for b in kept[:place]
        if b not in around[a]
    )

    def region(at: int) -> np.ndarray:
        mask = masks[at][0].copy()
        for inner in kept:
            if at in around[inner] and not any(at in around[other] for other in around[inner]):
                mask &= ~region(inner)
        return mask

    return Drawn(np.logical_or.reduce([region(at) for at in kept if not around[at]]), doubtful, overlaps, repeated)


@dataclass
class Volume:
    """The voxels of one segment, shape (columns, rows, slices), and the doubtful ones."""

    mask: np.ndarray
    doubtful: np.ndarray


def read_rtstruct(
    path: Path, origin: tuple[float, ...], spacing: tuple[float, ...], shape: tuple[int, int, int]
) -> list[tuple[str, Volume]]:
    """Read the ROIs of an RTSTRUCT on an axis-aligned grid: LPS, columns along x, rows along y.

    Args:
        path: The file.
        origin: Centre of the first voxel, mm LPS.
        spacing: mm per voxel along columns, rows and slices.
        shape: Number of columns, rows and slices.
    """
    dataset = pydicom.dcmread(BytesIO(path.read_bytes()), force=True)
    names = {}
    for item in dataset.get("StructureSetROISequence") or ():
        if item.get("ROINumber") not in (None, ""):
            names[int(item.ROINumber)] = str(item.get("ROIName") or "").strip() or f"ROI {int(item.ROINumber)}"
    contours = defaultdict(list)
    for item in dataset.get("ROIContourSequence") or ():
        if item.get("ReferencedROINumber") not in (None, ""):
            contours[int(item.ReferencedROINumber)] += list(item.get("ContourSequence") or ())
    found = []
    for number, items in contours.items():
        planes: list[tuple[float, list[list[Point]]]] = []
        xor = False
        for item in items:
            kind = str(item.get("ContourGeometricType") or "CLOSED_PLANAR").strip().upper().replace(" ", "_")
            data = item.get("ContourData")
            values = (
                []
                if data is None
                else [float(v) for v in (data if not isinstance(data, str | float | int) else [data])]
            )
            points = [values[at : at + 3] for at in range(0, len(values), 3)]
            if (
                kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
                or len(points) < 3
            ):
                continue
            xor = xor or kind.endswith("XOR")
            voxels = [[(p[axis] - origin[axis]) / spacing[axis] for axis in range(3)] for p in points]
            low, high = min(v[2] for v in voxels), max(v[2] for v in voxels)
            at = (low + high) / 2
            index = math.floor(at + 0.5)
            for value, edge in ((high - low, 0.2), (abs(at - index), 0.1), (abs(at - index), 0.5)):
                if abs(value - edge) < NEAR:
                    raise DoubtfulError
            if high - low > 0.2 or not 0 <= index < shape[2]:
                continue
            flat = [(v[0], v[1]) for v in voxels]
            if abs(at - index) <= 0.1:
                at = float(index)
            near = [
                plane for plane in planes if plane[0] == at or (at % 1 and plane[0] % 1 and abs(plane[0] - at) < 0.05)
            ]
            if any(abs(abs(plane[0] - at) - 0.05) < NEAR for plane in planes):
                raise DoubtfulError
            if near:
                near[0][1].append(flat)
            else:
                planes.append((at, [flat]))
        best: dict[int, tuple[float, list[list[Point]]]] = {}
        for at, polygons in sorted(planes, key=lambda plane: plane[0]):
            index = math.floor(at + 0.5)
            if abs(at + 0.5 - round(at + 0.5)) < NEAR and at + 0.5 != round(at + 0.5):
                raise DoubtfulError
            if index in best and abs(abs(at - index) - abs(best[index][0] - index)) < NEAR:
                raise DoubtfulError
            if index not in best or abs(at - index) < abs(best[index][0] - index):
                best[index] = (at, polygons)
        if not best:
            continue
        volume = Volume(np.zeros(shape, bool), np.zeros(shape, bool))
        for index, (_, polygons) in best.items():
            drawn = combine(polygons, (shape[0], shape[1]), xor=xor)
            if 0 <= index < shape[2]:
                volume.mask[:, :, index] = drawn.mask
                volume.doubtful[:, :, index] = drawn.doubtful
        found.append((names.get(number, f"ROI {number}"), volume))
    return found


def read_seg(
    path: Path, origin: tuple[float, ...], spacing: tuple[float, ...], shape: tuple[int, int, int]
) -> dict[int, np.ndarray]:
    """Read the segments of a SEG whose frames lie as the slices of an axis-aligned CT; see :func:`read_rtstruct`.

    Frames are placed by their positions only, and their bits are unpacked one by one.
    """
    dataset = pydicom.dcmread(BytesIO(path.read_bytes()), force=True)
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    allocated = int(dataset.BitsAllocated)
    kind = (
        "LABELMAP" if dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7" else str(dataset.SegmentationType).upper()
    )
    frames = _frames(dataset, rows, columns, count, allocated)
    limit = float(dataset.get("MaximumFractionalValue") or 255) / 2 if kind == "FRACTIONAL" else 1
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    numbers = [int(item.SegmentNumber) for item in dataset.SegmentSequence]
    found = {number: np.zeros(shape, bool) for number in numbers if number or kind != "LABELMAP"}
    for at in range(count):

        def group(name: str, at: int = at) -> pydicom.Dataset:
            for place in (groups[at] if at < len(groups) else None, shared):
                if place is not None and place.get(name):
                    return place.get(name)[0]
            raise DoubtfulError

        names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        where, direction, measures = (group(name) for name in names)
        position = _floats(where, "ImagePositionPatient")
        along = _floats(direction, "ImageOrientationPatient")
        row_mm, column_mm = _floats(measures, "PixelSpacing")
        segments = (
            numbers if kind == "LABELMAP" else [int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)]
        )
        for row in range(rows):
            for column in range(columns):
                value = frames[at][row][column]
                if not value:
                    continue
                exact = [
                    (position[axis] + column * column_mm * along[axis] + row * row_mm * along[3 + axis] - origin[axis])
                    / spacing[axis]
                    for axis in range(3)
                ]
                place = tuple(round(value) for value in exact)
                for number in segments:
                    inside = value == number if kind == "LABELMAP" else value >= limit
                    if inside and number in found and all(0 <= p < n for p, n in zip(place, shape, strict=True)):
                        found[number][place] = True
    return found


def _floats(item: pydicom.Dataset, name: str) -> list[float]:
    """Return the values of an element; a frame without a position is placed by its references, not by this reader."""
    value = item.get(name)
    if value is None:
        raise DoubtfulError
    return [float(number) for number in value]


def _frames(dataset: pydicom.Dataset, rows: int, columns: int, count: int, allocated: int) -> list[list[list[int]]]:
    data = dataset.PixelData
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        # What a reader may assume if it is missing.
        assumed: dict[str, object] = {"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1}
        assumed |= {"PixelRepresentation": 0, "BitsStored": allocated, "HighBit": allocated - 1}
        for name, value in assumed.items():
            if dataset.get(name) is None:
                setattr(dataset, name, value)
        stack = np.asarray(dataset.pixel_array).reshape(count, rows, columns)
        return stack.astype(int).tolist()
    made = []
    for frame in range(count):
        values = []
        for row in range(rows):
            line = []
            for column in range(columns):
                at = (frame * rows + row) * columns + column
                if allocated == 1:
                    line.append(data[at // 8] >> (at % 8) & 1)
                elif allocated == 8:
                    line.append(data[at])
                else:
                    line.append(data[2 * at] + 256 * data[2 * at + 1])
            values.append(line)
        made.append(values)
    return made
