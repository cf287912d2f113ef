"""Makes NIfTI images of our own: their place in the world, and gzip files that depend on the voxels only."""

from __future__ import annotations

import gzip
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from patchcore.affines import spacing_of
from patchcore.types import Affine

__all__ = ["gzipped", "placed_image"]


def placed_image(array: npt.NDArray[Any], affine: Affine) -> Any:
    """Return a NIfTI-1 image in mm whose sform, and qform if possible, is the affine.

    Example:
        >>> image = placed_image(np.zeros((2, 2, 2), np.uint8), np.diag([-1.0, -1.0, 3.0, 1.0]))
        >>> int(image.header["sform_code"]), int(image.header["qform_code"])
        (1, 1)
    """
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    # A quaternion cannot represent the shear of a tilted gantry: the qform is then marked as not set.
    columns = affine[:3, :3] / spacing_of(affine)
    cosines = (columns.T @ columns)[np.triu_indices(3, 1)]
    straight = np.allclose(cosines, 0, atol=1e-6)
    image.set_qform(affine, code=1 if straight else 0, strip_shears=True)
    return image


def gzipped(raw: BinaryIO) -> gzip.GzipFile:
    """Return a gzip stream without name and time in its header, so that the same volume gives the same bytes."""
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=0)
