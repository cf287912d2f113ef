"""Reads the slices of a CT series from headers, and chooses slices so that each position occurs once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchcore.errors import DataError, HeaderError
from patchcore.types import Float64Array
from patchcore.volumes.dicom.grid import Grid, Plane, SlicesError, grid_of, where
from patchcore.volumes.dicom.objects import numbers, text

__all__ = ["ENHANCED", "PLANE_TAGS", "Slice", "choose_slices", "frame_group", "frame_plane", "slices_of"]

ENHANCED = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
"""SOP classes of CT with many frames in one file: Enhanced CT, and Legacy Converted Enhanced CT."""

# Elements that distinguish acquisitions within one series, the most reliable first.
_KEYS = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "StackID",
    "ImageType",
    "AcquisitionTime",
    "ConvolutionKernel",
)

# Cosine of the angle below which the normals of two parts of a series count as one direction.
_SAME_DIRECTION = 0.7

PLANE_TAGS = (
    "Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
    "SpacingBetweenSlices", *_KEYS,
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """One slice: a file (`frame` is 0), or one frame of a multi-frame file (`frame` counts from 1)."""

    path: Path
    uid: str
    frame: int
    plane: Plane
    thickness: float | None
    keys: tuple[str, ...]
    localizer: bool = False

    @property
    def along(self) -> float:
        """Position along the normal, mm."""
        return sum(a * float(b) for a, b in zip(self.plane.position, self.plane.normal, strict=True))


def slices_of(dataset: Any, path: Path, *, uid: str, enhanced: bool) -> list[Slice]:
    """Return the slices of one CT file; localizers are marked.

    Raises:
        HeaderError: Position, orientation or spacing is missing or impossible.
    """
    if enhanced:
        return _frames(dataset, path, uid)
    position = numbers(dataset, "ImagePositionPatient", 3, path)
    orientation = numbers(dataset, "ImageOrientationPatient", 6, path)
    spacing = numbers(dataset, "PixelSpacing", 2, path)
    kinds = text(dataset, "ImageType").upper()
    localizer = "LOCALIZER" in kinds or "SCREEN SAVE" in kinds or "SCOUT" in kinds
    if position is None or orientation is None or spacing is None:
        if localizer:
            position, orientation, spacing = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0)
        else:
            raise HeaderError("position, orientation or pixel spacing is missing", path=path, remedy="export it again")
    plane = Plane(position, orientation, spacing, _shape(dataset, path))
    plane.check(path)
    keys = tuple(text(dataset, name) for name in _KEYS)
    return [Slice(path, uid, 0, plane, _thickness(dataset, path), keys, localizer)]


def frame_group(dataset: Any, index: int, name: str) -> Any:
    """Return a functional group's item for a frame (counted from 0), else the item for all frames, else None."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if index < len(frames) and (found := frames[index].get(name)):
        return found[0]
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    if shared and (found := shared[0].get(name)):
        return found[0]
    return None


def frame_plane(dataset: Any, index: int, path: Path) -> tuple[Plane | None, float | None]:
    """Return the plane and the thickness of a frame of a multi-frame image; None if they are missing."""
    position, orientation, measures = (
        frame_group(dataset, index, name)
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    if position is None or orientation is None or measures is None:
        return None, None
    at = numbers(position, "ImagePositionPatient", 3, path)
    along = numbers(orientation, "ImageOrientationPatient", 6, path)
    spacing = numbers(measures, "PixelSpacing", 2, path)
    if at is None or along is None or spacing is None:
        return None, None
    plane = Plane(at, along, spacing, _shape(dataset, path))
    plane.check(path)
    return plane, _thickness(measures, path)


def _frames(dataset: Any, path: Path, uid: str) -> list[Slice]:
    found = []
    for index in range(len(dataset.get("PerFrameFunctionalGroupsSequence") or ())):
        plane, thickness = frame_plane(dataset, index, path)
        if plane is None:
            raise HeaderError(f"frame {index + 1} has no position, orientation or spacing", path=path)
        content = frame_group(dataset, index, "FrameContentSequence")
        kind = frame_group(dataset, index, "CTImageFrameTypeSequence")
        kinds = "" if kind is None else text(kind, "FrameType")
        keys: tuple[str, ...] = ("", "", "", kinds, "", "")
        if content is not None:
            names = ("FrameAcquisitionNumber", "TemporalPositionIndex", "StackID")
            keys = (*(text(content, name) for name in names), kinds, "", "")
        found.append(Slice(path, uid, index + 1, plane, thickness, keys, "LOCALIZER" in kinds.upper()))
    if not found:
        raise HeaderError("is an enhanced CT without frames", path=path, remedy="export it again")
    return found


def _shape(dataset: Any, path: Path) -> tuple[int, int]:
    rows, columns = numbers(dataset, "Rows", 1, path), numbers(dataset, "Columns", 1, path)
    if rows is None or columns is None:
        raise HeaderError("Rows or Columns is missing", path=path, remedy="download or export it again")
    return int(rows[0]), int(columns[0])


def _thickness(dataset: Any, path: Path) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = numbers(dataset, name, 1, path)
        if found is not None and 0 < abs(found[0]) < 1000:
            return abs(found[0])
    return None


def choose_slices(slices: Sequence[Slice], referenced: AbstractSet[str]) -> tuple[list[Slice], Grid]:
    """Return the slices of one acquisition, sorted along their normal, and their grid.

    A series may hold several acquisitions at the same positions. The acquisition that a segmentation refers to is kept,
    otherwise the largest one. The grid's notes report the choice.

    Args:
        slices: Slices of one series, without localizers.
        referenced: SOP instances that a segmentation refers to.

    Raises:
        DataError: For every possible choice, a slice is missing, duplicated or shifted.
    """
    notes = []
    _check_uids(slices)
    unique = list({(item.uid, item.frame): item for item in sorted(slices, key=lambda item: str(item.path))}.values())
    if len(unique) < len(slices):
        copies = len(slices) - len(unique)
        notes.append(
            f"{copies} {'slice is a copy' if copies == 1 else 'slices are copies'} with the same UID; one is used"
        )
    parts = _by_plane(unique)
    part = _best(parts, referenced)
    if len(part) < len(unique):
        _check_alternatives(part, parts)
        notes.append(f"{len(unique) - len(part)} slices of another size, spacing or orientation are skipped")
    try:
        ordered, grid = _sorted(part)
    except DataError as error:
        found = None if _is_one(part) else _acquisition(part, referenced)
        if found is None:
            raise error from None
        ordered, grid, note = found
        notes.append(note)
    return ordered, replace(grid, notes=(*notes, *grid.notes))


def _check_uids(slices: Sequence[Slice]) -> None:
    """Raise SlicesError if slices at different positions have one UID: only one of them would be read."""
    places: dict[tuple[str, int], Slice] = {}
    for item in slices:
        first = places.setdefault((item.uid, item.frame), item)
        if abs(first.along - item.along) > 1e-3:
            raise SlicesError(
                f"the slices at {where(first.plane)} and {where(item.plane)} have the same SOP instance UID",
                remedy="export the series again",
            )


def _check_alternatives(kept: Sequence[Slice], parts: Sequence[Sequence[Slice]]) -> None:
    """Raise SlicesError if slices of another size, spacing or tilt lie beside the kept ones instead of over them.

    Slices of a very different direction are localizers or reformatted images, and may be excluded.
    """
    normal = kept[0].plane.normal
    for part in parts:
        if part is kept or abs(float(part[0].plane.normal @ normal)) < _SAME_DIRECTION:
            continue
        if not _overlap(kept, part, normal):
            first = min(part, key=lambda item: item.along)
            raise SlicesError(
                f"the size, pixel spacing or tilt of the slices changes at {where(first.plane)}: {len(kept)} slices "
                f"are alike, {len(part)} differ from them",
                remedy="export the series again, or divide it into one series for each kind of slice",
            )


def _overlap(one: Sequence[Slice], other: Sequence[Slice], normal: Float64Array) -> bool:
    """Return whether at least half of the slices of either part lie within the extent of the other part."""
    a, b = (np.asarray([float(np.asarray(item.plane.position) @ normal) for item in part]) for part in (one, other))
    inside = (np.mean((x >= y.min() - 0.01) & (x <= y.max() + 0.01)) for x, y in ((a, b), (b, a)))
    return max(float(share) for share in inside) >= 0.5


def _is_one(slices: Sequence[Slice]) -> bool:
    """Return whether slices are one stack with faults: no position occurs twice, and most gaps are equal."""
    gaps = np.diff(np.sort([item.along for item in slices]))
    if not len(gaps):
        return True
    usual = float(np.median(gaps))
    return bool(gaps.min() > 1e-3 and np.mean(np.abs(gaps - usual) <= 0.1 * usual) >= 0.8)


def _sorted(slices: Sequence[Slice]) -> tuple[list[Slice], Grid]:
    ordered = sorted(slices, key=lambda item: (item.along, item.uid, item.frame))
    return ordered, grid_of([item.plane for item in ordered], thickness=ordered[0].thickness)


def _by_plane(slices: Sequence[Slice]) -> list[list[Slice]]:
    parts: list[list[Slice]] = []
    for item in slices:
        part = next((part for part in parts if part[0].plane.like(item.plane)), None)
        if part is None:
            parts.append([item])
        else:
            part.append(item)
    return parts


def _best(parts: Sequence[list[Slice]], referenced: AbstractSet[str]) -> list[Slice]:
    """Return the part with the most referenced slices; on a tie the largest part, then the first."""
    return max(parts, key=lambda part: (sum(item.uid in referenced for item in part), len(part)))


def _acquisition(slices: Sequence[Slice], referenced: AbstractSet[str]) -> tuple[list[Slice], Grid, str] | None:
    """Split the slices by the first element that yields one complete acquisition."""
    for index, key in enumerate(_KEYS):
        parts: dict[str, list[Slice]] = defaultdict(list)
        for item in slices:
            parts[item.keys[index]].append(item)
        if len(parts) < 2:
            continue
        kept = _best([parts[name] for name in sorted(parts)], referenced)
        others = [part for part in parts.values() if part is not kept]
        # Acquisitions that follow each other are parts of one CT; taking one of them would drop the rest.
        if len(kept) < 2 or not all(_overlap(kept, part, kept[0].plane.normal) for part in others):
            continue
        try:
            ordered, grid = _sorted(kept)
        except DataError:
            continue
        pointed = any(item.uid in referenced for item in kept)
        why = (
            "that the segmentation refers to"
            if pointed
            else "with the most slices, because no segmentation selects one"
        )
        value = kept[0].keys[index]
        return (
            ordered,
            grid,
            f"the series holds {len(parts)} acquisitions; the one {why} is used ({key} {value or 'empty'})",
        )
    # No element distinguishes the acquisitions, but the segmentation refers to one slice at each position.
    at = Counter(round(item.along, 3) for item in slices)
    kept = [item for item in slices if at[round(item.along, 3)] == 1 or item.uid in referenced]
    if len(kept) < len(slices) and len({round(item.along, 3) for item in kept}) == len(at) == len(kept):
        try:
            ordered, grid = _sorted(kept)
        except DataError:
            return None
        left = len(slices) - len(kept)
        return ordered, grid, f"{left} slices at duplicate positions are skipped; the segmentation refers to the others"
    return None
