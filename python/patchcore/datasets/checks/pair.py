"""Check that the image and the label map of a case lie in the same position."""

from __future__ import annotations

from itertools import product

import numpy as np

from patchcore.errors import AffineMismatchError, ShapeMismatchError
from patchcore.types import Affine, IntTriple
from patchcore.volumes.types import VolumeHeader

__all__ = ["MAX_CORNER_SHIFT", "check_pair", "corner_shift"]

MAX_CORNER_SHIFT = 0.1
"""Largest allowed distance between the corners of image and label map, in voxels; a larger distance is an error."""


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


def check_pair(image: VolumeHeader, label: VolumeHeader, *, case_id: str) -> None:
    """Check that an image and its label map share a grid.

    Raises:
        ShapeMismatchError: Their shapes differ.
        AffineMismatchError: A corner of the image lies more than 0.1 voxel from the same corner of the label map.
    """
    if image.shape != label.shape:
        raise ShapeMismatchError(
            f"label shape {label.shape} does not match image {image.shape}",
            case_id=case_id,
            found=label.shape,
            expected=image.shape,
            remedy="export both files again",
        )
    shift = corner_shift(image.affine, label.affine, image.shape)
    if shift > MAX_CORNER_SHIFT:
        raise AffineMismatchError(
            f"image and label lie {shift:.3g} voxels apart (orientation {image.orientation} and "
            f"{label.orientation}, spacing {_mm(image)} and {_mm(label)})",
            case_id=case_id,
            found=shift,
            expected=MAX_CORNER_SHIFT,
            remedy="resample the label map onto the grid of the image, or correct the wrong header",
        )


def _mm(header: VolumeHeader) -> str:
    return " × ".join(f"{value:.4g}" for value in header.spacing) + " mm"
