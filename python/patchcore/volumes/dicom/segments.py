"""Reads the segments of a DICOM SEG: frames are placed on a grid when read, and painted on request."""

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
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.dicom.objects import guarded, numbers, open_dataset, text
from patchcore.volumes.dicom.pixels import Frames
from patchcore.volumes.dicom.slices import frame_group, frame_plane

__all__ = [
    "SEG_CLASSES",
    "Box",
    "Piece",
    "Segment",
    "own_grid",
    "read_segments",
    "seg_planes",
    "segment_names",
]

LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
SEG_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", LABELMAP_CLASS})

Box = tuple[IntTriple, IntTriple]


@dataclass(frozen=True)
class Piece:
    """A part of a segment in one plane of the grid; `read` returns its mask, shape (rows, columns)."""

    name: str
    placement: Placement
    read: Callable[[], BoolArray]


@dataclass
class Segment:
    """A segment of a SEG, or an ROI of an RTSTRUCT.

    Attributes:
        number: Number of the segment within its file.
        name: Name of the segment.
        path: File of the segment.
        pieces: Frames of the segment, or contours of the ROI per slice.
        label: Name of the label that the segment belongs to, once it is known.
    """

    number: int
    name: str
    path: Path
    pieces: list[Piece] = field(default_factory=list)
    label: str = ""

    def box(self, shape: IntTriple) -> Box:
        """Return the bounding box of all frames, clipped to the grid: first voxel, and one past the last."""
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
        """Write `value` at the segment's voxels; `volume` starts at voxel `start` of the grid.

        Voxels outside `volume` are skipped; :func:`read_segments` has already reported those outside the CT.
        """
        for piece in self.pieces:
            piece.placement.paint(piece.read(), volume, value, start)


def segment_names(dataset: Any, path: Path) -> dict[int, str]:
    """Return the name of each segment by its number.

    Raises:
        HeaderError: A segment has no valid number, or two segments share one.
    """
    names: dict[int, str] = {}
    for item in dataset.get("SegmentSequence") or ():
        number = numbers(item, "SegmentNumber", 1, path)
        if number is None or int(number[0]) in names or number[0] < 0:
            raise HeaderError(
                "a segment has no valid number, or the number of another segment", path=path, remedy="export it again"
            )
        name = text(item, "SegmentLabel") or text(item, "SegmentDescription")
        names[int(number[0])] = name or f"Segment {int(number[0])}"
    if text(dataset, "SOPClassUID") == LABELMAP_CLASS or text(dataset, "SegmentationType") == "LABELMAP":
        # In a label map 0 is the background, but a file may list it as a segment.
        names.pop(0, None)
    return names


def seg_planes(dataset: Any, path: Path) -> tuple[list[Plane], float | None]:
    """Return the planes of all frames of a SEG that have a position, and the distance between slices if known."""
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
    """Return the grid of a SEG's own frames, for a SEG without its CT.

    Raises:
        DataError: The frames do not lie on one grid.
    """
    if not planes:
        raise DataError("no frame has a position", remedy="add the CT that the segmentation was drawn on")
    first = planes[0]
    if not all(plane.like(first) for plane in planes):
        raise DataError(
            "frames differ in size, spacing or direction", remedy="add the CT that the segmentation was drawn on"
        )
    unique = {round(float(np.asarray(plane.position) @ first.normal), 3): plane for plane in reversed(planes)}
    ordered = [unique[key] for key in sorted(unique)]
    try:
        return grid_of(ordered, thickness=distance, sparse=True)
    except DataError:
        if distance is None or len(ordered) < 2:
            raise
        # SpacingBetweenSlices is often wrong: use only the positions.
        return grid_of(ordered, thickness=None, sparse=True)


def read_segments(
    path: Path,
    grid: Grid,
    slices: Mapping[tuple[str, int], int],
    *,
    plane_of: Callable[[int], Plane],
    fractional_threshold: float = 0.5,
) -> tuple[list[Segment], list[Note]]:
    """Read the segments of a SEG on a grid, and notes about the file.

    Args:
        path: The file.
        grid: Grid of the CT.
        slices: Index of each slice by SOP instance and frame.
        plane_of: Returns the plane of a slice; used for frames that refer to a slice but have no position.
        fractional_threshold: Voxels of a fractional segment count if their fraction is at least this.

    Raises:
        DataError: A frame lies off the grid or does not belong to a segment, or the file is damaged.
        OSError: The file cannot be read.
    """
    dataset = open_dataset(path, pixels=True)
    frames = Frames(dataset, path)
    with guarded(path):
        names = segment_names(dataset, path)
        kind = text(dataset, "SegmentationType").upper()
        if text(dataset, "SOPClassUID") == LABELMAP_CLASS:
            kind = "LABELMAP"
        if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
            raise HeaderError(
                f"SegmentationType is {kind or 'missing'}, expected BINARY, FRACTIONAL or LABELMAP",
                path=path,
                remedy="export it again",
            )
        notes: list[Note] = []
        threshold = 1.0
        if kind == "FRACTIONAL":
            largest = numbers(dataset, "MaximumFractionalValue", 1, path)
            top = 255.0 if largest is None else largest[0]
            threshold = top * fractional_threshold
            most = (1 << frames.stored) - 1
            if not 0 < threshold <= most or top > most:
                raise HeaderError(
                    f"MaximumFractionalValue does not fit into {frames.stored} bits",
                    path=path,
                    remedy="export it again",
                )
            what = text(dataset, "SegmentationFractionalType").lower() or "value"
            notes.append(Note(f"is fractional; voxels with a {what} of at least {fractional_threshold:g} are used"))
        segments = {number: Segment(number, name, path) for number, name in sorted(names.items())}
        decode = _Decoder(frames, threshold, labelmap=kind == "LABELMAP")
        strayed = 0.0
        outside: dict[str, list[int]] = {}
        for index in range(frames.count):
            name = f"frame {index + 1}"
            number = _segment_number(dataset, index, path) if kind != "LABELMAP" else None
            if number is not None and number not in segments:
                raise HeaderError(f"{name} belongs to segment {number}, which is not listed", path=path)
            source = _source_slice(dataset, index, slices)
            plane, _ = frame_plane(dataset, index, path)
            if plane is None:
                if source is None:
                    raise DataError(f"{name} has neither a position nor a reference to a slice", path=path)
                plane = plane_of(source)
            try:
                placement, off = place(plane, grid, slice_index=source, name=name)
            except DataError as error:
                if not decode.any(index):
                    continue
                raise type(error)(error.message, path=path, remedy=error.remedy) from None
            strayed = max(strayed, off)
            if number is not None:
                pieces = [(segments[number], Piece(name, placement, decode.segment(index)))]
            else:
                present = decode.checked_values(index, segments)
                pieces = [(segments[value], Piece(name, placement, decode.value(index, value))) for value in present]
            whole = placement.within(grid.shape)
            for segment, piece in pieces:
                lost = 0 if whole else placement.lost(piece.read(), grid.shape)
                if lost:
                    outside.setdefault(segment.name, []).append(lost)
                segment.pieces.append(piece)
        slice_mm = float(np.linalg.norm(grid.affine[:3, 2]))
        if strayed > max(0.1 * slice_mm, 0.01):
            notes.append(
                Note(
                    f"frames lie up to {strayed:.3g} mm off the slices that they refer to; they are placed on these "
                    "slices"
                )
            )
        for name, lost_voxels in outside.items():
            where = f"segment {name}: {sum(lost_voxels)} voxels on {len(lost_voxels)} frames lie outside the CT"
            notes.append(Note(f"{where} and are skipped", "roi-outside", name))
    return list(segments.values()), notes


def _segment_number(dataset: Any, index: int, path: Path) -> int:
    item = frame_group(dataset, index, "SegmentIdentificationSequence")
    found = None if item is None else numbers(item, "ReferencedSegmentNumber", 1, path)
    if found is None:
        raise HeaderError(f"frame {index + 1} does not belong to a segment", path=path, remedy="export it again")
    return int(found[0])


def _source_slice(dataset: Any, index: int, slices: Mapping[tuple[str, int], int]) -> int | None:
    """Return the slice that a frame was derived from; None if it refers to no slice of the CT, or to several."""
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
    """Decodes frames to masks. A compressed frame is decoded once and kept; a mask is kept bit-packed."""

    def __init__(self, frames: Frames, threshold: float, *, labelmap: bool) -> None:
        self._frames, self._threshold, self._labelmap = frames, threshold, labelmap
        self._kept: dict[int, npt.NDArray[Any]] = {}

    def segment(self, index: int) -> Callable[[], BoolArray]:
        """Return a function that reads the mask of a frame that belongs to one segment."""
        return lambda: self._mask(index)

    def value(self, index: int, value: int) -> Callable[[], BoolArray]:
        """Return a function that reads the mask of the pixels with a value in a frame."""
        return lambda: np.asarray(self._values(index) == value)

    def any(self, index: int) -> bool:
        """Return whether a frame has any foreground."""
        return bool((self._values(index) if self._labelmap else self._mask(index)).any())

    def checked_values(self, index: int, known: Mapping[int, object]) -> list[int]:
        """Return the segments that a frame of a label map holds.

        Raises:
            HeaderError: The frame holds a value that is not a segment.
        """
        found = [int(value) for value in np.unique(self._values(index)) if value != 0]
        for value in found:
            if value not in known:
                raise HeaderError(
                    f"frame {index + 1} holds {value}, which is not a listed segment", path=self._frames.path
                )
        return found

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
