"""Segments of DICOM SEG: every frame placed on a grid, painted when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import DataError, HeaderError
from patchcore.types import BoolArray, IntTriple
from patchcore.volumes.dicom.grid import Grid, Placement, Plane, grid_of, place
from patchcore.volumes.dicom.names import label_of
from patchcore.volumes.dicom.objects import guarded, numbers, open_dataset, text
from patchcore.volumes.dicom.pixels import Frames
from patchcore.volumes.dicom.slices import frame_group, frame_plane

__all__ = ["SEG_CLASSES", "Piece", "Segment", "own_grid", "read_segments", "seg_planes", "segment_names"]

LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
SEG_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", LABELMAP_CLASS})

Box = tuple[IntTriple, IntTriple]


@dataclass(frozen=True)
class Piece:
    """A part of a segment in one plane of the grid; `read` returns it, shape (rows, columns)."""

    name: str
    placement: Placement
    read: Callable[[], BoolArray]


@dataclass
class Segment:
    """A segment of a SEG, or an ROI of an RTSTRUCT.

    Attributes:
        number: Its number within its file.
        name: Its own name.
        path: Its file.
        pieces: Its frames.
    """

    number: int
    name: str
    path: Path
    pieces: list[Piece] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The name of its label."""
        return label_of(self.name)

    def box(self, shape: IntTriple) -> Box:
        """Return first voxel and one past the last of what its frames can reach within the grid."""
        starts, stops = [shape], [(0, 0, 0)]
        for piece in self.pieces:
            start, stop = list(piece.placement.origin), [n + 1 for n in piece.placement.origin]
            rows, columns = piece.placement.shape
            for axis, sign, size in (
                (piece.placement.row_axis, piece.placement.row_sign, rows),
                (piece.placement.column_axis, piece.placement.column_sign, columns),
            ):
                if sign > 0:
                    stop[axis] = start[axis] + size
                else:
                    start[axis] = stop[axis] - size
            starts.append((start[0], start[1], start[2]))
            stops.append((stop[0], stop[1], stop[2]))
        low = np.clip(np.min(starts, axis=0), 0, shape)
        high = np.maximum(np.clip(np.max(stops, axis=0), 0, shape), low)
        return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))

    def paint(self, volume: npt.NDArray[Any], value: int, start: IntTriple = (0, 0, 0)) -> None:
        """Write `value` where the segment is; `volume` begins at voxel `start` of the grid.

        Raises:
            DataError: A part of it lies outside.
        """
        for piece in self.pieces:
            if not piece.placement.paint(piece.read(), volume, value, start):
                raise DataError(
                    f"{piece.name} of segment {self.name} reaches beyond the CT",
                    path=self.path,
                    remedy="export the segmentation on the CT's own grid",
                )


def segment_names(dataset: Any, path: Path) -> dict[int, str]:
    """Return the name of each segment by its number.

    Raises:
        HeaderError: A segment has no number, or shares it.
    """
    names: dict[int, str] = {}
    for item in dataset.get("SegmentSequence") or ():
        number = numbers(item, "SegmentNumber", 1, path)
        if number is None or int(number[0]) in names or number[0] < 0:
            raise HeaderError("has a segment without a number of its own", path=path, remedy="export it again")
        name = text(item, "SegmentLabel") or text(item, "SegmentDescription")
        names[int(number[0])] = name or f"Segment {int(number[0])}"
    if text(dataset, "SOPClassUID") == LABELMAP_CLASS or text(dataset, "SegmentationType") == "LABELMAP":
        # There 0 is what is no segment, and may be described like one.
        names.pop(0, None)
    return names


def seg_planes(dataset: Any, path: Path) -> tuple[list[Plane], float | None]:
    """Return the planes of the frames of a SEG that say where they lie, and the distance of slices, if known."""
    planes, distance = [], None
    for index in range(len(dataset.get("PerFrameFunctionalGroupsSequence") or ())):
        plane, _thickness = frame_plane(dataset, index, path)
        if plane is not None:
            planes.append(plane)
    measures = frame_group(dataset, 0, "PixelMeasuresSequence")
    if measures is not None:
        found = numbers(measures, "SpacingBetweenSlices", 1, path)
        if found is None and len({plane.position for plane in planes}) == 1:
            found = numbers(measures, "SliceThickness", 1, path)
        distance = None if found is None else abs(found[0])
    return planes, distance


def own_grid(planes: Sequence[Plane], distance: float | None) -> Grid:
    """Return the grid that a SEG's own frames lie on, for one without its CT.

    Raises:
        DataError: They lie on none.
    """
    if not planes:
        raise DataError("says not where its frames lie", remedy="add the CT that it was drawn on")
    first = planes[0]
    if not all(plane.like(first) for plane in planes):
        raise DataError("has frames of several sizes or directions", remedy="add the CT that it was drawn on")
    unique = {round(float(np.asarray(plane.position) @ first.normal), 3): plane for plane in reversed(planes)}
    ordered = [unique[key] for key in sorted(unique)]
    try:
        return grid_of(ordered, thickness=distance, sparse=True)
    except DataError:
        if distance is None or len(ordered) < 2:
            raise
        # SpacingBetweenSlices is often wrong: then positions speak for themselves.
        return grid_of(ordered, thickness=None, sparse=True)


def read_segments(
    path: Path, grid: Grid, slices: Mapping[tuple[str, int], int], *, plane_of: Callable[[int], Plane]
) -> tuple[list[Segment], list[str]]:
    """Read a SEG: its segments on a grid, and what there is to say about it.

    Args:
        path: The file.
        grid: Of the CT.
        slices: Index of each slice by SOP instance and frame.
        plane_of: The plane of a slice, for frames that only refer to it.

    Raises:
        DataError: A frame lies off the grid or belongs to no segment, or the file is damaged.
        OSError: It cannot be read.
    """
    dataset = open_dataset(path, pixels=True)
    frames = Frames(dataset, path)
    with guarded(path):
        names = segment_names(dataset, path)
        kind = text(dataset, "SegmentationType").upper()
        if text(dataset, "SOPClassUID") == LABELMAP_CLASS:
            kind = "LABELMAP"
        if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
            raise HeaderError(f"SegmentationType {kind or 'missing'} is none", path=path, remedy="export it again")
        notes = []
        threshold = 1.0
        if kind == "FRACTIONAL":
            largest = numbers(dataset, "MaximumFractionalValue", 1, path)
            threshold = (255.0 if largest is None else largest[0]) / 2
            what = text(dataset, "SegmentationFractionalType").lower() or "value"
            notes.append(f"is fractional: voxels whose {what} is at least 0.5 count")
        segments = {number: Segment(number, name, path) for number, name in sorted(names.items())}
        decode = _Decoder(frames, threshold, labelmap=kind == "LABELMAP")
        strayed = 0.0
        for index in range(frames.count):
            name = f"frame {index + 1}"
            number = _segment_number(dataset, index, path) if kind != "LABELMAP" else None
            if number is not None and number not in segments:
                raise HeaderError(f"{name} belongs to segment {number}, which is not listed", path=path)
            source = _source_slice(dataset, index, slices)
            plane, _ = frame_plane(dataset, index, path)
            if plane is None:
                if source is None:
                    raise DataError(f"{name} says neither where it lies nor on which slice", path=path)
                plane = plane_of(source)
            try:
                placement, off = place(plane, grid, slice_index=source, name=name)
            except DataError as error:
                if not decode.any(index):
                    continue
                raise type(error)(error.message, path=path, remedy=error.remedy) from None
            strayed = max(strayed, off)
            if number is not None:
                segments[number].pieces.append(Piece(name, placement, decode.segment(index)))
            else:
                for value, segment in segments.items():
                    segment.pieces.append(Piece(name, placement, decode.value(index, value)))
                decode.check_values(index, segments)
        slice_mm = float(np.linalg.norm(grid.affine[:3, 2]))
        if strayed > max(0.1 * slice_mm, 0.01):
            notes.append(f"frames lie up to {strayed:.3g} mm off the slices that they refer to, and are put on those")
    return list(segments.values()), notes


def _segment_number(dataset: Any, index: int, path: Path) -> int:
    item = frame_group(dataset, index, "SegmentIdentificationSequence")
    found = None if item is None else numbers(item, "ReferencedSegmentNumber", 1, path)
    if found is None:
        raise HeaderError(f"frame {index + 1} belongs to no segment", path=path, remedy="export it again")
    return int(found[0])


def _source_slice(dataset: Any, index: int, slices: Mapping[tuple[str, int], int]) -> int | None:
    """Return the slice that a frame was derived from, None where it names none of them, or several."""
    derivation = frame_group(dataset, index, "DerivationImageSequence")
    found = set()
    for item in (() if derivation is None else derivation.get("SourceImageSequence")) or ():
        uid = text(item, "ReferencedSOPInstanceUID")
        numbers_of = item.get("ReferencedFrameNumber")
        frames = (
            [0]
            if numbers_of is None
            else list(numbers_of)
            if isinstance(numbers_of, Sequence) and not isinstance(numbers_of, str)
            else [numbers_of]
        )
        for frame in frames:
            at = slices.get((uid, int(frame)), slices.get((uid, 0)))
            if at is not None:
                found.add(at)
    return found.pop() if len(found) == 1 else None


class _Decoder:
    """Frames as masks. What is compressed is decoded once and kept, bit-packed where it is a mask."""

    def __init__(self, frames: Frames, threshold: float, *, labelmap: bool) -> None:
        self._frames, self._threshold, self._labelmap = frames, threshold, labelmap
        self._kept: dict[int, npt.NDArray[Any]] = {}

    def segment(self, index: int) -> Callable[[], BoolArray]:
        """Return what reads a frame that belongs to one segment."""
        return lambda: self._mask(index)

    def value(self, index: int, value: int) -> Callable[[], BoolArray]:
        """Return what reads where a frame has a value."""
        return lambda: np.asarray(self._values(index) == value)

    def any(self, index: int) -> bool:
        """Return whether a frame has any foreground."""
        return bool((self._values(index) if self._labelmap else self._mask(index)).any())

    def check_values(self, index: int, known: Mapping[int, object]) -> None:
        """Raise HeaderError where a frame of a label map holds what is no segment."""
        for value in np.unique(self._values(index)):
            if value != 0 and int(value) not in known:
                raise HeaderError(f"frame {index + 1} holds {int(value)}, which is no segment", path=self._frames.path)

    def _mask(self, index: int) -> BoolArray:
        shape = (self._frames.rows, self._frames.columns)
        if not self._frames.encapsulated:
            return np.asarray(self._frames.frame(index) >= self._threshold)
        if index not in self._kept:
            self._kept[index] = np.packbits(self._frames.frame(index) >= self._threshold)
        return np.unpackbits(self._kept[index], count=shape[0] * shape[1]).reshape(shape).view(np.bool_)

    def _values(self, index: int) -> npt.NDArray[Any]:
        if not self._frames.encapsulated:
            return self._frames.frame(index)
        if index not in self._kept:
            self._kept[index] = self._frames.frame(index)
        return self._kept[index]
