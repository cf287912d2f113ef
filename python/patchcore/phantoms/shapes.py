"""The shapes and textures of phantoms: irregular bodies with an exact volume, vessel trees, smooth fields, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from patchcore.types import BoolArray, Float32Array, Float64Array, IntTriple, Triple

__all__ = [
    "Blob",
    "Body",
    "add_blob",
    "correlated_noise",
    "draw_body",
    "draw_tree",
    "random_blob",
    "smooth_field",
    "tube_tree",
]

_HARMONICS = 7


@dataclass(frozen=True)
class Blob:
    """An irregular solid body on a grid.

    Attributes:
        box: Slices of the grid that contain the body.
        occupancy: float32, share of each voxel of the box that lies inside the body.
        centre_mm: Centre of the body, in mm from the centre of voxel (0, 0, 0).
    """

    box: tuple[slice, slice, slice]
    occupancy: Float32Array
    centre_mm: Float64Array

    def centre_voxel(self, spacing: Triple) -> Triple:
        """Return the centre as a voxel index."""
        a, b, c = (self.centre_mm / np.asarray(spacing)).tolist()
        return (a, b, c)


@dataclass(frozen=True, eq=False)
class Body:
    """A rotated ellipsoid with a given volume and a surface perturbed by smooth waves.

    The body is star-shaped. In a stretched and rotated frame, the surface lies at the distance
    r(u) = 1 + Σ aₖ sin(fₖ·u + φₖ) from the centre along the unit direction u. The volume in this frame is ∮ r³/3, which
    determines the scale.

    Attributes:
        volume_mm3: Volume of the body.
        radius: Length of r(u) = 1 [mm].
        stretch: Stretch of the frame's axes, float64 (3,), product 1.
        rotation: Rotation of the frame, float64 (3, 3).
        frequency: fₖ, float64 (waves, 3).
        phase: φₖ, float64 (waves,).
        amplitude: aₖ, float64 (waves,).
        roughness: Root mean square of the perturbation, relative to the radius.
    """

    volume_mm3: float
    radius: float
    stretch: Float64Array
    rotation: Float64Array
    frequency: Float64Array
    phase: Float64Array
    amplitude: Float64Array
    roughness: float

    def reach(self, direction: Float64Array) -> Float64Array:
        """Return r(u) for unit directions (…, 3) in the frame."""
        waves = np.sin(direction @ self.frequency.T + self.phase) @ self.amplitude
        return np.asarray(np.maximum(1 + waves, 0.4), dtype=np.float64)

    def distance_mm(self, points: Float64Array) -> Float64Array:
        """Return the signed distance to the surface [mm], negative inside, first order.

        Args:
            points: Positions (…, 3) in mm from the centre.
        """
        q = points @ (self.rotation / (self.stretch * self.radius))
        rho = np.linalg.norm(q, axis=-1)
        surface = self.reach(q / np.maximum(rho, 1e-9)[..., None])
        return np.asarray((rho - surface) * self.radius, dtype=np.float64)

    def limit_mm(self) -> float:
        """Return a distance from the centre that is outside the body in every direction [mm]."""
        return float(self.radius * float(self.stretch.max()) * (1 + 3 * self.roughness))

    def surface_mm(self, count: int = 200) -> Float64Array:
        """Return points on the surface, float64 (count, 3), in mm from the centre."""
        direction = _sphere(count)
        inner = direction * self.reach(direction)[:, None] * self.radius
        return np.asarray((inner * self.stretch) @ self.rotation.T, dtype=np.float64)


def draw_body(volume_mm3: float, rng: np.random.Generator, *, roughness: float) -> Body:
    """Draw a random body with the given volume."""
    stretch = np.exp(rng.normal(0, 0.18, 3))
    stretch /= np.cbrt(stretch.prod())
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    frequency = rng.normal(0, 2.2, (_HARMONICS, 3))
    phase = rng.uniform(0, 2 * np.pi, _HARMONICS)
    amplitude = rng.normal(0, 1, _HARMONICS)
    amplitude *= roughness * math.sqrt(2) / max(float(np.linalg.norm(amplitude)), 1e-9)
    unit = Body(volume_mm3, 1.0, stretch, rotation, frequency, phase, amplitude, roughness)
    radius = np.cbrt(volume_mm3 / (4 / 3 * np.pi * float(np.mean(unit.reach(_sphere(2000)) ** 3))))
    return replace(unit, radius=radius)


def random_blob(
    volume_mm3: float,
    centre_mm: Float64Array,
    shape: tuple[int, ...],
    spacing: Triple,
    rng: np.random.Generator,
    *,
    roughness: float,
) -> Blob | None:
    """Draw a random body with exactly the given volume, on a grid.

    Args:
        volume_mm3: Volume of the body.
        centre_mm: Centre, float64 (3,), in mm from the centre of voxel (0, 0, 0).
        shape: Size of the grid [voxels].
        spacing: mm per voxel.
        rng: Random number generator.
        roughness: Root mean square of the surface perturbation, relative to the radius.

    Returns:
        The blob, or None if it does not fit into the grid.
    """
    body = draw_body(volume_mm3, rng, roughness=roughness)
    limit = body.limit_mm() + max(spacing)
    low = np.floor((centre_mm - limit) / np.asarray(spacing)).astype(int)
    high = np.ceil((centre_mm + limit) / np.asarray(spacing)).astype(int) + 1
    if np.any(low < 0) or np.any(high > np.asarray(shape)):
        return None
    axes = [np.arange(a, b) * s - c for a, b, s, c in zip(low, high, spacing, centre_mm, strict=True)]
    distance_mm = body.distance_mm(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
    occupancy = np.clip(0.5 - distance_mm / float(np.mean(spacing)), 0, 1).astype(np.float32)
    box = (
        slice(int(low[0]), int(high[0])),
        slice(int(low[1]), int(high[1])),
        slice(int(low[2]), int(high[2])),
    )
    return Blob(box, occupancy, np.asarray(centre_mm, dtype=np.float64))


def add_blob(image: Float32Array, blob: Blob, hu: float) -> BoolArray:
    """Blend a blob with one intensity into the image, in place. Return the mask of its voxels in its box."""
    view = image[blob.box]
    view += blob.occupancy * (np.float32(hu) - view)
    return np.asarray(blob.occupancy >= 0.5)


def _sphere(count: int) -> Float64Array:
    """Return nearly uniform directions (count, 3), from a Fibonacci lattice."""
    k = np.arange(count) + 0.5
    polar = np.arccos(1 - 2 * k / count)
    azimuth = np.pi * (1 + math.sqrt(5)) * k
    return np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1)


def smooth_field(shape: IntTriple, spacing: Triple, scale_mm: float, rng: np.random.Generator) -> Float32Array:
    """Return a smooth random field with mean 0 and standard deviation 1. `scale_mm` is the sigma of the Gaussian."""
    # Drawn on a coarse grid and interpolated: a wide Gaussian over the full grid would take most of the time.
    coarse = tuple(max(4, math.ceil(n * s / scale_mm * 2)) for n, s in zip(shape, spacing, strict=True))
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse).astype(np.float32), 2.0, mode="wrap")
    field = ndimage.zoom(
        noise, [n / c for n, c in zip(shape, coarse, strict=True)], order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9), dtype=np.float32)


def correlated_noise(shape: IntTriple, sd: float, rng: np.random.Generator) -> Float32Array:
    """Return CT-like noise: band-passed in the plane, as after filtered back-projection, and white along z."""
    white = rng.standard_normal(shape).astype(np.float32)
    fine = ndimage.gaussian_filter(white, (0.55, 0.55, 0.0))
    noise = fine - 0.6 * ndimage.gaussian_filter(white, (1.6, 1.6, 0.0))
    return np.asarray(noise * (sd / float(noise.std())), dtype=np.float32)


def draw_tree(start: Float64Array, rng: np.random.Generator) -> tuple[list[Float64Array], list[float]]:
    """Draw a branching tree of vessels. Return the centres [mm] and radii [mm] of balls along the vessels."""
    points, radii = [], []
    stack = [(start, _unit(np.array([1.0, 0.1, 0.4])), 4.5)]
    while stack:
        position, direction, radius = stack.pop()
        for _ in range(int(rng.integers(8, 14))):
            direction = _unit(direction + 0.25 * rng.standard_normal(3))
            position = position + direction * 2.0
            points.append(position)
            radii.append(radius)
        if radius > 1.8:
            for _ in range(2):
                stack.append(
                    (
                        position,
                        _unit(direction + 0.8 * rng.standard_normal(3)),
                        radius * rng.uniform(0.6, 0.8),
                    )
                )
    return points, radii


def tube_tree(shape: IntTriple, spacing: Triple, *, start: Float64Array, rng: np.random.Generator) -> Float32Array:
    """Return the signed distance in mm (negative inside) to a branching tree of vessels.

    Args:
        shape: Size of the grid [voxels].
        spacing: mm per voxel.
        start: Root of the tree, float64 (3,), in mm from the centre of the grid.
        rng: Random number generator.
    """
    points, radii = draw_tree(start + (np.asarray(shape) - 1) / 2 * np.asarray(spacing), rng)
    distance = np.full(shape, 1e3, dtype=np.float32)
    for position, radius in zip(points, radii, strict=True):
        reach = radius + 2 * max(spacing)
        low = np.maximum(np.floor((position - reach) / np.asarray(spacing)).astype(int), 0)
        high = np.minimum(np.ceil((position + reach) / np.asarray(spacing)).astype(int) + 1, shape)
        if np.any(high <= low):
            continue
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        axes = [np.arange(a, b) * s - c for a, b, s, c in zip(low, high, spacing, position, strict=True)]
        i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
        view = distance[box]
        np.minimum(view, (np.sqrt(i * i + j * j + k * k) - radius).astype(np.float32), out=view)
    return distance


def _unit(vector: Float64Array) -> Float64Array:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float64)
