"""Computes spacing, voxel volume and orientation of an array from its affine, in world mm (RAS+)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from patchcore.types import Affine, IntTriple, Triple

__all__ = ["MAX_CORNER_SHIFT", "corner_shift", "orientation_code", "rescaled_affine", "spacing_of", "voxel_volume_mm3"]

MAX_CORNER_SHIFT = 0.1
"""Largest allowed distance between the corners of image and label map, in voxels; a larger distance is an error."""


def spacing_of(affine: Affine) -> Triple:
    """Return mm per voxel along each array axis: the column norms of the affine.

    Args:
        affine: Voxel index → world mm, shape (4, 4).

    Example:
        >>> spacing_of(np.diag([-2.0, 3.0, 5.0, 1.0]))
        (2.0, 3.0, 5.0)
    """
    with np.errstate(over="ignore"):
        a, b, c = (float(norm) for norm in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
    return (a, b, c)


def voxel_volume_mm3(affine: Affine) -> float:
    """Return the volume of a voxel in mm³: the absolute determinant of the affine.

    If the axes are not orthogonal, it is smaller than the product of the spacings.

    Example:
        >>> round(voxel_volume_mm3(np.diag([-2.0, 3.0, 5.0, 1.0])), 6)
        30.0
    """
    a, b, c = affine[:3, :3].tolist()
    # Written out as in the Rust core: both must give the same number, because volumes are compared with a minimum.
    minors = (b[1] * c[2] - b[2] * c[1], b[0] * c[2] - b[2] * c[0], b[0] * c[1] - b[1] * c[0])
    return abs(float(a[0] * minors[0] - a[1] * minors[1] + a[2] * minors[2]))


def orientation_code(affine: Affine) -> str:
    """Return the closest world direction of each array axis, e.g. ``"RAS"`` or ``"LPS"``."""
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))


def rescaled_affine(affine: Affine, ratio: Sequence[float]) -> Affine:
    """Return the affine of an edge-aligned grid with voxels of another size.

    Both grids begin at the same edge, so the centre of the first voxel moves by half the difference.

    Args:
        affine: Old voxel index → world mm, shape (4, 4).
        ratio: New voxel size / old voxel size, per array axis.

    Example:
        >>> rescaled_affine(np.diag([1.0, 1.0, 5.0, 1.0]), (2, 2, 0.5))[:3, 3].tolist()
        [0.5, 0.5, -1.25]
    """
    factors = np.asarray(ratio, dtype=np.float64)
    new = np.array(affine, dtype=np.float64)
    new[:3, 3] += new[:3, :3] @ ((factors - 1) / 2)
    new[:3, :3] *= factors
    return new


def corner_shift(affine: Affine, other: Affine, shape: IntTriple) -> float:
    """Return the largest distance between the eight corner voxels of two grids, in voxels of the first grid.

    Args:
        affine: Voxel → world mm, shape (4, 4).
        other: Voxel → world mm of the other grid, shape (4, 4).
        shape: Voxels per axis of both grids.

    Returns:
        The largest distance along any axis.

    Example:
        >>> shifted = np.eye(4)
        >>> shifted[0, 3] = 0.25
        >>> corner_shift(np.eye(4), shifted, (10, 10, 10))
        0.25
    """
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape))], dtype=np.float64).T
    apart = np.linalg.solve(affine[:3, :3], ((other - affine) @ corners)[:3])
    return float(np.abs(apart).max())
