"""Features of shape, intensity and texture of a region, as the Image Biomarker Standardisation Initiative defines them.

Source: Zwanenburg et al., "The Image Biomarker Standardization Initiative", Radiology 2020, and its reference manual
(arXiv 1612.07003). Names are IBSI's tags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.errors import ConfigError, ShapeMismatchError
from patchcore.types import BoolArray

__all__ = ["check_bins", "texture_features"]


def texture_features(
    image: npt.NDArray[np.generic],
    mask: BoolArray,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    intensity_range: tuple[float, float] | None = None,
    bin_width: float | None = None,
    bin_count: int | None = None,
) -> dict[str, float]:
    """Compute the features of one region: morphology, local and global intensity, histograms, and texture.

    Texture is that of the matrices GLCM, GLRLM, GLSZM, GLDZM, NGTDM and NGLDM: within axial slices (``2D``: mean over
    the slices, ``2_5D``: merged) and in space (``3D``), averaged over directions (``avg``) or merged (``comb``).
    Nothing is resampled.

    Args:
        image: Intensities around the region, (x, y, z) with z across axial slices; a margin of 7 mm is needed for the
            local intensity.
        mask: The region, bool, of the same shape.
        spacing: Voxel size along each axis, mm.
        intensity_range: Only voxels between these intensities are used, except for the shape (re-segmentation).
        bin_width: Width of the bins of grey levels, from the lower end of `intensity_range` on, or else from the
            smallest intensity (fixed bin size).
        bin_count: Number of bins between the smallest and the largest intensity (fixed bin number). Without both,
            intensities are grey levels: whole numbers from 1.

    Returns:
        Tag → value; NaN if a feature is not defined, such as the correlation of one grey value.

    Raises:
        ConfigError: An option is not possible, or both kinds of bins are given.
        DataError: The region has no voxel, or an intensity that is not finite; there are more than 2048 grey levels.
        ShapeMismatchError: Image and mask have different shapes.

    Example:
        >>> image = np.array([[[1, 4], [4, 6]], [[1, 1], [4, 4]]])
        >>> found = texture_features(image, image > 0, spacing=(2, 2, 2))
        >>> len(found), found["stat_mean"], round(found["cm_contrast_3D_comb"], 3)
        (482, 3.125, 7.107)
    """
    check_bins(bin_width, bin_count, intensity_range)
    if image.shape != mask.shape or image.ndim != 3:
        raise ShapeMismatchError(
            f"the image has shape {image.shape}, the mask {mask.shape}", expected="one shape of three axes"
        )
    a, b, c = (float(edge) for edge in spacing)
    found = _core.texture_features(
        np.ascontiguousarray(image, dtype=np.float64),
        np.ascontiguousarray(mask, dtype=np.bool_),
        (a, b, c),
        intensity_range=intensity_range,
        bin_width=bin_width,
        bin_count=bin_count,
    )
    return dict(found)


def check_bins(
    bin_width: float | None, bin_count: int | None, intensity_range: tuple[float, float] | None = None
) -> None:
    """Check how intensities are to become grey levels.

    Raises:
        ConfigError: It is not possible.
    """
    if bin_width is not None and bin_count is not None:
        raise ConfigError("a bin width and a number of bins are given", remedy="give only one of them")
    if bin_width is not None and not (bin_width > 0 and math.isfinite(bin_width)):
        raise ConfigError(f"bin width {bin_width}", expected="a positive number", remedy="give e.g. 25")
    if bin_count is not None and not 0 < bin_count <= 2048:
        raise ConfigError(f"{bin_count} bins", expected="1 to 2048", remedy="give e.g. 32")
    if intensity_range is not None and not -math.inf < intensity_range[0] < intensity_range[1] < math.inf:
        raise ConfigError(
            f"intensity range {intensity_range} is not two ascending numbers", remedy="give e.g. -500,400"
        )
