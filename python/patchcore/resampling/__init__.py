"""Resamples CT images and label maps to another spacing."""

from patchcore.resampling.grid import SAME_SPACING, Grid
from patchcore.resampling.image import resample_image, resampled_affine

__all__ = ["SAME_SPACING", "Grid", "resample_image", "resampled_affine"]
