"""Linear interpolation between grids with scipy: what the Rust core is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patchcore.inference.geometry import class_map
from patchcore.resampling.grid import Grid
from patchcore.types import Float32Array, IntTriple, Triple

_SLAB_VOXELS = 16 * 2**20


def interpolate(
    array: npt.NDArray[Any], ratio: Triple, shape: IntTriple, *, start: IntTriple = (0, 0, 0)
) -> Float32Array:
    """Interpolate linearly on an edge-aligned grid; outside the outermost voxel centres the edge value is used.

    Args:
        array: 3D, any real dtype.
        ratio: New spacing divided by old spacing, per axis. If all are exactly 1, the values are copied.
        shape: Number of voxels to return, per axis.
        start: First voxel to return on the new grid, to compute a slab of it.

    Returns:
        float32 of shape `shape`.
    """
    source = np.asarray(array, dtype=np.float32)
    if all(r == 1.0 for r in ratio):
        return np.ascontiguousarray(source[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))])
    out = np.empty(shape, dtype=np.float32)
    offset = [(s + 0.5) * r - 0.5 for s, r in zip(start, ratio, strict=True)]
    ndimage.affine_transform(
        source,
        np.asarray(ratio),
        offset=offset,
        output=out,
        output_shape=shape,
        order=1,
        mode="nearest",
        prefilter=False,
    )
    return out


def _slabs(shape: IntTriple) -> Iterator[tuple[int, int]]:
    thickness = max(1, _SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for low in range(0, shape[0], thickness):
        yield low, min(low + thickness, shape[0])


def label_on_grid(
    probabilities: Float32Array, grid: Grid, regions: Mapping[int, Sequence[int]] | None = None
) -> npt.NDArray[np.uint8]:
    shape = grid.canonical_shape
    first, second, third = (1.0 / r for r in grid.ratio)
    out = np.empty(shape, dtype=np.uint8)
    for low, high in _slabs(shape):
        size = (high - low, shape[1], shape[2])
        if regions is not None:
            # All channels of a slab are held at once: plans with regions have few channels.
            shares = [interpolate(c, (first, second, third), size, start=(low, 0, 0)) for c in probabilities]
            out[low:high] = class_map(np.stack(shares), regions)
            continue
        best = np.full(size, -np.inf, dtype=np.float32)
        slab = out[low:high]
        for index, channel in enumerate(probabilities):
            share = interpolate(channel, (first, second, third), size, start=(low, 0, 0))
            slab[share > best] = index
            np.maximum(best, share, out=best)
    return np.ascontiguousarray(grid.stored(out))
