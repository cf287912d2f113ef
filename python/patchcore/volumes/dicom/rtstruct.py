"""Reads the ROIs of an RTSTRUCT and rasterises their contours on the grid of a CT; see `contours` for the rules.

A contour belongs to the slice nearest to it. If planes of contours lie closer together than the slices, each slice
takes the plane nearest to it. Nothing is skipped silently: every choice is a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.affines import spacing_of
from patchcore.errors import CorruptFileError, HeaderError
from patchcore.types import Float64Array
from patchcore.volumes.dicom.contours import Region, between
from patchcore.volumes.dicom.gaps import Gap, find_gaps
from patchcore.volumes.dicom.grid import Grid, Placement
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.dicom.objects import guarded, numbers, open_dataset
from patchcore.volumes.dicom.segments import Piece, Segment

__all__ = ["RTSTRUCT_CLASS", "read_rois", "roi_names"]

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
# Distances along the slice axis, in slices.
_ON_SLICE = 0.1
_TILTED = 0.2
# A contour may reach this far beyond the pixels at the border of the CT, in voxels.
_BEYOND = 0.1
_CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR"})
_LISTED = 8
# Gaps up to this distance between drawn slices are filled and reported, even if the rest is drawn on every slice.
_FILLED = 3


@dataclass
class _Roi:
    """The contours of an ROI, and what was found about them.

    Attributes:
        planes: Contours (column, row) by their position along the slice axis, in slices.
        skipped: Number of items that enclose nothing, by type.
        xor: Whether contours are combined by XOR.
        away: Distance of each contour beyond the first or last slice, mm.
        beyond: Distance of each contour beyond the border of its slice, mm.
        tilted: Number of contours that are not parallel to the slices.
        between: Distance of each contour from its slice, mm, if it lies between slices.
        count: Number of closed contours.
    """

    name: str
    planes: dict[float, list[Float64Array]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    xor: bool = False
    away: list[float] = field(default_factory=list)
    beyond: list[float] = field(default_factory=list)
    tilted: int = 0
    between: list[float] = field(default_factory=list)
    count: int = 0


def roi_names(dataset: Any, path: Path) -> dict[int, str]:
    """Return the name of each ROI by its number.

    Raises:
        HeaderError: Two ROIs share a number.
    """
    names: dict[int, str] = {}
    for item in dataset.get("StructureSetROISequence") or ():
        number = numbers(item, "ROINumber", 1, path)
        if number is None:
            continue
        if int(number[0]) in names:
            raise HeaderError(f"two ROIs have the number {int(number[0])}", path=path, remedy="export it again")
        names[int(number[0])] = str(item.get("ROIName") or "").strip() or f"ROI {int(number[0])}"
    return names


def read_rois(path: Path, grid: Grid, *, interpolate: bool = False) -> tuple[list[Segment], list[Note]]:
    """Read the closed contours of an RTSTRUCT.

    Args:
        path: The file.
        grid: Grid of the CT.
        interpolate: Whether to fill the slices between drawn ones, if at most 1.5 times the usual number is missing.

    Returns:
        The ROIs that enclose a voxel of the CT, and notes about contours that were skipped, cut, moved or combined.

    Raises:
        DataError: The file is damaged.
        OSError: The file cannot be read.
    """
    dataset = open_dataset(path)
    segments: list[Segment] = []
    notes: list[Note] = []
    with guarded(path):
        names = roi_names(dataset, path)
        # An ROI that has no contours at all is reported, too.
        contours: dict[int, list[Any]] = defaultdict(list, {number: [] for number in names})
        nameless = 0
        for item in dataset.get("ROIContourSequence") or ():
            found = numbers(item, "ReferencedROINumber", 1, path)
            listed = item.get("ContourSequence") or ()
            if found is None:
                nameless += len(listed)
            else:
                contours[int(found[0])] += listed
        if nameless:
            count = f"{_contours(nameless)} {'belongs' if nameless == 1 else 'belong'}"
            notes.append(Note(f"{count} to no ROI and {_are(nameless)} skipped", "contours-open"))
        for number, items in contours.items():
            roi = _read(items, names.get(number, f"ROI {number}"), grid, path)
            notes += _notes(roi)
            if roi.planes:
                pieces, more = _pieces(roi, grid, interpolate=interpolate)
                segments.append(Segment(number, roi.name, path, pieces))
                notes += more
    return segments, notes


def _read(items: Sequence[Any], name: str, grid: Grid, path: Path) -> _Roi:
    roi = _Roi(name)
    inverse = grid.from_lps
    mm = spacing_of(grid.affine)
    size = np.asarray(grid.shape[:2])
    for order, item in enumerate(items, start=1):
        kind = str(item.get("ContourGeometricType") or "CLOSED_PLANAR").strip().upper().replace(" ", "_")
        points = _points(item, path, f"contour {order} of {name}")
        if kind not in _CLOSED or len(points) < 3:
            roi.skipped[kind if kind not in _CLOSED else "of fewer than 3 points"] += 1
            continue
        roi.xor |= kind.endswith("XOR")
        roi.count += 1
        voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
        low, high = float(voxels[:, 2].min()), float(voxels[:, 2].max())
        at = (low + high) / 2
        if high - low > _TILTED:
            roi.tilted += 1
            continue
        index = int(np.floor(at + 0.5)) if abs(at) < 1e9 else -1
        if not 0 <= index < grid.shape[2]:
            roi.away.append(max(-at, at - (grid.shape[2] - 1)) * mm[2])
            continue
        flat = voxels[:, :2]
        over = np.maximum(-0.5 - flat, flat - (size - 0.5)).max(axis=0)
        if over.max() > _BEYOND:
            roi.beyond.append(float((over * mm[:2]).max()))
        plane = float(index)
        if abs(at - index) > _ON_SLICE:
            roi.between.append(abs(at - index) * mm[2])
            plane = next((place for place in roi.planes if place % 1 and abs(place - at) < _ON_SLICE / 2), at)
        roi.planes.setdefault(plane, []).append(flat)
    return roi


def _points(contour: Any, path: Path, name: str) -> Float64Array:
    data = contour.get("ContourData")
    given = [] if data is None else [float(value) for value in (data if isinstance(data, Sequence) else [data])]
    points = np.asarray(given, dtype=np.float64)
    if len(points) % 3 or not np.isfinite(points).all() or (len(points) and np.abs(points).max() > 1e9):
        raise CorruptFileError(f"{name} is not a list of points (x, y, z)", path=path, remedy="export it again")
    return points.reshape(-1, 3)


def _notes(roi: _Roi) -> Iterator[Note]:
    """Yield notes about contours that are skipped or cut."""
    if not roi.skipped and not roi.count:
        yield Note(f"ROI {roi.name} has no contour", "contours-open", roi.name)
    if roi.skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(roi.skipped.items()))
        rest = "" if roi.count else "; it has no closed contour"
        text = f"ROI {roi.name}: {kinds} {'is' if roi.skipped.total() == 1 else 'are'} skipped: nothing is enclosed"
        yield Note(f"{text}{rest}", "contours-open", roi.name)
    if roi.tilted:
        some, are = _some(roi.tilted, roi.count), _are(roi.tilted)
        text = f"ROI {roi.name}: {some} {are} not parallel to the CT's slices and {are} skipped"
        yield Note(text, "roi-outside", roi.name)
    if roi.away:
        some, are = _some(len(roi.away), roi.count, "lies", "lie"), _are(len(roi.away))
        where = f"beyond the first or last slice of the CT, by up to {max(roi.away):.4g} mm"
        yield Note(f"ROI {roi.name}: {some} {where}, and {are} skipped", "roi-outside", roi.name)
    if roi.beyond:
        some, are = _some(len(roi.beyond), roi.count, "reaches", "reach"), _are(len(roi.beyond))
        where = f"beyond the border of the CT's slices, by up to {max(roi.beyond):.4g} mm"
        yield Note(f"ROI {roi.name}: {some} {where}, and {are} cut", "roi-outside", roi.name)


def _some(count: int, of: int, one: str = "", many: str = "") -> str:
    """Say how many contours do something: the verb follows the number."""
    return f"{count} of {_contours(of)} {one if count == 1 else many}".rstrip()


def _contours(count: int) -> str:
    return f"{count} contour{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _pieces(roi: _Roi, grid: Grid, *, interpolate: bool) -> tuple[list[Piece], list[Note]]:
    """Return one piece per slice that has a region, and notes about how contours were combined and placed."""
    notes: list[Note] = []
    columns_rows = (grid.shape[0], grid.shape[1])
    planes = {at: Region.of(contours, columns_rows, xor=roi.xor) for at, contours in sorted(roi.planes.items())}
    overlaps, repeated = (sum(getattr(item, name) for item in planes.values()) for name in ("overlaps", "repeated"))
    if overlaps:
        slices = sum(region.overlaps > 0 for region in planes.values())
        text = (
            f"ROI {roi.name}: contours overlap on {slices} slice{'' if slices == 1 else 's'}, neither inside the other"
        )
        notes.append(Note(f"{text}; they are joined", "contours-overlap", roi.name))
    if repeated:
        once = "counts once" if repeated == 1 else "count once"
        text = f"ROI {roi.name}: {_contours(repeated)} {_are(repeated)} drawn twice and {once}"
        notes.append(Note(text, "contours-repeated", roi.name))
    drawn, unused = _on_slices(planes)
    if roi.between:
        count = len(roi.between)
        some = "1 plane of contours has no slice" if unused == 1 else f"{unused} planes of contours have no slices"
        rest = f"; {some} and {_are(unused)} not used" if unused else ""
        text = (
            f"ROI {roi.name}: {_contours(count)} {'lies' if count == 1 else 'lie'} between slices, "
            f"by up to {max(roi.between):.3g} mm; "
            f"each slice takes the nearest plane of contours{rest}"
        )
        notes.append(Note(text, "contours-between", roi.name))
    gaps = find_gaps(drawn)
    made: list[tuple[int, Gap]] = []
    if interpolate:
        for gap in gaps:
            if gap.above - gap.below <= max(_FILLED, round(1.5 * gap.usual)):
                made += [(index, gap) for index in gap.missing]
        if made:
            indices = sorted({index for index, _ in made})
            text = f"ROI {roi.name}: the region on {_slices(indices)} is interpolated between drawn slices"
            notes.append(Note(text, "contours-interpolated", roi.name))
    else:
        notes += _gap_notes(roi, gaps)
    pieces = [
        Piece(
            f"contour at slice {index} of {roi.name}",
            Placement((*region.low, index), 0, 1, 1, 1, region.shape),
            region.mask,
        )
        for index, region in drawn.items()
    ]
    mm = spacing_of(grid.affine)
    for index, gap in made:
        mask = between(*gap.parts, (index - gap.below) / (gap.above - gap.below), (mm[1], mm[0]))
        place = Placement((*gap.low, index), 0, 1, 1, 1, (mask.shape[0], mask.shape[1]))
        pieces.append(Piece(f"interpolated slice {index} of {roi.name}", place, partial(np.asarray, mask)))
    return sorted(pieces, key=lambda piece: piece.placement.origin[2]), notes


def _on_slices(planes: dict[float, Region]) -> tuple[dict[int, Region], int]:
    """Return the region of each slice, from the plane nearest to it, and the number of planes without a slice."""
    best: dict[int, float] = {}
    for at in planes:
        index = int(np.floor(at + 0.5))
        if index not in best or abs(at - index) < abs(best[index] - index):
            best[index] = at
    return {index: planes[at] for index, at in sorted(best.items())}, len(planes) - len(best)


def _gap_notes(roi: _Roi, gaps: Sequence[Gap]) -> Iterator[Note]:
    """Yield notes about lesions that are not drawn on every slice."""
    regular = [gap for gap in gaps if gap.usual >= 2 and (gap.links > 1 or gap.above - gap.below <= _FILLED)]
    if regular:
        step = round(min(gap.usual for gap in regular))
        text = (
            f"ROI {roi.name} is drawn on every {_ordinal(step)} slice: {_slices(_missing(regular))} between drawn "
            "slices have no contour, so that one lesion counts as several flat ones"
        )
        yield Note(text, "contour-gaps", roi.name)
    single = [gap for gap in gaps if gap not in regular and gap.above - gap.below <= _FILLED + 1]
    if single:
        text = f"ROI {roi.name} has no contour on {_slices(_missing(single))}, but overlapping ones below and above"
        yield Note(text, "contour-missing", roi.name)


def _missing(gaps: Sequence[Gap]) -> list[int]:
    return sorted({index for gap in gaps for index in gap.missing})


def _slices(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:_LISTED])) + (
        f" and {len(indices) - _LISTED} more" if len(indices) > _LISTED else ""
    )
    return f"slice{'' if len(indices) == 1 else 's'} {shown}"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
