"""Finding room for lesions in organs, and their voxels, without the volume they will be in."""

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
    """Positions of a volume's voxels in mm from its centre, axes canonical RAS+."""

    shape: IntTriple
    spacing: Triple

    @property
    def size_mm(self) -> Float64Array:
        """Extent, float64 (3,)."""
        return np.asarray(np.array(self.shape) * np.array(self.spacing), dtype=np.float64)

    def positions(self, axis: int) -> Float64Array:
        """Return the positions of all voxels along an axis."""
        middle = (self.shape[axis] - 1) / 2
        return np.asarray((np.arange(self.shape[axis]) - middle) * self.spacing[axis], dtype=np.float64)

    def index(self, point: Float64Array) -> Triple:
        """Return the voxel index, fractions included, of a point in mm."""
        a, b, c = (point / np.array(self.spacing) + (np.array(self.shape) - 1) / 2).tolist()
        return (a, b, c)

    def range(self, axis: int, low: float, high: float) -> slice:
        """Return the voxels within mm positions along an axis."""
        middle = (self.shape[axis] - 1) / 2
        first = math.ceil(low / self.spacing[axis] + middle)
        last = math.floor(high / self.spacing[axis] + middle) + 1
        first = min(max(first, 0), self.shape[axis])
        return slice(first, max(first, min(last, self.shape[axis])))


class OrganReader:
    """Distances to an organ's surface, plane by plane, on the rectangle of the grid that holds it."""

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
        """Return whether the organ may reach plane `k`."""
        return self._planes.start <= k < self._planes.stop

    def distance(self, k: int) -> Float32Array:
        """Return signed distances in mm over :attr:`area`, negative inside."""
        return self._reader.plane(k) if self._same is None else self._same


@dataclass(frozen=True, eq=False)
class Placed:
    """A body in the volume.

    Attributes:
        centre_mm: float64 (3,).
        box: slices of the grid along x, y and z that hold it.
        occupancy: float32 (z, y, x), the share of each voxel of the box that lies inside.
        label: what its voxels are called; 0 for what is no lesion.
        hu: its intensity.
    """

    centre_mm: Float64Array
    box: tuple[slice, slice, slice]
    occupancy: Float32Array
    label: int = 0
    hu: float = 0.0

    @property
    def voxels(self) -> BoolArray:
        """Which voxels of the box are labelled."""
        return np.asarray(self.occupancy >= 0.5)


class Placer:
    """Places bodies apart from each other.

    Args:
        grid: The volume's voxels.
        rng: Source of chance.
    """

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        self._grid = grid
        self._rng = rng
        self._taken: list[tuple[Float64Array, float]] = []

    def place(
        self, volume_mm3: float, organ: Field, *, roughness: float, label: int = 0, hu: float = 0.0
    ) -> Placed | None:
        """Draw a body of a volume and find room for it in an organ; None where there is none.

        Bodies keep three voxels apart by their enclosing balls, so that each stays one component.
        """
        gap = 3 * math.sqrt(3) * max(self._grid.spacing)
        depth = organ.values
        for trial in range(_TRIALS):
            if trial % 12 == 0:
                body = draw_body(volume_mm3, self._rng, roughness=roughness)
                surface = body.surface_mm()
                ball = float(np.linalg.norm(surface, axis=1).max())
                # Rather inside; a large one may bulge out of the organ where nothing else is left.
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
    """Return a body's voxels, None where they are not one component."""
    limit = body.limit_mm() + max(grid.spacing)
    x, y, z = (grid.range(axis, centre[axis] - limit, centre[axis] + limit) for axis in range(3))
    axes = [grid.positions(axis)[part] - centre[axis] for axis, part in enumerate((x, y, z))]
    # The surface is smooth over a sixth of the radius: fewer points than voxels where lesions are large.
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
    """Return signed distances on a grid, float32 (z, y, x)."""
    k, j, i = np.meshgrid(z, y, x, indexing="ij")
    return body.distance_mm(np.stack([i, j, k], axis=-1)).astype(np.float32)
