"""Geometry of DICOM slices: computes the grid of a volume from its slices, and places frames on a grid.

World coordinates are LPS in DICOM and RAS+ in patchcore. Arrays are in stored order: columns i, rows j, slices k along
the normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import spacing_of
from patchcore.errors import DataError, HeaderError, UnsupportedDataError
from patchcore.types import Affine, Float64Array, IntTriple, PathLike

__all__ = ["MAX_PIXELS", "Grid", "Placement", "Plane", "SlicesError", "grid_of", "place", "where"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Slices are equally spaced within 1 % or 0.01 mm. Deviations up to 10 % (rounded positions) are reported in a note.
_EVEN, _EVEN_MM, _ROUNDED = 0.01, 0.01, 0.1
_TILT_DEGREES = 0.1
_OFF_GRID = 0.1
MAX_PIXELS = 1 << 26
"""Largest number of pixels in a frame: 8192 × 8192. A CT is never larger."""


@dataclass(frozen=True)
class Plane:
    """One image plane in the patient: the pixel centres of a frame, in mm, LPS.

    Attributes:
        position: Centre of the first pixel.
        rows_along: ImageOrientationPatient: direction of increasing column index, then of increasing row index.
        pixel_spacing: PixelSpacing: mm between rows, then between columns.
        shape: Number of rows, number of columns.
    """

    position: tuple[float, ...]
    rows_along: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    shape: tuple[int, int]

    @property
    def column_step(self) -> Float64Array:
        """Step from one column to the next, mm LPS, shape (3,)."""
        return np.asarray(self.rows_along[:3]) * self.pixel_spacing[1]

    @property
    def row_step(self) -> Float64Array:
        """Step from one row to the next, mm LPS, shape (3,)."""
        return np.asarray(self.rows_along[3:]) * self.pixel_spacing[0]

    @property
    def normal(self) -> Float64Array:
        """Unit normal: column direction × row direction, shape (3,)."""
        normal = np.cross(self.rows_along[:3], self.rows_along[3:])
        return np.asarray(normal / np.linalg.norm(normal))

    def check(self, path: PathLike) -> None:
        """Raise HeaderError if the plane is impossible."""
        a, b = np.asarray(self.rows_along[:3]), np.asarray(self.rows_along[3:])
        lengths = (float(np.linalg.norm(a)), float(np.linalg.norm(b)))
        remedy = "correct the header, or export the file again"
        if max(abs(n - 1) for n in lengths) > 1e-2 or abs(float(a @ b)) > 1e-2:
            raise HeaderError(
                f"ImageOrientationPatient {self.rows_along} is not a pair of orthogonal unit vectors",
                path=path,
                remedy=remedy,
            )
        if min(self.pixel_spacing) <= 0 or max(self.pixel_spacing) >= 1000:
            raise HeaderError(f"PixelSpacing {self.pixel_spacing} mm is not plausible", path=path, remedy=remedy)
        if max(abs(value) for value in self.position) > 1e6:
            raise HeaderError(f"ImagePositionPatient {self.position} mm is not plausible", path=path, remedy=remedy)
        if min(self.shape) < 1 or math.prod(self.shape) > MAX_PIXELS:
            raise HeaderError(
                f"a frame of {self.shape[0]} × {self.shape[1]} pixels is not plausible", path=path, remedy=remedy
            )

    def like(self, other: Plane) -> bool:
        """Return whether both planes have the same size, spacing and orientation."""
        return (
            self.shape == other.shape
            and np.allclose(self.pixel_spacing, other.pixel_spacing, rtol=1e-3, atol=0)
            and np.allclose(self.rows_along, other.rows_along, rtol=0, atol=1e-3)
        )


@dataclass(frozen=True)
class Grid:
    """Shape and affine (voxel index → world mm, RAS+) of a volume, and notes about its slices."""

    shape: IntTriple
    affine: Affine
    notes: tuple[str, ...] = ()

    @property
    def from_lps(self) -> Affine:
        """Matrix from world mm (LPS) to voxel index, shape (4, 4)."""
        return np.asarray(np.linalg.inv(LPS_TO_RAS @ self.affine))


class SlicesError(DataError):
    """Slices are missing, duplicated, shifted or not equally spaced."""

    check = "slices"


def grid_of(planes: Sequence[Plane], *, thickness: float | None, sparse: bool = False) -> Grid:
    """Return the grid of slices that are sorted along their normal.

    Args:
        planes: One plane per slice, all with the same size, spacing and orientation, in ascending order along the
            normal.
        thickness: Slice thickness in mm, used if there is only one slice. With `sparse`: distance between slices.
        sparse: Whether slices may be missing (a SEG may omit empty frames).

    Returns:
        The grid; its affine is sheared if the gantry tilt is above 0.1°.

    Raises:
        SlicesError: A slice is missing, duplicated or shifted; the message gives its position.
        DataError: The distance between slices cannot be determined.
    """
    first = planes[0]
    along = np.asarray([float(np.asarray(plane.position) @ first.normal) for plane in planes])
    if len(planes) == 1:
        if thickness is None or not 0 < thickness < 1000:
            raise DataError("has only one slice, and its thickness is unknown", remedy="export the whole series")
        step, count = first.normal * thickness, 1
        return Grid((first.shape[1], first.shape[0], count), _affine(first, step))
    gaps = np.diff(along)
    index = _indices(planes, gaps, thickness if sparse else None, sparse=sparse)
    positions = np.asarray([plane.position for plane in planes])
    # Least squares over all slices: one rounded position does not move the grid.
    centred = index - index.mean()
    step = (centred[:, None] * (positions - positions.mean(axis=0))).sum(axis=0) / (centred**2).sum()
    step_mm = float(step @ first.normal)
    tilt = math.degrees(math.atan2(float(np.linalg.norm(step - step_mm * first.normal)), step_mm))
    notes = []
    if tilt > _TILT_DEGREES:
        notes.append(f"the gantry was tilted by {tilt:.2f}°; the affine is sheared")
    else:
        # Positions are decimal text: a difference in the tenth digit is a rounding error.
        step = round(step_mm, 9) * first.normal
    origin = positions.mean(axis=0) - index.mean() * step
    off = positions - (origin + index[:, None] * step)
    uneven = np.abs(off @ first.normal)
    sideways = np.linalg.norm(off - (off @ first.normal)[:, None] * first.normal, axis=1)
    worst = int(uneven.argmax())
    if uneven[worst] > max(_ROUNDED * step_mm, _EVEN_MM):
        raise SlicesError(
            f"slices are not equally spaced: the slice at {where(planes[worst])} is {uneven[worst]:.3g} mm off "
            f"(gaps from {gaps.min():.4g} to {gaps.max():.4g} mm)",
            remedy="resample the series to equal spacing, or export it again",
        )
    if uneven[worst] > max(_EVEN * step_mm, _EVEN_MM):
        notes.append(f"slice positions deviate from equal spacing ({step_mm:.4g} mm) by up to {uneven[worst]:.3g} mm")
    worst = int(sideways.argmax())
    if sideways[worst] > max(_OFF_GRID * min(first.pixel_spacing), _EVEN_MM):
        raise SlicesError(
            f"the slice at {where(planes[worst])} is shifted sideways by {sideways[worst]:.3g} mm "
            "relative to the other slices",
            remedy="export the series again",
        )
    shape = (first.shape[1], first.shape[0], int(index[-1]) + 1)
    exact = np.asarray(first.position)
    # Use the position in the header if it agrees with the fitted one, otherwise the fitted one.
    origin = exact if np.allclose(origin, exact, rtol=0, atol=1e-4) else origin
    return Grid(shape, _affine(first, step, origin), tuple(notes))


def where(plane: Plane) -> str:
    """Return a plane's position as text for a message."""
    return _text(plane.position)


def _text(position: Sequence[float] | Float64Array) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in position) + ") mm"


def _indices(
    planes: Sequence[Plane], gaps: Float64Array, distance: float | None, *, sparse: bool
) -> npt.NDArray[np.float64]:
    """Return the slice index of each plane; without `sparse`, the index is the plane's rank."""
    if gaps.min() < 1e-3:
        at = int(gaps.argmin())
        raise SlicesError(f"two slices lie at {where(planes[at])}", remedy="keep one acquisition of the series")
    if sparse:
        step = float(gaps.min()) if distance is None or not distance > 0 else distance
        index = np.concatenate([[0.0], np.cumsum(gaps / step)])
        rounded: npt.NDArray[np.float64] = np.rint(index)
        if rounded[-1] > 1e5 or np.abs(index - rounded).max() > _ROUNDED or np.diff(rounded).min() < 1:
            raise DataError(
                f"the frame positions are not multiples of {step:.4g} mm",
                remedy="add the CT that the segmentation was drawn on",
            )
        return rounded
    _check_gaps(planes, gaps)
    return np.arange(len(planes), dtype=np.float64)


def _check_gaps(planes: Sequence[Plane], gaps: Float64Array) -> None:
    """Raise SlicesError if a slice is missing, or if the distance between slices changes; the place is named."""
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > 1.5 * usual)
    other = np.flatnonzero(np.abs(gaps - usual) > max(0.5 * usual, _EVEN_MM))
    if not len(wide) and not len(other):
        return
    counts = np.rint(gaps[wide] / usual).astype(int) - 1
    whole = bool((np.abs(gaps[wide] / usual - counts - 1) <= 0.2).all())
    even = bool((np.abs(np.delete(gaps, wide) - usual) <= max(2 * _ROUNDED * usual, _EVEN_MM)).all())
    if len(wide) and whole and even and len(wide) <= max(1, len(gaps) // 4):
        places = [_text(np.asarray(planes[gap].position) + planes[gap].normal * usual) for gap in wide[:3]]
        more = f" and {len(wide) - 3} more places" if len(wide) > 3 else ""
        count, gap = int(counts.sum()), int(wide[0])
        raise SlicesError(
            f"{count} slice{'s are' if count > 1 else ' is'} missing at {', '.join(places)}{more}: "
            f"the gap is {gaps[gap]:.4g} mm, the other slices are {usual:.4g} mm apart",
            remedy="download or export the series again",
        )
    # The distance that the series begins with decides where it changes.
    changed = np.flatnonzero(np.abs(gaps - gaps[0]) > max(2 * _ROUNDED * float(gaps[0]), _EVEN_MM))
    at = int(changed[0])
    raise SlicesError(
        f"slices are not equally spaced from {where(planes[at])} on: the next gap is {gaps[at]:.4g} mm, the slices "
        f"before are {gaps[0]:.4g} mm apart (gaps from {gaps.min():.4g} to {gaps.max():.4g} mm)",
        remedy="resample the series to equal spacing, or export it again",
    )


def _affine(first: Plane, step: Float64Array, origin: Any = None) -> Affine:
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = first.column_step, first.row_step, step
    lps[:3, 3] = first.position if origin is None else origin
    return np.asarray(LPS_TO_RAS @ lps + 0.0)


@dataclass(frozen=True)
class Placement:
    """Position and direction of a frame on a grid.

    Attributes:
        origin: Voxel of the frame's first pixel; it may lie outside the grid.
        column_axis: Grid axis along which the column index increases.
        column_sign: 1 if the voxel index increases with the column index, −1 if it decreases.
        row_axis: Grid axis along which the row index increases.
        row_sign: 1 if the voxel index increases with the row index, −1 if it decreases.
        shape: Number of rows, number of columns of the frame.
    """

    origin: IntTriple
    column_axis: int
    column_sign: int
    row_axis: int
    row_sign: int
    shape: tuple[int, int]

    @property
    def slice_axis(self) -> int:
        """The grid axis normal to the frame."""
        return 3 - self.column_axis - self.row_axis

    def within(self, shape: IntTriple) -> bool:
        """Return whether the whole frame lies on a grid of a shape."""
        ends = list(self.origin)
        ends[self.column_axis] += self.column_sign * (self.shape[1] - 1)
        ends[self.row_axis] += self.row_sign * (self.shape[0] - 1)
        corners = zip(self.origin, ends, shape, strict=True)
        return all(min(a, b) >= 0 and max(a, b) < size for a, b, size in corners)

    def lost(self, frame: npt.NDArray[np.bool_], shape: IntTriple) -> int:
        """Return the number of true pixels of the frame that lie outside a grid of a shape."""
        rows, columns = np.nonzero(frame)
        inside = np.ones(len(rows), dtype=np.bool_)
        inside &= 0 <= self.origin[self.slice_axis] < shape[self.slice_axis]
        for axis, sign, at in ((self.row_axis, self.row_sign, rows), (self.column_axis, self.column_sign, columns)):
            place = self.origin[axis] + sign * at
            inside &= (place >= 0) & (place < shape[axis])
        return int(np.count_nonzero(~inside))

    def paint(self, frame: npt.NDArray[np.bool_], volume: npt.NDArray[Any], value: int, start: IntTriple) -> None:
        """Write a value at the frame's true pixels into a part of the grid; pixels outside are skipped.

        Args:
            frame: Shape (rows, columns).
            volume: Part of the grid, changed in place.
            value: Value to write.
            start: Voxel of the grid at which `volume` begins.
        """
        at = tuple(o - s for o, s in zip(self.origin, start, strict=True))
        if not 0 <= at[self.slice_axis] < volume.shape[self.slice_axis]:
            return
        picture = frame if self.row_axis < self.column_axis else frame.T
        # From here on, the picture's axes are the volume's two in-plane axes, in order.
        axes = (self.row_axis, self.column_axis)
        signs = (self.row_sign, self.column_sign)
        if self.row_axis > self.column_axis:
            axes, signs = axes[::-1], signs[::-1]
        picture = picture[:: signs[0], :: signs[1]]
        target, source = [], []
        for axis, sign, size in zip(axes, signs, picture.shape, strict=True):
            low = at[axis] if sign > 0 else at[axis] - size + 1
            begin, end = max(low, 0), min(low + size, volume.shape[axis])
            if end <= begin:
                return
            target.append(slice(begin, end))
            source.append(slice(begin - low, end - low))
        inner = picture[source[0], source[1]]
        index: list[Any] = [0, 0, 0]
        index[self.slice_axis] = at[self.slice_axis]
        index[axes[0]], index[axes[1]] = target
        volume[tuple(index)][inner] = value


def place(plane: Plane, grid: Grid, *, slice_index: int | None, name: str) -> tuple[Placement, float]:
    """Place a frame on a grid; only exact flips and axis permutations are allowed.

    Args:
        plane: The frame.
        grid: The grid.
        slice_index: The slice that the frame refers to. None: only the frame's position is used.
        name: Name of the frame, for messages.

    Returns:
        The placement, and the distance in mm along the slice axis between the frame and its placement.

    Raises:
        DataError: The frame lies off the grid or between two slices; the message gives distance and position.
        UnsupportedDataError: The frame's pixels differ from the grid in size or direction.
    """
    inverse = grid.from_lps
    columns, rows = inverse[:3, :3] @ plane.column_step, inverse[:3, :3] @ plane.row_step
    axes, signs = [], []
    # Over a whole frame, the pixel steps may drift by at most the tolerance.
    drift = _OFF_GRID / max(plane.shape)
    for step in (columns, rows):
        axis = int(np.abs(step).argmax())
        sign = 1 if step[axis] > 0 else -1
        unit = np.zeros(3)
        unit[axis] = sign
        if np.abs(step - unit).max() > max(drift, 1e-4):
            mm = np.linalg.norm(plane.column_step), np.linalg.norm(plane.row_step)
            raise UnsupportedDataError(
                f"{name} has pixels of {mm[0]:.4g} × {mm[1]:.4g} mm that do not match the CT's voxels",
                remedy="export the segmentation on the CT's own grid",
            )
        axes.append(axis)
        signs.append(sign)
    if axes[0] == axes[1]:
        raise UnsupportedDataError(
            f"{name} is not aligned with the CT's axes", remedy="export the segmentation on the CT's own grid"
        )
    exact = inverse[:3, :3] @ np.asarray(plane.position) + inverse[:3, 3]
    at = np.rint(exact)
    normal = 3 - axes[0] - axes[1]
    spacing = spacing_of(grid.affine)
    if slice_index is not None and normal == 2:
        at[2] = slice_index
    off = exact - at
    limit = np.full(3, _OFF_GRID)
    if slice_index is not None:
        limit[normal] = 0.5
    if np.abs(at).max() > 1e6 or (np.abs(off) > limit).any():
        distance = float(np.linalg.norm(off * spacing))
        grid_name = "the slice that it refers to" if slice_index is not None else "the nearest voxels of the CT's grid"
        raise DataError(
            f"{name} at {where(plane)} lies {distance:.3g} mm off {grid_name}",
            remedy="export the segmentation on the CT's own grid",
        )
    origin = (int(at[0]), int(at[1]), int(at[2]))
    placement = Placement(origin, axes[0], signs[0], axes[1], signs[1], plane.shape)
    return placement, float(abs(off[normal]) * spacing[normal])
