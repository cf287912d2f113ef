"""Types of volumes: the header of a file, a CT in HU, a label map. Arrays are in stored axis order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.types import Affine, Int64Array, IntTriple, Triple

__all__ = ["CtExamination", "CtImage", "HuHistogram", "LabelMap", "VolumeHeader"]


@dataclass(frozen=True)
class VolumeHeader:
    """The header of a file, with all checks done that need no voxels.

    `pixdim`, `sform` and `qform` are the three ways in which NIfTI describes voxel positions, as stored in the file.
    `notes` are sentences about decisions that were made when the files of a DICOM volume were found.
    """

    path: Path
    data_path: Path
    shape: IntTriple
    affine: Affine
    spacing: Triple
    orientation: str
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    pixdim: Triple | None = None
    sform: Affine | None = None
    qform: Affine | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CtImage:
    """A CT in HU: array (i, j, k), int16 or float32; affine voxel → world mm (RAS+); spacing in mm."""

    array: npt.NDArray[Any]
    affine: Affine
    spacing: Triple


@dataclass(frozen=True)
class LabelMap:
    """Integer classes: array (i, j, k); affine voxel → world mm (RAS+); spacing in mm per array axis."""

    array: npt.NDArray[Any]
    affine: Affine
    spacing: Triple


@dataclass(frozen=True)
class HuHistogram:
    """Voxel counts (int64) of consecutive integer HU, the first at `start`; empty if there is no voxel."""

    start: int
    counts: Int64Array

    @property
    def voxel_count(self) -> int:
        """Number of voxels counted."""
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class CtExamination:
    """Results of one pass over a CT.

    Attributes:
        shape: Number of voxels per axis, stored axis order.
        stored_dtype: Type of the voxels in the file.
        low: Smallest value, HU; meaningless if a value is not finite.
        high: Largest value, HU; meaningless if a value is not finite.
        not_finite: Number of voxels that are NaN or infinite.
        below: Number of voxels below :data:`patchcore.volumes.ct.LOWEST_HU`.
        above: Number of voxels above :data:`patchcore.volumes.ct.HIGHEST_HU`.
        sample: Evenly drawn voxels, HU, shape (N,), int16 or float32.
        content_hash: BLAKE3 of shape, type and voxels, hexadecimal; header and compression do not change it.
        scan_hash: Hash of the HU in any order, and of the sorted shape: equal for two files of the same scan, even if
            they are turned, mirrored or stored as another type.
        within: Counts of the HU within lesions.
        around: Counts of the HU of all voxels within :data:`patchcore.volumes.ct.DILATION_MM` of a lesion, including
            the lesion itself.
    """

    shape: IntTriple
    stored_dtype: np.dtype[Any]
    low: float
    high: float
    not_finite: int
    below: int
    above: int
    sample: npt.NDArray[Any]
    content_hash: str
    scan_hash: str
    within: HuHistogram
    around: HuHistogram

    @property
    def voxel_count(self) -> int:
        """Number of voxels of the image."""
        return self.shape[0] * self.shape[1] * self.shape[2]
