"""Reference implementation for tests: keeps lesions that would vanish on a coarser grid as one voxel each.

A lesion smaller than about half a training voxel has no voxel in which its share is the largest. Without this step, the
lesion would be lost: it would not be used in training, and validation would not count it as missed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from patchcore.lesions.measure import lesion_spans
from patchcore.types import Triple

__all__ = ["keep_lost_lesions"]


def keep_lost_lesions(
    label: npt.NDArray[np.uint8],
    old: npt.NDArray[np.uint8],
    lesion_class: int,
    ratio: Triple,
    *,
    connectivity: int = 26,
) -> int:
    """Set one voxel, at its centre, for each lesion without a voxel in its region on the new grid.

    Args:
        label: Class indices on the new grid, shape (x, y, z); changed in place.
        old: Class indices on the old grid, in the same axis order.
        lesion_class: Class index of the lesions.
        ratio: New spacing divided by old spacing, per axis. The edges of the grids are aligned.
        connectivity: 6, 18 or 26.

    Returns:
        Number of lesions kept in this way.

    Example:
        >>> old = np.zeros((8, 8, 8), np.uint8)
        >>> old[3, 5, 6] = 1
        >>> label = np.zeros((2, 2, 2), np.uint8)
        >>> keep_lost_lesions(label, old, 1, (4, 4, 4)), label[0, 1, 1]
        (1, np.uint8(1))
    """
    if all(r <= 1.0 for r in ratio):
        return 0
    spans = lesion_spans(old, labels=[lesion_class], connectivity=connectivity)
    small = np.arange(spans.lesion_count)
    order = np.argsort(spans.lesion, kind="stable")
    starts = np.searchsorted(spans.lesion[order], small)
    stops = np.searchsorted(spans.lesion[order], small, side="right")
    shape = np.asarray(label.shape)
    lost = []
    for start, stop in zip(starts, stops, strict=True):
        own = order[start:stop]
        origin, length = spans.origin[own].astype(np.float64), spans.length[own].astype(np.float64)
        last = origin.copy()
        last[:, spans.axis] += length - 1
        # Half a voxel of the old grid can lie beyond the last voxel of the new grid.
        low = np.minimum(np.floor((origin.min(axis=0) + 0.5) / ratio).astype(int), shape - 1)
        high = np.floor((last.max(axis=0) + 0.5) / ratio).astype(int) + 1
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        if (label[part] == lesion_class).any():
            continue
        centre = ((origin + last) / 2 * length[:, None]).sum(axis=0) / length.sum()
        voxel = np.clip(np.floor((centre + 0.5) / ratio).astype(int), 0, shape - 1)
        lost.append(tuple(voxel))
    # Voxels are set after all lesions are checked, so that the order of the lesions does not matter.
    for voxel in lost:
        label[voxel] = lesion_class
    return len(lost)
