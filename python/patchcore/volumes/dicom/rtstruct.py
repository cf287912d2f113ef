"""Reads the ROIs of an RTSTRUCT and rasterises their contours on the grid of a CT; see `contours` for the rules.

A contour belongs to the slice nearest to it. If planes of contours lie closer together than the slices, each slice
takes the plane nearest to it. Nothing is left out silently: every choice is a note.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.affines import spacing_of
from patchcore.errors import CorruptFileError
from patchcore.types import BoolArray, Float64Array
from patchcore.volumes.dicom.contours import Region, between
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
    """Return the name of each ROI by its number."""
    names: dict[int, str] = {}
    for item in dataset.get("StructureSetROISequence") or ():
        number = numbers(item, "ROINumber", 1, path)
        if number is not None:
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
        contours: dict[int, list[Any]] = defaultdict(list)
        for item in dataset.get("ROIContourSequence") or ():
            found = numbers(item, "ReferencedROINumber", 1, path)
            if found is not None:
                contours[int(found[0])] += item.get("ContourSequence") or ()
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
        outside = max(-at, at - (grid.shape[2] - 1))
        if outside > 0.5:
            roi.away.append(outside * mm[2])
            continue
        flat = voxels[:, :2]
        over = np.maximum(-0.5 - flat, flat - (size - 0.5)).max(axis=0)
        if over.max() > _BEYOND:
            roi.beyond.append(float((over * mm[:2]).max()))
        if abs(at - round(at)) > _ON_SLICE:
            roi.between.append(abs(at - round(at)) * mm[2])
        plane = next((place for place in roi.planes if abs(place - at) < _ON_SLICE / 2), at)
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
    """Yield notes about contours that are left out or cut."""
    if roi.skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(roi.skipped.items()))
        rest = "" if roi.count else "; it has no closed contour"
        text = f"ROI {roi.name}: {kinds} {'is' if roi.skipped.total() == 1 else 'are'} skipped: nothing is enclosed"
        yield Note(f"{text}{rest}", "contours-open", roi.name)
    if roi.tilted:
        some, are = _some(roi.tilted, roi.count), _are(roi.tilted)
        text = f"ROI {roi.name}: {some} {are} not parallel to the CT's slices and {are} left out"
        yield Note(text, "roi-outside", roi.name)
    if roi.away:
        some, are = _some(len(roi.away), roi.count, "lies", "lie"), _are(len(roi.away))
        where = f"beyond the first or last slice of the CT, by up to {max(roi.away):.4g} mm"
        yield Note(f"ROI {roi.name}: {some} {where}, and {are} left out", "roi-outside", roi.name)
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
        some = "1 plane of contours has" if unused == 1 else f"{unused} planes of contours have"
        rest = f"; {some} no slice of their own and {_are(unused)} not used" if unused else ""
        text = (
            f"ROI {roi.name}: {_contours(count)} {'lies' if count == 1 else 'lie'} between slices, "
            f"by up to {max(roi.between):.3g} mm; "
            f"each slice takes the nearest plane of contours{rest}"
        )
        notes.append(Note(text, "contours-between", roi.name))
    gaps = _gaps(drawn)
    steps = np.diff(sorted(drawn))
    usual = float(np.median(steps)) if len(steps) else 1.0
    made: dict[int, Callable[[], tuple[BoolArray, tuple[int, int]]]] = {}
    if interpolate:
        most = max(2, round(1.5 * usual))
        for below, above in gaps:
            if above - below <= most:
                for index in range(below + 1, above):
                    made[index] = _blend(drawn[below], drawn[above], (index - below) / (above - below), grid)
        if made:
            text = f"ROI {roi.name}: the region on {_slices(sorted(made))} is interpolated between drawn slices"
            notes.append(Note(text, "contours-interpolated", roi.name))
    else:
        missing = [index for below, above in gaps for index in range(below + 1, above)]
        if missing and usual >= 2:
            text = (
                f"ROI {roi.name} is drawn on every {_ordinal(round(usual))} slice: {_slices(missing)} between drawn "
                "slices have no contour, so that one lesion counts as several flat ones"
            )
            notes.append(Note(text, "contour-gaps", roi.name))
        else:
            single = [below + 1 for below, above in gaps if above - below == 2]
            if single:
                text = f"ROI {roi.name} has no contour on {_slices(single)}, but overlapping ones on both neighbours"
                notes.append(Note(text, "contour-missing", roi.name))
    pieces = [
        Piece(
            f"contour at slice {index} of {roi.name}",
            Placement((*region.low, index), 0, 1, 1, 1, region.shape),
            region.mask,
        )
        for index, region in drawn.items()
    ]
    for index, blend in made.items():
        mask, low = blend()
        place = Placement((*low, index), 0, 1, 1, 1, (mask.shape[0], mask.shape[1]))
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


def _gaps(drawn: dict[int, Region]) -> list[tuple[int, int]]:
    """Return neighbouring drawn slices with slices between them, if their regions overlap: one lesion, probably."""
    order = sorted(drawn)
    pairs = ((a, b) for a, b in pairwise(order) if b - a > 1)
    return [(a, b) for a, b in pairs if bool(np.logical_and(*_common(drawn[a], drawn[b])[:2]).any())]


def _common(one: Region, other: Region) -> tuple[BoolArray, BoolArray, tuple[int, int]]:
    """Return the masks of two regions on the smallest part of the plane that holds both, and its first corner."""
    low = np.minimum(one.low, other.low)
    high = np.maximum(*(np.asarray(item.low) + item.shape[::-1] for item in (one, other)))
    masks = []
    for item in (one, other):
        mask = np.zeros((high - low)[::-1], dtype=np.bool_)
        x, y = np.asarray(item.low) - low
        mask[y : y + item.shape[0], x : x + item.shape[1]] = item.mask()
        masks.append(mask)
    return masks[0], masks[1], (int(low[0]), int(low[1]))


def _blend(below: Region, above: Region, part: float, grid: Grid) -> Callable[[], tuple[BoolArray, tuple[int, int]]]:
    mm = spacing_of(grid.affine)

    def made() -> tuple[BoolArray, tuple[int, int]]:
        one, other, low = _common(below, above)
        return between(one, other, part, (mm[1], mm[0])), low

    return made


def _slices(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:_LISTED])) + (
        f" and {len(indices) - _LISTED} more" if len(indices) > _LISTED else ""
    )
    return f"slice{'' if len(indices) == 1 else 's'} {shown}"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
