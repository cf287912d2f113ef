"""Checks of one case: is it CT-like, and do image and label map lie in the same place."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import AffineMismatchError, ShapeMismatchError, UnsupportedDataError
from patchcore.types import Affine, IntTriple
from patchcore.volumes.nifti import VolumeHeader

__all__ = ["MAX_CORNER_SHIFT", "check_ct", "check_pair", "corner_shift"]

MAX_CORNER_SHIFT = 0.1
"""Corners of image and label map that lie further apart than this, in voxels, are an error."""

# Scanners pad with values down to -3024; metal reaches beyond 20000 in extended-range reconstructions.
_LOWEST_HU, _HIGHEST_HU = -3100, 32767
_OUTLIER_SHARE = 0.01


def corner_shift(affine: Affine, other: Affine, shape: IntTriple) -> float:
    """Return how far the eight corner voxels of two grids lie apart, in voxels of the first.

    Args:
        affine: Voxel → world mm, shape (4, 4).
        other: The same of the other grid.
        shape: Voxels per axis of both.

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
        AffineMismatchError: A corner of one lies more than 0.1 voxel from the other's.
    """
    if image.shape != label.shape:
        raise ShapeMismatchError(
            f"label shape {label.shape} does not match image {image.shape}",
            case_id=case_id,
            found=label.shape,
            expected=image.shape,
            remedy=f"re-export the pair or exclude the case with --exclude {case_id}",
        )
    shift = corner_shift(image.affine, label.affine, image.shape)
    if shift > MAX_CORNER_SHIFT:
        raise AffineMismatchError(
            f"image and label lie {shift:.3g} voxels apart (orientation {image.orientation} and "
            f"{label.orientation}, spacing {_mm(image)} and {_mm(label)})",
            case_id=case_id,
            found=shift,
            expected=MAX_CORNER_SHIFT,
            remedy="resample the label map onto the image's grid, or correct the wrong header",
        )


def check_ct(array: npt.NDArray[Any], *, case_id: str, stored_dtype: np.dtype[Any] | None = None) -> None:
    """Check that an image holds plausible Hounsfield units.

    Tolerant on purpose: crops, padding and metal pass. What is caught is no CT at all: NaN, one value only,
    8-bit or normalised pictures, values far outside the HU scale, wide ranges without a negative value.

    Args:
        array: Voxels in HU, any shape.
        case_id: Named in the error.
        stored_dtype: The type in the file, where it differs from the array's.

    Raises:
        UnsupportedDataError: The values are no Hounsfield units.
    """
    low, high = float(array.min()), float(array.max())
    dtype = array.dtype if stored_dtype is None else stored_dtype
    finding = None
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(array.size - np.isfinite(array).sum())
        finding = f"{bad} voxels are NaN or infinite"
    elif low == high:
        finding = f"all voxels have the value {low:g}"
    elif dtype.itemsize == 1 or (low == 0 and high == 255):
        finding = f"values lie in {low:g} … {high:g}, as in an 8-bit picture"
    elif low >= -1 and high <= 1:
        finding = f"values lie in {low:g} … {high:g}, as in a normalised image or a mask"
    elif low >= 0 and high - low > 500:
        finding = f"values lie in {low:g} … {high:g}: a CT has air or fat below 0 HU"
    else:
        outliers = 0
        if low < _LOWEST_HU:
            outliers += int(np.count_nonzero(array < _LOWEST_HU))
        if high > _HIGHEST_HU:
            outliers += int(np.count_nonzero(array > _HIGHEST_HU))
        if outliers > _OUTLIER_SHARE * array.size:
            finding = f"{outliers / array.size:.0%} of the voxels lie beyond {_LOWEST_HU} … {_HIGHEST_HU} HU"
    if finding is not None:
        raise UnsupportedDataError(
            f"not CT-like: {finding}",
            case_id=case_id,
            found=(low, high),
            remedy="export the CT in Hounsfield units (rescale slope and intercept applied)",
        )


def _mm(header: VolumeHeader) -> str:
    return " × ".join(f"{value:.4g}" for value in header.spacing) + " mm"
