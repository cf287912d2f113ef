"""Draws the organs of a phantom that is drawn plane by plane, as signed distances to their surfaces.

The distances are held on a coarse lattice. Lengths are in mm from the centre of the volume; axes are canonical RAS+.
The organs fit a body that fills the field of view, but are never larger than in a large patient: a scan of 2 m
contains one abdomen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchcore.phantoms.fields import Field, smooth_lattice
from patchcore.types import Float32Array, Float64Array, Triple

__all__ = ["Anatomy", "draw_anatomy"]

_Ellipsoid = tuple[Triple, Triple]

_LARGEST_HALF_MM = (195.0, 195.0, 150.0)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The organs of one phantom.

    Attributes:
        half_mm: Half the extent of the part of the body with organs [mm], float64 (3,).
        body_semi: Semi-axes of the body along x and y, as shares of `half_mm`.
        organs: Signed distance to the surface of each labelled organ [mm], negative inside.
        others: Signed distances of structures that are drawn but not labelled [mm], negative inside.
        wobble: Smooth random field that makes surfaces irregular.
        fat_mm: Thickness of the fat below the skin.
        wall_mm: Thickness of the muscles around the cavity.
    """

    half_mm: Float64Array
    body_semi: tuple[float, float]
    organs: dict[str, Field]
    others: dict[str, Field]
    wobble: Field
    fat_mm: float
    wall_mm: float

    def body_mm(self, x: Float32Array, y: Float32Array) -> Float32Array:
        """Return the signed distance to the skin without wobble [mm]. It is the same in every plane."""
        a, b = self.body_semi[0] * self.half_mm[0], self.body_semi[1] * self.half_mm[1]
        rho = np.sqrt((x / a) ** 2 + (y / b) ** 2)
        return np.asarray((rho - 1) * min(a, b), dtype=np.float32)


def draw_anatomy(size_mm: Float64Array, *, several_organs: bool, seed: tuple[int, int]) -> Anatomy:
    """Draw the organs of one phantom.

    Args:
        size_mm: Extent of the volume [mm], float64 (3,).
        several_organs: Whether spleen and kidneys are labelled.
        seed: Seed of the data set and index of the case.
    """
    rng = np.random.default_rng([*seed, 1])
    half = np.minimum(size_mm / 2, _LARGEST_HALF_MM)
    wobble = smooth_lattice(22.0, [*seed, 10])
    semi = (0.9 + 0.03 * rng.uniform(-1, 1), 0.74 + 0.03 * rng.uniform(-1, 1))
    anatomy = Anatomy(half, semi, {}, {}, wobble, float(rng.uniform(8, 16)), float(rng.uniform(8, 12)))
    dx, dy, dz = rng.uniform(-0.04, 0.04, 3).tolist()
    ball = _Balls(half, anatomy)
    spine: list[_Ellipsoid] = [((0, -0.42, 0), (0.13, 0.13, 99.0)), ((0, -0.58, 0), (0.05, 0.17, 99.0))]
    aorta: list[_Ellipsoid] = [((-0.1, -0.18, 0), (0.055, 0.055, 99.0))]
    cava: list[_Ellipsoid] = [((0.1, -0.17, 0), (0.06, 0.05, 99.0))]
    right, left = ((0.38, -0.36, -0.42 + dz), (0.14, 0.15, 0.3)), ((-0.4, -0.36, -0.34 + dz), (0.14, 0.15, 0.31))
    spleen = [((-0.58, -0.14, 0.35), (0.17, 0.24, 0.36))]
    gall = [((0.26 + dx, 0.32, -0.22), (0.08, 0.1, 0.17))]
    hollow = [(*spine[0], 3.0), (*spine[1], 3.0), (*aorta[0], 2.0), (*cava[0], -0.8), (*right, 2.0), (*gall[0], -0.8)]
    liver = [((0.36 + dx, dy, 0.14 + dz), (0.42, 0.46, 0.6)), ((-0.06 + dx, 0.22 + dy, 0.36 + dz), (0.4, 0.24, 0.3))]
    anatomy.organs["liver"] = ball.field(liver, 4.0, hollow=hollow)
    named = anatomy.organs if several_organs else anatomy.others
    named["spleen"] = ball.field(spleen, 3.0)
    named["kidney"] = ball.field([right, left], 1.2, hollow=[(*spine[0], 3.0)])
    anatomy.others["gallbladder"] = ball.field(gall, 1.0)
    anatomy.others["bowel"] = ball.field([((-0.25, 0.12, -0.4), (0.45, 0.42, 0.55))], 4.0, hollow=[(*right, 2.0)])
    # Cylinders extend through the whole volume, so their lattice has only one plane.
    for name, tubes in (("spine", spine), ("aorta", aorta), ("cava", cava)):
        anatomy.others[name] = ball.field(tubes, 0.0)
    return anatomy


class _Balls:
    """Makes distance fields of unions of ellipsoids, given in shares of the half extent."""

    def __init__(self, half_mm: Float64Array, anatomy: Anatomy) -> None:
        self.half_mm = half_mm
        self.anatomy = anatomy
        self.step = float(np.clip(half_mm.max() / 48, 1.0, 4.0))

    def field(
        self,
        ellipsoids: list[_Ellipsoid],
        wobble_mm: float,
        *,
        hollow: list[tuple[Triple, Triple, float]] | None = None,
    ) -> Field:
        """Return the signed distance to a union of ellipsoids in the body cavity.

        Each ellipsoid in `hollow` is kept free, with a gap [mm].
        """
        margin = 2.5 * wobble_mm + 3 * self.step
        low = np.min([(np.array(c) - s) * self.half_mm for c, s in ellipsoids], axis=0) - margin
        high = np.max([(np.array(c) + s) * self.half_mm for c, s in ellipsoids], axis=0) + margin
        low, high = np.maximum(low, -self.half_mm - margin), np.minimum(high, self.half_mm + margin)
        x, y, z = (np.arange(a, b + self.step, self.step) for a, b in zip(low, high, strict=True))
        tube = ellipsoids[0][1][2] > 9
        if tube:
            z = np.zeros(1)
        grid = (z[:, None, None], y[None, :, None], x[None, None, :])
        distance = np.min([self._ellipsoid(grid, *each) for each in ellipsoids], axis=0)
        if not tube:
            waves = self.anatomy.wobble.resample(x, y, z)
            distance = distance + wobble_mm * waves
            skin = self.anatomy.body_mm(grid[2].astype(np.float32), grid[1].astype(np.float32)) + 2 * waves
            distance = np.maximum(distance, skin + self.anatomy.fat_mm + self.anatomy.wall_mm)
        for centre, semi, gap in hollow or []:
            distance = np.maximum(distance, gap - self._ellipsoid(grid, centre, semi))
        origin: Triple = (float(x[0]), float(y[0]), float(z[0]))
        return Field(np.asarray(distance, dtype=np.float32), origin, (self.step,) * 3)

    def _ellipsoid(
        self, grid: tuple[Float64Array, Float64Array, Float64Array], centre: Triple, semi: Triple
    ) -> Float64Array:
        z, y, x = grid
        a, b, c = (s * h for s, h in zip(semi, self.half_mm, strict=True))
        p, q, r = (m * h for m, h in zip(centre, self.half_mm, strict=True))
        rho = np.sqrt(((x - p) / a) ** 2 + ((y - q) / b) ** 2 + ((z - r) / c) ** 2)
        return np.asarray((rho - 1) * min(a, b, c), dtype=np.float64)
