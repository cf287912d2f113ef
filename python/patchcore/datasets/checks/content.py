"""Hash of a label map's content: the same whatever its compression, its header and the name within its gzip.

Two files of one label map rarely have the same bytes: ``gzip`` writes the time and the name into its header. The hash
of a CT is :attr:`patchcore.volumes.types.CtExamination.content_hash`.
"""

from __future__ import annotations

import hashlib

import numpy as np

from patchcore.lesions.table import Lesions

__all__ = ["lesions_hash"]

_COLUMNS = ("label", "voxel_count", "bbox_start", "bbox_stop", "centroid_voxel")


def lesions_hash(lesions: Lesions) -> str:
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
