"""Smooth scalar fields on a coarse lattice, read plane by plane. They allow drawing a volume without holding it.

A texture, or the distance to the surface of an organ, varies over millimetres to centimetres. Its values are stored
every few millimetres and interpolated by Catmull-Rom splines, which takes kilobytes instead of a whole volume. Points
are (x, y, z) in mm, canonical RAS+, from the centre of the volume. Arrays are (z, y, x), so that planes can be written
to a file without reordering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.types import Float32Array, Float64Array, Triple

__all__ = ["Field", "PlaneReader", "smooth_lattice"]

_Taps = tuple[npt.NDArray[np.intp], Float32Array]

_PERIOD = 64


@dataclass(frozen=True, eq=False)
class Field:
    """A scalar field.

    Attributes:
        values: Values at the lattice points, float32 (z, y, x).
        origin: Position (x, y, z) of the first lattice point [mm].
        step: Distance between lattice points along x, y and z [mm].
        periodic: Whether the field repeats beyond its ends. If not, the values at the ends continue.
    """

    values: Float32Array
    origin: Triple
    step: Triple
    periodic: bool = False

    def resample(self, x: Float64Array, y: Float64Array, z: Float64Array) -> Float32Array:
        """Return the values on a grid of positions in mm, float32 (len(z), len(y), len(x))."""
        out = self.values
        for axis, positions in ((2, x), (1, y), (0, z)):
            moved = np.ascontiguousarray(np.moveaxis(out, axis, 0))
            out = np.moveaxis(_spread(moved, self.taps(positions, 2 - axis)), 0, axis)
        return np.ascontiguousarray(out)

    def at(self, points: Float64Array) -> Float32Array:
        """Return the values at points (N, 3) in mm, linearly interpolated. Used to check positions, not for drawing."""
        index = ((points - np.array(self.origin)) / np.array(self.step))[:, ::-1].T
        mode = "grid-wrap" if self.periodic else "nearest"
        return np.asarray(ndimage.map_coordinates(self.values, index, order=1, mode=mode), dtype=np.float32)

    def taps(self, positions: Float64Array, axis: int) -> _Taps:
        """Return, for each position along x (0), y (1) or z (2), the indices and weights of four lattice points."""
        count = self.values.shape[2 - axis]
        place = (np.asarray(positions) - self.origin[axis]) / self.step[axis]
        if not self.periodic:
            place = np.clip(place, 0, count - 1)
        first = np.floor(place).astype(np.intp)
        t = (place - first)[:, None]
        index = first[:, None] + np.arange(-1, 3)
        index = index % count if self.periodic else np.clip(index, 0, count - 1)
        weights = np.concatenate(
            [
                ((2 - t) * t - 1) * t,
                (3 * t - 5) * t * t + 2,
                ((4 - 3 * t) * t + 1) * t,
                (t - 1) * t * t,
            ],
            axis=1,
        )
        return index, (weights / 2).astype(np.float32)


class PlaneReader:
    """A field read one axial plane at a time, on a fixed rectangle of the grid.

    Args:
        field: The field to read.
        x: Positions of the columns [mm].
        y: Positions of the rows [mm].
        z: Positions of all planes [mm].
    """

    def __init__(self, field: Field, x: Float64Array, y: Float64Array, z: Float64Array) -> None:
        self._values = field.values
        self._x, self._y, self._z = (field.taps(p, axis) for axis, p in enumerate((x, y, z)))

    def plane(self, k: int) -> Float32Array:
        """Return plane `k`, float32 (y, x)."""
        index, weights = self._z
        coarse = sum(weights[k, tap] * self._values[index[k, tap]] for tap in range(4))
        columns = _spread(np.ascontiguousarray(np.transpose(np.asarray(coarse))), self._x)
        return _spread(np.ascontiguousarray(columns.T), self._y)


def _spread(values: Float32Array, taps: _Taps) -> Float32Array:
    """Interpolate along the first axis by sums of four rows. The bits do not depend on the number of threads."""
    index, weights = taps
    shape = (len(index),) + (1,) * (values.ndim - 1)
    out = values[index[:, 0]] * weights[:, 0].reshape(shape)
    for tap in range(1, 4):
        out += values[index[:, tap]] * weights[:, tap].reshape(shape)
    return np.asarray(out, dtype=np.float32)


def smooth_lattice(scale_mm: float, seed: Sequence[int]) -> Field:
    """Return a smooth random field of mean 0 and standard deviation 1 that repeats after 32 `scale_mm`.

    Args:
        scale_mm: Sigma of the Gaussian [mm].
        seed: Seed of this field only.

    Example:
        >>> field = smooth_lattice(10.0, [0, 1])
        >>> abs(float(field.values.mean())) < 1e-5
        True
    """
    white = np.random.default_rng(seed).standard_normal((_PERIOD,) * 3, dtype=np.float32)
    values = ndimage.gaussian_filter(white, 2.0, mode="wrap")
    values -= values.mean()
    values /= values.std()
    step = scale_mm / 2
    origin = -step * _PERIOD / 2
    return Field(values, (origin, origin, origin), (step, step, step), periodic=True)
