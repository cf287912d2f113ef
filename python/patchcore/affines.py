"""What an affine says: spacing, voxel volume and orientation of an array in world mm (RAS+)."""

from __future__ import annotations

import numpy as np

from patchcore.types import Affine, Triple

__all__ = ["orientation_code", "spacing_of", "voxel_volume_mm3"]


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

    It is less than the product of the spacings if the axes are not orthogonal.

    Example:
        >>> round(voxel_volume_mm3(np.diag([-2.0, 3.0, 5.0, 1.0])), 6)
        30.0
    """
    return abs(float(np.linalg.det(affine[:3, :3])))


def orientation_code(affine: Affine) -> str:
    """Return where each array axis points, to the closest world axis, as in ``"RAS"`` or ``"LPS"``."""
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))
