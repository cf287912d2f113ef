"""Check that the image and the label map of a case lie in the same position."""

from __future__ import annotations

from patchcore.affines import MAX_CORNER_SHIFT, corner_shift
from patchcore.errors import AffineMismatchError, ShapeMismatchError
from patchcore.volumes.types import VolumeHeader

__all__ = ["check_pair"]


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
