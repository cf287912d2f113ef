"""Hashes of what a volume holds, the same whatever its compression, its header and the name within its gzip.

Two files of one scan rarely have the same bytes: ``gzip`` writes the time and the name into its header.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.lesions.measure import Lesions

__all__ = ["image_sha256", "lesions_sha256"]

_COLUMNS = ("label", "voxel_count", "bbox_start", "bbox_stop", "centroid_voxel")
# Slabs of this many bytes are hashed at once, so that no copy of the volume is made.
_SLAB = 1 << 24


def image_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an image's shape, type and voxels, hexadecimal.

    Args:
        array: Voxels, shape (i, j, k), any dtype and memory order; the order does not matter.

    Example:
        >>> array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        >>> image_sha256(array) == image_sha256(np.asfortranarray(array))
        True
    """
    digest = hashlib.sha256(f"{array.dtype.kind}{array.dtype.itemsize} {array.shape}".encode())
    # Transposed, Fortran order (NIfTI's) is contiguous: its slabs are views.
    flipped = array.T
    step = max(1, _SLAB // max(1, flipped[:1].nbytes))
    for start in range(0, flipped.shape[0], step):
        digest.update(np.ascontiguousarray(flipped[start : start + step]).data)
    return digest.hexdigest()


def lesions_sha256(lesions: Lesions) -> str:
    """Return the SHA-256 of a label map's shape and components, hexadecimal.

    Two label maps with the same components, each by label, voxels, box and centroid, are taken as one. Only hashes of
    the same connectivity and minimum volume compare.

    Args:
        lesions: Of all labels, as :func:`patchcore.lesions.measure.measure_lesions` returns them.
    """
    digest = hashlib.sha256(f"{lesions.shape} {lesions.connectivity} {lesions.min_volume_mm3!r}".encode())
    for name in _COLUMNS:
        digest.update(np.ascontiguousarray(getattr(lesions, name)).data)
    return digest.hexdigest()
