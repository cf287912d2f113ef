"""Joins the segments that several readers drew of one lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.types import IntTriple
from patchcore.volumes.dicom.names import readers_of
from patchcore.volumes.dicom.notes import Note
from patchcore.volumes.dicom.options import Readers
from patchcore.volumes.dicom.segments import Box, Segment

__all__ = ["Consensus", "with_readers"]


@dataclass
class Consensus(Segment):
    """One lesion that several readers drew: the voxels that at least `votes` of its `members` hold."""

    members: tuple[Segment, ...] = ()
    votes: int = 1

    def box(self, shape: IntTriple) -> Box:
        """Return the bounding box of all readers' frames, clipped to the grid."""
        starts, stops = zip(*(member.box(shape) for member in self.members), strict=True)
        low, high = np.min(starts, axis=0), np.max(stops, axis=0)
        return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))

    def paint(self, volume: npt.NDArray[Any], value: int, start: IntTriple = (0, 0, 0)) -> None:
        """Write `value` at the voxels that enough readers hold; see :meth:`Segment.paint`."""
        end = tuple(s + n for s, n in zip(start, volume.shape, strict=True))
        low, high = self.box((end[0], end[1], end[2]))
        low = (max(low[0], start[0]), max(low[1], start[1]), max(low[2], start[2]))
        shape = tuple(max(b - a, 0) for a, b in zip(low, high, strict=True))
        if not all(shape):
            return
        held = np.zeros(shape, dtype=np.uint16, order="F")
        for member in self.members:
            mask = np.zeros(shape, dtype=np.uint8, order="F")
            member.paint(mask, 1, low)
            held += mask
        part = volume[tuple(slice(a - s, a - s + n) for a, s, n in zip(low, start, shape, strict=True))]
        part[held >= self.votes] = value


def with_readers(segments: Sequence[Segment], readers: Readers, shape: IntTriple) -> tuple[list[Segment], list[Note]]:
    """Join the segments of several readers of one lesion, and say so.

    Args:
        segments: All segments of a case.
        readers: ``majority``: voxels that at least half of the readers of the lesion drew; ``union``: voxels of any
            reader; ``each``: every reader's segment stays.
        shape: Voxels per axis of the grid of the segments.
    """
    groups: dict[str, list[Segment]] = {}
    kept: list[Segment] = []
    for segment in segments:
        drawn = readers_of(segment.name)
        if drawn is None or readers == "each":
            kept.append(segment)
        else:
            groups.setdefault(drawn[0].casefold(), []).append(segment)
    notes = []
    for group in groups.values():
        for members in _overlapping(group, shape) if readers == "majority" else [group]:
            first = members[0]
            drawn = readers_of(first.name)
            assert drawn is not None
            count = len(members)
            votes = 1 if readers == "union" else (count + 1) // 2
            kept.append(
                Consensus(first.number, drawn[0], first.path, label=first.label, members=tuple(members), votes=votes)
            )
            if count > 1:
                rule = "voxels of any reader count" if votes == 1 else f"voxels of at least {votes} of them count"
                text = f"{drawn[0]} was drawn by {count} readers; {rule} (--readers {readers})"
                notes.append(Note(text, "several-readers", first.name))
    return kept, notes


def _overlapping(members: Sequence[Segment], grid: IntTriple) -> list[list[Segment]]:
    """Divide segments into groups that overlap: segments that share no voxel are not one lesion of several readers."""
    boxes = [member.box(grid) for member in members]
    masks = []
    for member, (low, high) in zip(members, boxes, strict=True):
        shape = tuple(b - a for a, b in zip(low, high, strict=True))
        mask = np.zeros(shape, dtype=np.uint8)
        member.paint(mask, 1, low)
        masks.append(mask)
    groups: list[list[int]] = []
    for at in range(len(members)):
        touching = [group for group in groups if any(_share(masks, boxes, at, other) for other in group)]
        groups = [group for group in groups if group not in touching]
        groups.append([*(other for group in touching for other in group), at])
    return [[members[at] for at in sorted(group)] for group in groups]


def _share(masks: Sequence[npt.NDArray[Any]], boxes: Sequence[Box], one: int, other: int) -> bool:
    """Return whether two segments share a voxel."""
    low = np.maximum(boxes[one][0], boxes[other][0])
    high = np.minimum(boxes[one][1], boxes[other][1])
    if (high <= low).any():
        return False
    parts = [
        masks[at][tuple(slice(a - s, b - s) for a, b, s in zip(low, high, boxes[at][0], strict=True))]
        for at in (one, other)
    ]
    return bool((parts[0] & parts[1]).any())
