"""Measuring DICOM segments: labels as unions of segments, segments by themselves, and where they disagree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.datasets.measures import COLUMNS
from patchcore.lesions.measure import label_components, measure_lesions
from patchcore.types import Affine, IntTriple, PathLike
from patchcore.volumes.dicom.segments import Segment
from patchcore.volumes.dicom.volumes import Labelled, read_labelled

__all__ = ["MeasuredSegments", "measure_segments"]


@dataclass(frozen=True)
class MeasuredSegments:
    """What the segments of a case measure.

    Attributes:
        lesions: Columns :data:`patchcore.datasets.measures.COLUMNS`, one row a component of a label's own mask: where
            labels overlap, none loses voxels. Ordered by label, then by smallest voxel index.
        speck_count: Components below the minimum volume.
        segments: One a segment: ``segment`` (number), ``name``, ``label``, ``label_name``, ``voxel_count``,
            ``volume_mm3``, ``components`` (of the segment alone) and ``lesions`` (rows of `lesions` that it lies in).
        disagreements: Where segments and components differ, and what else the user has to know, in sentences.
    """

    lesions: dict[str, list[Any]]
    speck_count: int
    segments: list[dict[str, Any]] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


def measure_segments(
    path: PathLike, *, connectivity: int = 26, min_volume_mm3: float = 0.0, affine: Affine | None = None
) -> MeasuredSegments:
    """Measure an indexed SEG or RTSTRUCT.

    Args:
        path: Its index.
        connectivity: 6, 18 or 26.
        min_volume_mm3: Smaller components are no lesions.
        affine: Voxel index → world mm in the place of the file's own, shape (4, 4).

    Raises:
        DataError: A file is damaged or off the CT's grid.
        OSError: A file cannot be read.
    """
    labelled = read_labelled(path)
    used = labelled.grid.affine if affine is None else np.asarray(affine, dtype=np.float64)
    by_label: dict[int, list[Segment]] = {}
    for segment in labelled.segments:
        by_label.setdefault(labelled.label_number(segment), []).append(segment)
    result = MeasuredSegments({name: [] for name in COLUMNS}, 0, [], list(labelled.notes))
    specks = 0
    for number in sorted(by_label):
        specks += _measure_label(
            result, labelled, number, by_label[number], used, connectivity=connectivity, least=min_volume_mm3
        )
    return MeasuredSegments(result.lesions, specks, result.segments, result.disagreements)


def _measure_label(
    result: MeasuredSegments,
    labelled: Labelled,
    number: int,
    segments: list[Segment],
    affine: Affine,
    *,
    connectivity: int,
    least: float,
) -> int:
    shape = labelled.grid.shape
    # The union is painted whole: border and bounding boxes are the grid's.
    union = np.zeros(shape, dtype=np.uint8, order="F")
    for segment in segments:
        segment.paint(union, 1)
    lesions = measure_lesions(union, label=1, affine=affine, connectivity=connectivity, min_volume_mm3=least)
    first = len(result.lesions["label"])
    for name in COLUMNS:
        rows = np.asarray(getattr(lesions, name)).tolist()
        result.lesions[name].extend([number] * len(rows) if name == "label" else rows)
    start, stop = _bounds(union)
    inner = union[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    components = label_components(inner, connectivity=connectivity)
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    sizes = np.bincount(components.ravel(order="K")) if components.size else np.zeros(1, dtype=np.int64)
    kept = sizes * voxel_mm3 >= least
    kept[0] = False
    row_of = np.where(kept, first + np.cumsum(kept) - 1, -1)
    holds: dict[int, list[str]] = {}
    for segment in segments:
        low, high = segment.box(shape)
        low, high = _clip(low, start, stop), _clip(high, start, stop)
        mask = np.zeros(tuple(b - a for a, b in zip(low, high, strict=True)), dtype=np.uint8, order="F")
        voxel_count, own, inside = 0, 0, np.zeros(0, dtype=np.int64)
        if mask.size:
            segment.paint(mask, 1, low)
            part = components[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))]
            inside = np.unique(part[mask != 0]).astype(np.int64)
            voxel_count = int(np.count_nonzero(mask))
            own = int(label_components(mask, connectivity=connectivity).max())
        result.segments.append(
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
            result.disagreements.append(f"{segment.name} is empty")
        elif own > 1:
            result.disagreements.append(f"{segment.name} falls into {own} components")
        for item in inside.tolist():
            holds.setdefault(item, []).append(segment.name)
    for item in sorted(holds):
        if len(names := holds[item]) > 1:
            shown = f"{', '.join(names[:-1])} and {names[-1]}"
            result.disagreements.append(f"{shown} touch or overlap: one component of {len(names)} segments")
    return int(lesions.speck_count)


def _bounds(mask: npt.NDArray[Any]) -> tuple[IntTriple, IntTriple]:
    """Return the bounding box of a mask, empty where it is."""
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
