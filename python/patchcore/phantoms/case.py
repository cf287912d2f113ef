"""Types for one phantom: its true lesions, and its voxels plane by plane or as whole arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from patchcore.types import Float64Array, IntTriple, Triple

__all__ = ["PhantomCase", "PhantomLesion", "Planes"]


@dataclass(frozen=True)
class PhantomLesion:
    """One lesion: intended volume, voxel count, volume of its voxels, and centre (voxel index, RAS+)."""

    intended_mm3: float
    voxel_count: int
    volume_mm3: float
    centre: Triple
    contrast_hu: float
    organ: str = "liver"
    label: int = 2


class Planes(Protocol):
    """A phantom that is read one axial plane at a time. Planes have shape (y, x); axes are canonical RAS+."""

    @property
    def shape(self) -> IntTriple:
        """Size along x, y and z [voxels]."""

    @property
    def spacing(self) -> Triple:
        """Spacing along x, y and z [mm]."""

    @property
    def affine(self) -> Float64Array:
        """Voxel index (x, y, z) → world mm, float64 (4, 4)."""

    @property
    def lesions(self) -> tuple[PhantomLesion, ...]:
        """All lesions. Each lesion is one 26-connected component of its label."""

    def image_plane(self, k: int) -> npt.NDArray[np.int16]:
        """Return the HU of plane `k`."""

    def label_plane(self, k: int) -> npt.NDArray[np.uint8]:
        """Return the labels of plane `k`."""


@dataclass(frozen=True)
class PhantomCase:
    """One phantom as whole arrays, in canonical RAS+ axes.

    Attributes:
        image: int16, HU.
        label: uint8; 0 background, 1 liver, 2 tumour, or the labels of :attr:`.PhantomSpec.label_names`.
        affine: float64 (4, 4), voxel index → world mm.
        spacing: mm per voxel.
        lesions: All lesions. Each lesion is one 26-connected component of its label.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: Float64Array
    spacing: Triple
    lesions: tuple[PhantomLesion, ...]

    @property
    def shape(self) -> IntTriple:
        """Size along x, y and z [voxels]."""
        a, b, c = self.image.shape
        return (a, b, c)

    def image_plane(self, k: int) -> npt.NDArray[np.int16]:
        """Return the HU of plane `k`, (y, x)."""
        return self.image[:, :, k].T

    def label_plane(self, k: int) -> npt.NDArray[np.uint8]:
        """Return the labels of plane `k`, (y, x)."""
        return self.label[:, :, k].T
