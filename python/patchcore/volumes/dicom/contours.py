"""Combines the closed contours of one plane to a region, and fills planes between drawn ones.

A voxel belongs to a contour if its centre lies inside an odd number of times (even-odd rule), so that the two
coinciding edges of a keyhole's bridge cancel. A centre exactly on a left or top edge is inside; a centre exactly on a
right or bottom edge is outside. Therefore regions that share an edge neither overlap nor leave a gap.

Contours of type CLOSED_PLANAR: a contour that lies wholly inside another one is a hole in it, a contour inside a hole
is an island, the same contour drawn twice counts once, and all other contours are joined (union). Contours of type
CLOSEDPLANAR_XOR: a voxel belongs to the region if it lies in an odd number of contours, as DICOM says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from patchcore.types import BoolArray, Float64Array

__all__ = ["Region", "between", "inside"]

# A contour lies inside another one if no point of it is farther outside than this, in voxels: coordinates are rounded.
_TOLERANCE = 0.05
# Edges are tested every half voxel, but at most this often.
_STEP, _MOST_STEPS = 0.5, 200
_CHUNK = 1 << 20


@dataclass
class Region:
    """The region that the closed contours of one ROI enclose in one plane.

    Attributes:
        contours: Corners (column, row) of each contour in voxels, shape (N, 2); without contours drawn twice.
        low: First column and row of the part of the plane that is filled.
        shape: Number of rows and columns of that part.
        xor: Whether the contours are combined by XOR.
        repeated: Number of contours that were drawn twice and are skipped.
        overlaps: Number of pairs of contours that overlap, neither inside the other.
        holes: For each contour, the contours that lie directly inside it.
    """

    contours: list[Float64Array]
    low: tuple[int, int]
    shape: tuple[int, int]
    xor: bool
    repeated: int = 0
    overlaps: int = 0
    holes: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, contours: Sequence[Float64Array], columns_rows: tuple[int, int], *, xor: bool) -> Region:
        """Combine the contours of a plane that has `columns_rows` columns and rows."""
        low, high = _extent(np.concatenate(contours), columns_rows)
        shape = (high[1] - low[1], high[0] - low[0])
        region = cls([contour - low for contour in contours], low, shape, xor)
        if not xor and len(contours) > 1:
            region._nest()
        return region

    def mask(self) -> BoolArray:
        """Return the voxels of the region, shape (rows, columns) of its part of the plane."""
        total = np.zeros(self.shape, dtype=np.bool_)
        if self.xor or len(self.contours) == 1:
            for contour in self.contours:
                part, mask = self._part(contour)
                total[part] ^= mask
            return total
        regions: dict[int, tuple[_Part, BoolArray]] = {}
        cut = {hole for holes in self.holes for hole in holes}
        # A contour lies before its holes: the regions of the holes are known when they are cut out.
        for outer in reversed(range(len(self.contours))):
            part, mask = self._part(self.contours[outer])
            for hole in self.holes[outer]:
                inner, inner_mask = regions[hole]
                here, there = _common(part, inner)
                mask[here] &= ~inner_mask[there]
            regions[outer] = part, mask
            if outer not in cut:
                total[part] |= mask
        return total

    def _part(self, contour: Float64Array) -> tuple[_Part, BoolArray]:
        """Return the part of the plane that a contour covers, and the voxels of the contour in it."""
        low, high = _extent(contour, (self.shape[1], self.shape[0]))
        part = (slice(low[1], high[1]), slice(low[0], high[0]))
        return part, inside(contour - low, (high[1] - low[1], high[0] - low[0]))

    def _nest(self) -> None:
        """Sort the contours by area, drop repeated ones, and find which contour lies directly inside which."""
        areas = [_area(contour) for contour in self.contours]
        order = sorted(range(len(areas)), key=lambda at: -areas[at])
        ordered: list[Float64Array] = []
        outside: list[set[int]] = []
        boxes = np.zeros((len(order), 4))
        for at in order:
            contour = self.contours[at]
            box = np.concatenate([contour.min(axis=0), -contour.max(axis=0)])
            # Only a contour whose box holds this box can hold this contour; the smallest ones come last.
            holds = np.flatnonzero((boxes[: len(ordered)] <= box + _TOLERANCE).all(axis=1))[::-1].tolist()
            around: set[int] = set()
            for place in holds:
                # What lies around a contour that holds this one holds it, too.
                if place not in around and _lies_in(contour, ordered[place]):
                    around |= {place} | outside[place]
            if any(_same_box(boxes[place], box) and _lies_in(ordered[place], contour) for place in around):
                self.repeated += 1
                continue
            boxes[len(ordered)] = box
            ordered.append(contour)
            outside.append(around)
        self.contours = ordered
        self.holes = [[] for _ in ordered]
        for place, around in enumerate(outside):
            for outer in around:
                # Directly inside: no other contour lies between the two.
                if not any(outer in outside[other] for other in around):
                    self.holes[outer].append(place)
        self._count_overlaps(outside, boxes[: len(ordered)])

    def _count_overlaps(self, outside: Sequence[set[int]], boxes: Float64Array) -> None:
        """Count the pairs of contours that share a voxel, neither inside the other."""
        parts: dict[int, tuple[_Part, BoolArray]] = {}
        for place in range(len(self.contours)):
            low, high = boxes[:place, :2], -boxes[:place, 2:]
            meets = (low <= -boxes[place, 2:]).all(axis=1) & (high >= boxes[place, :2]).all(axis=1)
            for other in np.flatnonzero(meets).tolist():
                if other in outside[place]:
                    continue
                for at in (place, other):
                    if at not in parts:
                        parts[at] = self._part(self.contours[at])
                (one, one_mask), (two, two_mask) = parts[place], parts[other]
                here, there = _common(one, two)
                self.overlaps += bool((one_mask[here] & two_mask[there]).any())


_Part = tuple[slice, slice]


def _extent(points: Float64Array, columns_rows: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first (column, row) of the part of a plane that holds the points, and one past the last."""
    low = np.clip(np.floor(points.min(axis=0)), 0, columns_rows).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, low, columns_rows).astype(int)
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def _common(one: _Part, other: _Part) -> tuple[_Part, _Part]:
    """Return the common part of two parts of a plane, within each of them; empty if they have nothing in common."""
    start = [max(a.start, b.start) for a, b in zip(one, other, strict=True)]
    stop = [max(first, min(a.stop, b.stop)) for first, a, b in zip(start, one, other, strict=True)]

    def within(part: _Part) -> _Part:
        rows, columns = (slice(a - p.start, b - p.start) for p, a, b in zip(part, start, stop, strict=True))
        return rows, columns

    return within(one), within(other)


def _same_box(one: Float64Array, other: Float64Array) -> bool:
    return bool(np.abs(one - other).max() <= 2 * _TOLERANCE)


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


def between(below: BoolArray, above: BoolArray, part: float, spacing: tuple[float, float]) -> BoolArray:
    """Return the region between two drawn planes, by blending their distances to the border.

    Shape-based interpolation (Raya and Udupa 1990): distances inside are positive, outside negative.

    Args:
        below: Region of the lower plane, shape (rows, columns).
        above: Region of the upper plane, the same shape.
        part: Place between the planes: 0 is the lower one, 1 the upper one.
        spacing: mm between rows, mm between columns.

    Example:
        >>> small, large = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
        >>> small[:, 3:6], large[:, 1:8] = True, True
        >>> between(small, large, 0.5, (1.0, 1.0))[4].astype(int).tolist()
        [0, 0, 1, 1, 1, 1, 1, 0, 0]
    """
    return np.asarray((1 - part) * _signed(below, spacing) + part * _signed(above, spacing) > 0)


def _signed(mask: BoolArray, spacing: tuple[float, float]) -> Float64Array:
    from scipy.ndimage import distance_transform_edt

    # The plane beyond the part is outside.
    padded = np.pad(mask, 1)
    found = distance_transform_edt(padded, sampling=spacing) - distance_transform_edt(~padded, sampling=spacing)
    return np.asarray(found[1:-1, 1:-1], dtype=np.float64)


def _area(contour: Float64Array) -> float:
    x, y = contour[:, 0], contour[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _lies_in(inner: Float64Array, outer: Float64Array) -> bool:
    """Return whether a contour lies wholly inside another one, or on its border."""
    if (inner.min(axis=0) < outer.min(axis=0) - _TOLERANCE).any():
        return False
    if (inner.max(axis=0) > outer.max(axis=0) + _TOLERANCE).any():
        return False
    points = _along(inner)
    step = max(1, _CHUNK // len(outer))
    return all(_near_or_in(points[at : at + step], outer) for at in range(0, len(points), step))


def _along(contour: Float64Array) -> Float64Array:
    """Return points along the edges of a contour, at most half a voxel apart, with all corners."""
    steps = np.roll(contour, -1, axis=0) - contour
    count = np.clip(np.ceil(np.hypot(steps[:, 0], steps[:, 1]) / _STEP), 1, _MOST_STEPS).astype(np.int64)
    edge = np.repeat(np.arange(len(contour)), count)
    at = (np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)) / count[edge]
    return np.asarray(contour[edge] + at[:, None] * steps[edge])


def _near_or_in(points: Float64Array, contour: Float64Array) -> bool:
    """Return whether every point lies inside a contour, or at most the tolerance away from it."""
    x, y = points[:, :1], points[:, 1:]
    x0, y0 = contour[:, 0], contour[:, 1]
    dx, dy = np.roll(x0, -1) - x0, np.roll(y0, -1) - y0
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = ((y0 <= y) != (y0 + dy <= y)) & (x0 + (y - y0) * (dx / dy) <= x)
    out = np.flatnonzero(crossed.sum(axis=1) % 2 == 0)
    if not len(out):
        return True
    x, y = x[out], y[out]
    length = dx * dx + dy * dy
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(length > 0, ((x - x0) * dx + (y - y0) * dy) / length, 0)
    part = np.clip(part, 0, 1)
    away = (x - x0 - part * dx) ** 2 + (y - y0 - part * dy) ** 2
    return bool((away.min(axis=1) <= _TOLERANCE**2).all())
