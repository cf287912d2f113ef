"""One phantom: its true lesions, and its voxels plane by plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from patchcore.types import Float64Array, IntTriple, Triple

__all__ = ["PhantomCase", "PhantomLesion", "Planes"]


@dataclass(frozen=True)
class PhantomLesion:
    """One lesion: the volume meant, what the voxels hold, and where its centre lies (voxels, RAS+)."""

    intended_mm3: float
    voxel_count: int
    volume_mm3: float
    centre: Triple
    contrast_hu: float
    organ: str = "liver"
    label: int = 2


class Planes(Protocol):
    """A phantom that is read one axial plane at a time; planes are (y, x), axes canonical RAS+."""

    @property
    def shape(self) -> IntTriple:
        """Voxels along x, y and z."""

    @property
    def spacing(self) -> Triple:
        """Mm per voxel along x, y and z."""

    @property
    def affine(self) -> Float64Array:
        """float64 (4, 4), voxel index (x, y, z) to world mm."""

    @property
    def lesions(self) -> tuple[PhantomLesion, ...]:
        """Every lesion; each is one 26-connected component of its label."""

    def image_plane(self, k: int) -> npt.NDArray[np.int16]:
        """Return HU of plane `k`."""

    def label_plane(self, k: int) -> npt.NDArray[np.uint8]:
        """Return labels of plane `k`."""


@dataclass(frozen=True)
class PhantomCase:
    """One phantom in canonical RAS+ axes.

    Attributes:
        image: int16, HU.
        label: uint8; 0 background, 1 liver, 2 tumour, or as :attr:`.PhantomSpec.label_names` says.
        affine: float64 (4, 4), voxel index to world mm.
        spacing: mm per voxel.
        lesions: every lesion; each is one 26-connected component of its label.
    """

    image: npt.NDArray[np.int16]
    label: npt.NDArray[np.uint8]
    affine: Float64Array
    spacing: Triple
    lesions: tuple[PhantomLesion, ...]

    @property
    def shape(self) -> IntTriple:
        """Voxels along x, y and z."""
        a, b, c = self.image.shape
        return (a, b, c)

    def image_plane(self, k: int) -> npt.NDArray[np.int16]:
        """Return HU of plane `k`, (y, x)."""
        return self.image[:, :, k].T

    def label_plane(self, k: int) -> npt.NDArray[np.uint8]:
        """Return labels of plane `k`, (y, x)."""
        return self.label[:, :, k].T
