"""Measure DICOM segments: each label as the union of its segments, each segment alone, and their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.affines import voxel_volume_mm3
from patchcore.lesions.measure import label_components, measure_lesions
from patchcore.lesions.table import Lesions, join_lesions, no_lesions
from patchcore.types import Affine, IntTriple, PathLike
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.dicom.segments import Segment
from patchcore.volumes.dicom.volumes import read_labelled

__all__ = ["MeasuredSegments", "measure_segments"]


@dataclass(frozen=True)
class MeasuredSegments:
    """Measurements of the segments of a case.

    Attributes:
        lesions: One row per component of each label. Each label has its own mask, so overlapping labels lose no
            voxels. Ordered by label, then by smallest voxel index.
        segments: One entry per segment: ``segment`` (number), ``name``, ``label``, ``label_name``, ``voxel_count``,
            ``volume_mm3``, ``components`` (of the segment alone) and ``lesions`` (rows of `lesions` that contain it).
        notes: Differences between segments and components, and decisions made while reading.
    """

    lesions: Lesions
    segments: tuple[dict[str, Any], ...]
    notes: tuple[Note, ...]


def measure_segments(
    path: PathLike,
    *,
    connectivity: int = 26,
    min_volume_mm3: float = 0.0,
    affine: Affine | None = None,
    relabel: Sequence[tuple[int, int]] = (),
    ignore_label: int | None = None,
) -> MeasuredSegments:
    """Measure an indexed SEG or RTSTRUCT.

    Args:
        path: Path of its index.
        connectivity: 6, 18 or 26.
        min_volume_mm3: Components smaller than this are not lesions, in mm³.
        affine: Voxel index → world mm, shape (4, 4); used instead of the file's affine.
        relabel: Labels that are read as another label: (label, label used).
        ignore_label: Label that is not measured; None: every label is.

    Raises:
        DataError: A file is damaged or does not lie on the CT's grid.
        OSError: A file cannot be read.
    """
    labelled = read_labelled(path)
    used = labelled.grid.affine if affine is None else np.asarray(affine, dtype=np.float64)
    by_label: dict[int, list[Segment]] = {}
    used_as = dict(relabel)
    for segment in labelled.segments:
        number = labelled.label_number(segment)
        by_label.setdefault(used_as.get(number, number), []).append(segment)
    settings = {"connectivity": connectivity, "min_volume_mm3": min_volume_mm3}
    parts = [no_lesions(labelled.grid.shape, used, connectivity=connectivity, min_volume_mm3=min_volume_mm3)]
    segments: list[dict[str, Any]] = []
    notes = [
        note if note.label is None else replace(note, label=used_as.get(note.label, note.label))
        for note in labelled.notes
    ]
    for number in sorted(by_label.keys() - {ignore_label}):
        union = _union(labelled.grid.shape, by_label[number])
        lesions = measure_lesions(union, label=1, affine=used, **settings)  # type: ignore[arg-type]
        first = sum(map(len, parts))
        parts.append(replace(lesions, label=np.full_like(lesions.label, number)))
        found, more_notes = _segments(union, lesions, number, by_label[number], first=first)
        segments += found
        notes += [Note(text, label=number) for text in more_notes]
    return MeasuredSegments(join_lesions(parts), tuple(segments), tuple(notes))


def _union(shape: IntTriple, segments: Sequence[Segment]) -> npt.NDArray[np.uint8]:
    """Paint segments on the whole grid, so that borders and bounding boxes refer to the grid."""
    union = np.zeros(shape, dtype=np.uint8, order="F")
    for segment in segments:
        segment.paint(union, 1)
    return union


def _segments(
    union: npt.NDArray[np.uint8], lesions: Lesions, number: int, segments: Sequence[Segment], *, first: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure each segment of one label alone, and list differences from the components of the label.

    Args:
        union: Mask of the label.
        lesions: Lesions of the label.
        number: The label.
        segments: Segments of the label.
        first: Row of the label's first lesion in the lesion table of the case.
    """
    start, stop = _bounds(union)
    inner = union[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    components = label_components(inner, connectivity=lesions.connectivity)
    voxel_mm3 = voxel_volume_mm3(lesions.affine)
    sizes = np.bincount(components.ravel(order="K")) if components.size else np.zeros(1, dtype=np.int64)
    kept = sizes * voxel_mm3 >= lesions.min_volume_mm3
    kept[0] = False
    row_of = np.where(kept, first + np.cumsum(kept) - 1, -1)
    holds: dict[int, list[str]] = {}
    found, notes = [], []
    for segment in segments:
        low, high = segment.box(union.shape)
        low, high = _clip(low, start, stop), _clip(high, start, stop)
        # The union of one segment is that segment: it is not read and painted again.
        alone = len(segments) == 1
        if alone:
            low, high = start, stop
        size = tuple(b - a for a, b in zip(low, high, strict=True))
        mask = inner if alone else np.zeros(size, dtype=np.uint8, order="F")
        voxel_count, own, inside = 0, 0, np.zeros(0, dtype=np.int64)
        if mask.size:
            if not alone:
                segment.paint(mask, 1, low)
            part = components[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))]
            inside = np.unique(part[mask != 0]).astype(np.int64)
            voxel_count = int(np.count_nonzero(mask))
            own = int(label_components(mask, connectivity=lesions.connectivity).max())
        found.append(
            {
                "segment": segment.number,
                "name": segment.name,
                "label": number,
                "label_name": segment.label,
                "voxel_count": voxel_count,
                "volume_mm3": voxel_count * voxel_mm3,
                "components": own,
                "lesions": [int(row_of[item]) for item in inside.tolist() if row_of[item] >= 0],
            }
        )
        if voxel_count == 0:
            notes.append(f"{segment.name} is empty")
        elif own > 1:
            notes.append(f"{segment.name} consists of {own} components")
        for item in inside.tolist():
            holds.setdefault(item, []).append(segment.name)
    for item in sorted(holds):
        if len(names := holds[item]) > 1:
            shown = f"{', '.join(names[:-1])} and {names[-1]}"
            notes.append(f"{shown} touch or overlap: one component contains {len(names)} segments")
    return found, notes


def _bounds(mask: npt.NDArray[Any]) -> tuple[IntTriple, IntTriple]:
    """Return the bounding box of a mask; the box of an empty mask is empty."""
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        at = np.flatnonzero(mask.any(axis=others))
        if len(at):
            start[axis], stop[axis] = int(at[0]), int(at[-1]) + 1
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def _clip(point: IntTriple, start: IntTriple, stop: IntTriple) -> IntTriple:
    a, b, c = (min(max(p, low), high) for p, low, high in zip(point, start, stop, strict=True))
    return (a, b, c)
