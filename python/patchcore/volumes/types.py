"""Types of volumes: what a header says, a CT in HU, a label map. Arrays are in stored axis order."""

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
    """What a file's header says, checked for what can be checked without reading voxels.

    `pixdim`, `sform` and `qform` are NIfTI's three ways to say where voxels lie, as they stand in the file. `notes` are
    sentences about decisions that were made when the files of a DICOM volume were searched.
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
    """A CT in HU: array (i, j, k), int16 or float32; affine voxel → world mm (RAS+); spacing in mm.

    `stored_dtype` is the type of the voxels in the file.
    """

    array: npt.NDArray[Any]
    affine: Affine
    spacing: Triple
    stored_dtype: np.dtype[Any]


@dataclass(frozen=True)
class LabelMap:
    """Integer classes: array (i, j, k); affine voxel → world mm (RAS+); spacing in mm per array axis."""

    array: npt.NDArray[Any]
    affine: Affine
    spacing: Triple


@dataclass(frozen=True)
class HuHistogram:
    """Voxel counts (int64) of consecutive integer HU from `start` on; empty where there is no voxel."""

    start: int
    counts: Int64Array

    @property
    def voxel_count(self) -> int:
        """Voxels counted."""
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class CtExamination:
    """What one pass over a CT finds.

    Attributes:
        shape: Voxels, stored axis order.
        stored_dtype: Type of the voxels in the file.
        low: Smallest value, HU; without meaning if a value is not finite.
        high: Largest value, HU; likewise.
        not_finite: Voxels that are NaN or infinite.
        below: Voxels below :data:`patchcore.volumes.ct.LOWEST_HU`.
        above: Voxels above :data:`patchcore.volumes.ct.HIGHEST_HU`.
        sample: Evenly drawn voxels, HU, shape (N,), int16 or float32.
        content_hash: BLAKE3 of shape, type and voxels, hexadecimal; header and compression do not change it.
        within: HU of the lesions' voxels.
        around: HU of all voxels within a radius of the lesions, the lesions' own included.
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
    within: HuHistogram
    around: HuHistogram

    @property
    def voxel_count(self) -> int:
        """Voxels of the image."""
        return self.shape[0] * self.shape[1] * self.shape[2]
