"""Hash the content of a label map, independent of its compression, its header and the file name in its gzip header.

Two files of the same label map rarely have the same bytes: ``gzip`` writes the time and the name into its header. The
hash of a CT is :attr:`patchcore.volumes.types.CtExamination.content_hash`.
"""

from __future__ import annotations

import hashlib

import numpy as np

from patchcore.lesions.table import Lesions

__all__ = ["lesions_hash"]

_COLUMNS = ("label", "voxel_count", "bbox_start", "bbox_stop", "centroid_voxel")


def lesions_hash(lesions: Lesions) -> str:
    """Return the SHA-256 of a label map's shape and components, hexadecimal.

    Two label maps count as equal if their components have the same labels, voxel counts, bounding boxes and centroids.
    Only hashes with the same connectivity and minimum volume can be compared.

    Args:
        lesions: Lesions of all labels, as :func:`patchcore.lesions.measure.measure_lesions` returns them.
    """
    digest = hashlib.sha256(f"{lesions.shape} {lesions.connectivity} {lesions.min_volume_mm3!r}".encode())
    for name in _COLUMNS:
        digest.update(np.ascontiguousarray(getattr(lesions, name)).data)
    return digest.hexdigest()
