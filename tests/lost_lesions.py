"""Reference implementation for tests: keeps lesions that would vanish on the training grid as one voxel each.

A lesion vanishes if background has the larger share in every new voxel. Without this step, the lesion would be lost: it
would not be used in training, and validation would not count it as missed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.types import Triple

__all__ = ["keep_lost_lesions", "overlapping"]

_EDGE = 1e-6


def overlapping(voxel: npt.NDArray[np.int64], ratio: Triple, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the new voxels that overlap an old voxel. Half an old voxel beyond the new grid belongs to its last."""
    low = np.minimum(np.floor(voxel / ratio + _EDGE).astype(int), np.asarray(shape) - 1)
    high = np.clip(np.ceil((voxel + 1) / ratio - _EDGE).astype(int), low + 1, np.maximum(shape, low + 1))
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def keep_lost_lesions(
    label: npt.NDArray[np.uint8],
    old: npt.NDArray[np.uint8],
    lesion_class: int,
    ratio: Triple,
    *,
    connectivity: int = 26,
) -> int:
    """Set one voxel for each lesion that no new lesion voxel overlaps: where its most central voxel lies.

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
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    components, count = ndimage.label(old == lesion_class, structure)
    lost = []
    for number in range(1, count + 1):
        voxels = np.argwhere(components == number)
        if any((label[overlapping(voxel, ratio, label.shape)] == lesion_class).any() for voxel in voxels):
            continue
        distance = (((voxels - voxels.mean(axis=0)) / ratio) ** 2).sum(axis=1)
        # Of voxels that are equally far, the first one is chosen.
        lost.append(np.floor((voxels[distance <= distance.min() + 1e-9][0] + 0.5) / ratio))
    # Voxels are set after all lesions are checked, so that the order of the lesions does not matter.
    for place in lost:
        label[tuple(np.clip(place, 0, np.asarray(label.shape) - 1).astype(int))] = lesion_class
    return len(lost)
