"""Places lesions in organs and computes their voxels, without holding the volume in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from patchcore.phantoms.fields import Field, PlaneReader
from patchcore.phantoms.shapes import Body, draw_body
from patchcore.types import BoolArray, Float32Array, Float64Array, IntTriple, Triple

__all__ = ["Grid", "OrganReader", "Placed", "Placer"]

_TRIALS = 120


@dataclass(frozen=True)
class Grid:
    """The voxel grid of a volume. Positions are in mm from the centre of the volume; axes are canonical RAS+."""

    shape: IntTriple
    spacing: Triple

    @property
    def size_mm(self) -> Float64Array:
        """Extent of the volume [mm], float64 (3,)."""
        return np.asarray(np.array(self.shape) * np.array(self.spacing), dtype=np.float64)

    def positions(self, axis: int) -> Float64Array:
        """Return the positions of all voxels along an axis [mm]."""
        middle = (self.shape[axis] - 1) / 2
        return np.asarray((np.arange(self.shape[axis]) - middle) * self.spacing[axis], dtype=np.float64)

    def index(self, point: Float64Array) -> Triple:
        """Return the fractional voxel index of a point given in mm."""
        a, b, c = (point / np.array(self.spacing) + (np.array(self.shape) - 1) / 2).tolist()
        return (a, b, c)

    def range(self, axis: int, low: float, high: float) -> slice:
        """Return the slice of voxels between two positions along an axis [mm]."""
        middle = (self.shape[axis] - 1) / 2
        first = math.ceil(low / self.spacing[axis] + middle)
        last = math.floor(high / self.spacing[axis] + middle) + 1
        first = min(max(first, 0), self.shape[axis])
        return slice(first, max(first, min(last, self.shape[axis])))


class OrganReader:
    """Reads distances to the surface of an organ, plane by plane, on the rectangle of the grid around the organ."""

    def __init__(self, field: Field, grid: Grid) -> None:
        ends = [
            (o, o + step * (n - 1))
            for o, step, n in zip(field.origin, field.step, field.values.shape[::-1], strict=True)
        ]
        x, y, z = (grid.range(axis, low, high) for axis, (low, high) in enumerate(ends))
        self._tube = field.values.shape[0] == 1
        self._planes = slice(0, grid.shape[2]) if self._tube else z
        self.area = (y, x)
        self._reader = PlaneReader(field, grid.positions(0)[x], grid.positions(1)[y], grid.positions(2))
        self._same = self._reader.plane(0) if self._tube else None

    def has(self, k: int) -> bool:
        """Return whether the organ can reach plane `k`."""
        return self._planes.start <= k < self._planes.stop

    def distance(self, k: int) -> Float32Array:
        """Return signed distances in plane `k` over :attr:`area` [mm], negative inside."""
        return self._reader.plane(k) if self._same is None else self._same


@dataclass(frozen=True, eq=False)
class Placed:
    """A body placed in the volume.

    Attributes:
        centre_mm: Centre, float64 (3,).
        box: Slices of the grid along x, y and z that contain the body.
        occupancy: float32 (z, y, x), share of each voxel of the box that lies inside the body.
        label: Label of its voxels; 0 if the body is not a lesion.
        hu: Intensity.
    """

    centre_mm: Float64Array
    box: tuple[slice, slice, slice]
    occupancy: Float32Array
    label: int = 0
    hu: float = 0.0

    @property
    def voxels(self) -> BoolArray:
        """Mask of the labelled voxels in the box."""
        return np.asarray(self.occupancy >= 0.5)


class Placer:
    """Places bodies so that they do not touch each other.

    Args:
        grid: Voxel grid of the volume.
        rng: Random number generator.
    """

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        self._grid = grid
        self._rng = rng
        self._taken: list[tuple[Float64Array, float]] = []

    def place(
        self, volume_mm3: float, organ: Field, *, roughness: float, label: int = 0, hu: float = 0.0
    ) -> Placed | None:
        """Draw a body with the given volume and place it in an organ. Return None if there is no room.

        The enclosing balls of two bodies are at least three voxels apart, so each body stays one component.
        """
        gap = 3 * math.sqrt(3) * max(self._grid.spacing)
        depth = organ.values
        for trial in range(_TRIALS):
            if trial % 12 == 0:
                body = draw_body(volume_mm3, self._rng, roughness=roughness)
                surface = body.surface_mm()
                ball = float(np.linalg.norm(surface, axis=1).max())
                # Prefer places inside the organ. In the last trials, a large body may stick out of the organ.
                wanted = 0.97 if trial < 0.6 * _TRIALS else 0.8
                inner = 0.7 if trial < 0.6 * _TRIALS else 0.3
                places = np.argwhere(depth < -inner * math.cbrt(volume_mm3 * 0.75 / math.pi))
            if not len(places):
                continue
            point = places[self._rng.integers(len(places))][::-1] + self._rng.uniform(-0.5, 0.5, 3)
            centre = np.array(organ.origin) + point * np.array(organ.step)
            if np.any(np.abs(centre) + ball + gap > self._grid.size_mm / 2):
                continue
            if any(np.linalg.norm(centre - other) < ball + reach + gap for other, reach in self._taken):
                continue
            if np.mean(organ.at(centre + surface) < 0) < wanted:
                continue
            placed = _rasterise(body, centre, self._grid, label, hu)
            if placed is None:
                continue
            self._taken.append((centre, ball))
            return placed
        return None


def _rasterise(body: Body, centre: Float64Array, grid: Grid, label: int, hu: float) -> Placed | None:
    """Compute the voxels of a body. Return None if they are not one component."""
    limit = body.limit_mm() + max(grid.spacing)
    x, y, z = (grid.range(axis, centre[axis] - limit, centre[axis] + limit) for axis in range(3))
    axes = [grid.positions(axis)[part] - centre[axis] for axis, part in enumerate((x, y, z))]
    # The surface is smooth over a sixth of the radius: for large lesions, a coarse grid needs fewer points than voxels.
    step = body.radius / 6
    coarse = np.arange(-limit - step, limit + 2 * step, step)
    if len(coarse) ** 3 < math.prod(len(axis) for axis in axes):
        field = Field(_distance(body, coarse, coarse, coarse), (float(coarse[0]),) * 3, (step,) * 3)
        distance = field.resample(*axes)
    else:
        distance = _distance(body, *axes)
    occupancy = np.clip(0.5 - distance / float(np.mean(grid.spacing)), 0, 1).astype(np.float32)
    inside = occupancy >= 0.5
    if ndimage.label(inside, structure=np.ones((3, 3, 3)))[1] != 1:
        return None
    return Placed(centre, (x, y, z), occupancy, label, hu)


def _distance(body: Body, x: Float64Array, y: Float64Array, z: Float64Array) -> Float32Array:
    """Return signed distances to the surface of a body on a grid [mm], float32 (z, y, x)."""
    k, j, i = np.meshgrid(z, y, x, indexing="ij")
    return body.distance_mm(np.stack([i, j, k], axis=-1)).astype(np.float32)
