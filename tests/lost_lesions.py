"""The reference: lesions that would vanish on a coarser grid are kept as one voxel each, on whole arrays.

A lesion smaller than about half a training voxel has no voxel in which its share is the largest. Left out, it would be
counted by nobody: neither trained on, nor missed in validation.
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
    """Give each lesion that has no voxel where it lies on the new grid the one at its centre.

    Args:
        label: Class indices on the new grid, shape (x, y, z); changed in place.
        old: Class indices on the old one, in the same axis order.
        lesion_class: The lesions' class index.
        ratio: New spacing over old per axis; the grids are edge-aligned.
        connectivity: 6, 18 or 26.

    Returns:
        How many lesions were kept so.

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
        # Half a voxel of the old grid may lie beyond the last new one.
        low = np.minimum(np.floor((origin.min(axis=0) + 0.5) / ratio).astype(int), shape - 1)
        high = np.floor((last.max(axis=0) + 0.5) / ratio).astype(int) + 1
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        if (label[part] == lesion_class).any():
            continue
        centre = ((origin + last) / 2 * length[:, None]).sum(axis=0) / length.sum()
        voxel = np.clip(np.floor((centre + 0.5) / ratio).astype(int), 0, shape - 1)
        lost.append(tuple(voxel))
    # All are judged by what resampling left, so that it does not matter which comes first.
    for voxel in lost:
        label[voxel] = lesion_class
    return len(lost)
