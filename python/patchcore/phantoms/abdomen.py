"""Draws the noise-free abdomen of a phantom, as a whole array: tissues are painted one over the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from patchcore.phantoms.shapes import smooth_field, tube_tree
from patchcore.types import BoolArray, Float32Array, Float64Array, IntTriple, Triple

__all__ = ["Abdomen", "draw_abdomen"]


@dataclass(frozen=True)
class Abdomen:
    """A noise-free abdomen.

    Attributes:
        image: float32, HU, canonical RAS+ axes.
        liver: bool, mask of the liver, including its vessels.
        liver_hu: Mean HU of the liver.
    """

    image: Float32Array
    liver: BoolArray
    liver_hu: float


class _Canvas:
    """A volume to paint tissues into. Positions are shares of the half extent, from the centre."""

    def __init__(self, shape: IntTriple, spacing: Triple) -> None:
        self.image: Float32Array = np.full(shape, -1000.0, dtype=np.float32)
        self.half_mm: Float64Array = np.array(shape) * np.array(spacing) / 2
        self.voxel_mm = math.cbrt(math.prod(spacing))
        self.axes = np.meshgrid(
            *(
                ((np.arange(n) - (n - 1) / 2) * s / half).astype(np.float32)
                for n, s, half in zip(shape, spacing, self.half_mm, strict=True)
            ),
            indexing="ij",
            sparse=True,
        )

    def ellipsoid(self, centre: Triple, semi: Triple, bumps: Float32Array | float = 0.0) -> Float32Array:
        """Return the signed distance [mm], negative inside. Accurate within 1 to 2 voxels of the surface."""
        rho = np.sqrt(sum(((a - c) / s) ** 2 for a, c, s in zip(self.axes, centre, semi, strict=True)))
        scale = float(np.min(np.array(semi) * self.half_mm))
        return np.asarray((rho - 1) * scale + bumps, dtype=np.float32)

    def inside(self, distance_mm: Float32Array) -> Float32Array:
        """Return the share of each voxel that lies inside a surface. It falls from 1 to 0 over about one voxel."""
        return np.asarray(np.clip(0.5 - distance_mm / self.voxel_mm, 0, 1), dtype=np.float32)

    def paint(self, occupancy: Float32Array, hu: Float32Array | float) -> None:
        """Blend in a tissue by the share of each voxel that it fills."""
        self.image += occupancy * (hu - self.image)


def draw_abdomen(
    shape: IntTriple,
    spacing: Triple,
    *,
    liver_hu: float,
    texture_hu: float,
    rng: np.random.Generator,
) -> Abdomen:
    """Draw a body with skin, fat, muscle, bowel, spleen, liver with vessels, spine and aorta.

    Args:
        shape: Size [voxels], canonical RAS+ axes.
        spacing: mm per voxel.
        liver_hu: Mean HU of the liver.
        texture_hu: Standard deviation of the smooth texture of the liver.
        rng: Random number generator.
    """
    canvas = _Canvas(shape, spacing)
    ellipsoid, inside, paint = canvas.ellipsoid, canvas.inside, canvas.paint
    wobble = smooth_field(shape, spacing, 22.0, rng) * np.float32(4.0)

    wide, deep = 0.9 + 0.03 * rng.uniform(-1, 1), 0.74 + 0.03 * rng.uniform(-1, 1)
    body = ellipsoid((0, 0, 0), (wide, deep, 4.0), wobble * np.float32(0.5))
    fat_mm, wall_mm = float(rng.uniform(6, 12)), float(rng.uniform(7, 10))
    paint(inside(body), 20.0)
    paint(inside(body + 2.0), -105.0)
    paint(inside(body + fat_mm), 55.0)
    cavity = inside(body + fat_mm + wall_mm)
    paint(cavity, -95.0 + 12.0 * smooth_field(shape, spacing, 6.0, rng))

    # Bowel, in front and to the left, nearly as bright as lesions: HU alone must not separate them.
    bowel = smooth_field(shape, spacing, 9.0, rng)
    region = inside(ellipsoid((-0.3, 0.1, -0.35), (0.42, 0.42, 0.7)))
    paint(cavity * region * inside((0.2 - bowel) * 12.0), 28.0 + 10.0 * bowel)
    paint(cavity * inside(ellipsoid((-0.6, -0.2, 0.35), (0.17, 0.24, 0.4), wobble)), float(rng.normal(115, 6)))

    dx, dy, dz = rng.uniform(-0.04, 0.04, 3).tolist()
    right = ellipsoid((0.32 + dx, dy, 0.12 + dz), (0.46, 0.5, 0.68), wobble)
    left = ellipsoid((-0.08 + dx, 0.22 + dy, 0.34 + dz), (0.42, 0.26, 0.34), wobble)
    liver = np.minimum(inside(np.minimum(right, left)), cavity)
    paint(liver, liver_hu + texture_hu * smooth_field(shape, spacing, 10.0, rng))
    vessels = tube_tree(shape, spacing, start=np.array([0.05, -0.05, 0.1]) * canvas.half_mm, rng=rng)
    paint(inside(vessels) * (liver > 0.98), liver_hu + float(rng.uniform(35, 55)))

    vertebra = np.minimum(ellipsoid((0, -0.42, 0), (0.19, 0.17, 9.0)), ellipsoid((0, -0.6, 0), (0.06, 0.2, 9.0)))
    # Vertebral bodies and discs alternate, with a period of 32 mm.
    z_mm = canvas.axes[2] * canvas.half_mm[2]
    bone = np.asarray(0.5 + 0.5 * np.cos(2 * np.pi * z_mm / 32.0 + rng.uniform(0, 2 * np.pi)), dtype=np.float32)
    paint(inside(vertebra), 140.0 + 180.0 * bone)
    paint(inside(ellipsoid((0, -0.42, 0), (0.15, 0.13, 9.0))), 90.0 + 110.0 * bone)
    aorta = ellipsoid((-0.1, -0.18, 0), (0.085, 0.085, 9.0))
    paint(inside(aorta), liver_hu + 50.0)
    return Abdomen(canvas.image, (liver > 0.5) & (np.minimum(vertebra, aorta) > canvas.voxel_mm / 2), liver_hu)
