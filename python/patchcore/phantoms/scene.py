"""Draws phantoms plane by plane. Used for volumes that are too large for memory, and for several organs.

A scene holds coarse fields, vessels and the voxels of the lesions: some megabytes for any size of the volume.
Each plane is a pure function of the spec, the seeds and the plane number. This includes the noise: a counter-based
generator computes it from the plane number. So planes can be drawn in any order and by any number of threads, with the
same result.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

from patchcore.phantoms.anatomy import draw_anatomy
from patchcore.phantoms.case import PhantomCase, PhantomLesion
from patchcore.phantoms.painting import Painter
from patchcore.phantoms.placing import Grid, OrganReader, Placed, Placer
from patchcore.phantoms.spec import LesionSpec, PhantomSpec
from patchcore.types import Float64Array, IntTriple, Triple

__all__ = ["Scene"]

_LESION_ROUGHNESS, _CYST_ROUGHNESS = 0.2, 0.05


class Scene:
    """One phantom that draws only the requested planes.

    Args:
        spec: Properties of the phantom.
        seed: Seed of the data set.
        index: Index of the case in the data set.

    Example:
        >>> scene = Scene(PhantomSpec(shape=(512, 512, 2000), spacing=(0.75, 0.75, 1.0)), seed=0, index=0)
        >>> scene.label_plane(1000).shape
        (512, 512)
    """

    def __init__(self, spec: PhantomSpec, *, seed: int, index: int = 0) -> None:
        rng = np.random.default_rng([seed, index, 0])
        jitter = 1 + spec.spacing_jitter * rng.uniform(-1, 1)
        spacing = (spec.spacing[0] * jitter, spec.spacing[1] * jitter, spec.spacing[2])
        self._spec, self._seed = spec, (seed, index)
        self._grid = Grid(spec.shape, spacing)
        self._affine = np.diag([*spacing, 1.0])
        self._affine[:3, 3] = -self._grid.size_mm / 2 + rng.uniform(-20, 20, 3)
        self._organ_hu = {
            "liver": float(rng.normal(*spec.liver_hu)),
            "spleen": float(rng.normal(118, 6)),
            "kidney": float(rng.normal(165, 10)),
        }
        self._anatomy = draw_anatomy(self._grid.size_mm, several_organs=spec.kidney is not None, seed=self._seed)
        self._readers = [
            (label, OrganReader(self._anatomy.organs[name], self._grid))
            for label, name in spec.label_names.items()
            if name in self._anatomy.organs
        ]
        placer = Placer(self._grid, np.random.default_rng([seed, index, 2]))
        self._bodies, self._lesions = self._place_lesions(placer, np.random.default_rng([seed, index, 3]))
        self._cysts = self._place_cysts(placer, np.random.default_rng([seed, index, 4]))

    @property
    def shape(self) -> IntTriple:
        """Size along x, y and z [voxels]."""
        return self._grid.shape

    @property
    def spacing(self) -> Triple:
        """Spacing along x, y and z [mm]."""
        return self._grid.spacing

    @property
    def affine(self) -> Float64Array:
        """Voxel index (x, y, z) → world mm, float64 (4, 4)."""
        return self._affine

    @property
    def lesions(self) -> tuple[PhantomLesion, ...]:
        """All lesions that could be placed."""
        return self._lesions

    def label_plane(self, k: int) -> npt.NDArray[np.uint8]:
        """Return the labels of plane `k`, uint8 (y, x)."""
        plane = np.zeros(self._grid.shape[1::-1], dtype=np.uint8)
        for label, organ in self._readers:
            if organ.has(k):
                plane[organ.area][organ.distance(k) < 0] = label
        for body in self._bodies:
            x, y, z = body.box
            if z.start <= k < z.stop:
                plane[y, x][body.occupancy[k - z.start] >= 0.5] = body.label
        return plane

    def image_plane(self, k: int) -> npt.NDArray[np.int16]:
        """Return the HU of plane `k`, int16 (y, x)."""
        return self._painter.plane(k)

    def whole(self) -> PhantomCase:
        """Return the phantom as whole arrays."""
        nz = self.shape[2]
        return PhantomCase(
            image=np.stack([self.image_plane(k).T for k in range(nz)], axis=2),
            label=np.stack([self.label_plane(k).T for k in range(nz)], axis=2),
            affine=self.affine,
            spacing=self.spacing,
            lesions=self.lesions,
        )

    @cached_property
    def _painter(self) -> Painter:
        return Painter(
            self._grid,
            self._anatomy,
            organ_hu=self._organ_hu,
            texture_hu=self._spec.texture_hu,
            noise_hu=self._spec.noise_hu,
            bodies=[*self._cysts, *self._bodies],
            seed=self._seed,
        )

    def _place_lesions(
        self, placer: Placer, rng: np.random.Generator
    ) -> tuple[list[Placed], tuple[PhantomLesion, ...]]:
        wanted: list[tuple[LesionSpec, float, float]] = []
        for group in self._spec.groups:
            for _ in range(int(rng.integers(group.count[0], group.count[1] + 1))):
                wanted.append((group, group.draw_volume(rng), float(rng.normal(*group.contrast_hu))))
        bodies, lesions = [], []
        # Place the largest lesions first, while there is room. A lesion without room is skipped. In random order, large
        # lesions would be skipped more often than small ones.
        for group, volume, contrast in sorted(wanted, key=lambda each: -each[1]):
            body = placer.place(
                volume,
                self._anatomy.organs[group.organ],
                roughness=_LESION_ROUGHNESS,
                label=group.label,
                hu=self._organ_hu[group.organ] + contrast,
            )
            if body is None:
                continue
            count = int(np.count_nonzero(body.voxels))
            centre = self._grid.index(body.centre_mm)
            bodies.append(body)
            lesions.append(
                PhantomLesion(
                    volume, count, count * math.prod(self.spacing), centre, contrast, group.organ, group.label
                )
            )
        return bodies, tuple(lesions)

    def _place_cysts(self, placer: Placer, rng: np.random.Generator) -> list[Placed]:
        cysts = []
        for group in self._spec.groups:
            for _ in range(int(rng.integers(0, self._spec.cysts + 1))):
                cyst = placer.place(
                    float(rng.uniform(400, 2000)),
                    self._anatomy.organs[group.organ],
                    roughness=_CYST_ROUGHNESS,
                    hu=float(rng.uniform(5, 15)),
                )
                if cyst is not None:
                    cysts.append(cyst)
        return cysts
