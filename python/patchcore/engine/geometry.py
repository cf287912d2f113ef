"""From a scan's stored grid to the training grid and back.

The training grid has closest-canonical (RAS+) axes and the plan's spacing exactly; its low edges are the scan's low
edges, so a voxel of index j covers the same millimetres on both grids' own scale: along one axis

    stored centre = (j + 0.5) · training spacing / stored spacing − 0.5        (indices in canonical order)

Interpolation is linear throughout. It cannot overshoot (a cubic spline rings at bone and metal edges, and in windows
clipped to ``hu_range`` nothing finer than linear is left to gain), and it is its own counterpart on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.types import Affine, Float32Array, IntTriple, Triple

__all__ = ["SAME_SPACING", "Grid", "interpolate", "label_on_grid", "resample_labels"]

SAME_SPACING = 1e-3
"""Spacings whose ratio is this close to 1 count as one: the axis is not interpolated."""

# Memberships nearer than rounding are a tie.
_TIE = 1e-4

# Probabilities come back to the stored grid in slabs of at most this many voxels, to bound memory.
_SLAB_VOXELS = 16 * 2**20


@dataclass(frozen=True)
class Grid:
    """How one scan lies on its training grid.

    Attributes:
        axes: For each canonical axis the stored axis along it.
        flipped: For each canonical axis whether the stored axis runs against it.
        stored_shape: Voxels, stored axis order.
        canonical_shape: Voxels of the stored grid, canonical axis order.
        canonical_spacing: mm per voxel of the stored grid, canonical axis order.
        shape: Voxels of the training grid.
        spacing: mm per voxel of the training grid.
        affine: Training voxel index → world mm, float64 (4, 4).
    """

    axes: IntTriple
    flipped: tuple[bool, bool, bool]
    stored_shape: IntTriple
    canonical_shape: IntTriple
    canonical_spacing: Triple
    shape: IntTriple
    spacing: Triple
    affine: Affine

    @classmethod
    def of(cls, shape: IntTriple, affine: Affine, spacing: Triple) -> Grid:
        """Work out the training grid of a scan.

        Args:
            shape: The scan's voxels, stored axis order.
            affine: Its voxel index → world mm, (4, 4).
            spacing: The training spacing, canonical axes, mm.

        Example:
            >>> lps = np.diag([-2.0, -2.0, 5.0, 1.0])
            >>> grid = Grid.of((10, 10, 4), lps, (1.0, 2.0, 5.0))
            >>> grid.shape, grid.flipped, grid.affine[:3, 3].tolist()
            ((20, 10, 4), (True, True, False), [-18.5, -18.0, 0.0])
        """
        import nibabel

        affine = np.asarray(affine, dtype=np.float64)
        orientation = nibabel.orientations.io_orientation(affine)
        world = [int(axis) for axis in orientation[:, 0]]
        axes = (world.index(0), world.index(1), world.index(2))
        flipped = tuple(bool(orientation[axis, 1] < 0) for axis in axes)
        canonical = affine @ nibabel.orientations.inv_ornt_aff(orientation, shape)
        stored_spacing = np.sqrt((canonical[:3, :3] ** 2).sum(axis=0))
        ratio = np.asarray(spacing) / stored_spacing
        ratio[np.abs(ratio - 1) < SAME_SPACING] = 1.0
        stored = np.asarray([shape[axis] for axis in axes])
        # Half voxels round up: no axis loses its last covered half.
        wanted = np.maximum(1, np.floor(stored / ratio + 0.5)).astype(int)
        new = canonical.copy()
        new[:3, :3] = canonical[:3, :3] * ratio
        new[:3, 3] = canonical[:3, 3] + canonical[:3, :3] @ ((ratio - 1) / 2)
        return cls(
            axes=axes,
            flipped=(flipped[0], flipped[1], flipped[2]),
            stored_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            canonical_shape=_triple(stored),
            canonical_spacing=(float(stored_spacing[0]), float(stored_spacing[1]), float(stored_spacing[2])),
            shape=_triple(wanted),
            spacing=spacing,
            affine=new,
        )

    @property
    def ratio(self) -> Triple:
        """Training spacing over stored spacing per axis, exactly 1 where the axis is kept as it is."""
        first, second, third = (
            1.0 if abs(new / old - 1) < SAME_SPACING else new / old
            for new, old in zip(self.spacing, self.canonical_spacing, strict=True)
        )
        return (first, second, third)

    def canonical(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a stored-order array, shape `stored_shape`, in canonical order."""
        view = np.transpose(array, self.axes)
        return view[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a canonical-order array, shape `canonical_shape`, in stored order."""
        view = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        return np.transpose(view, np.argsort(self.axes))

    def resample(self, array: npt.NDArray[Any]) -> Float32Array:
        """Bring a stored-order image to the training grid, linearly; float32 of shape `shape`."""
        return interpolate(self.canonical(array), self.ratio, self.shape)


def _triple(values: npt.NDArray[Any]) -> IntTriple:
    return (int(values[0]), int(values[1]), int(values[2]))


def interpolate(
    array: npt.NDArray[Any], ratio: Triple, shape: IntTriple, *, start: IntTriple = (0, 0, 0)
) -> Float32Array:
    """Interpolate linearly on an edge-aligned grid; beyond the outermost centres the edge value holds.

    Args:
        array: 3D, any real dtype.
        ratio: New spacing over old per axis; an axis of exactly 1 is copied.
        shape: Voxels wanted.
        start: First voxel wanted on the new grid: for slabs of it.

    Returns:
        float32 of shape `shape`.
    """
    from scipy import ndimage

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


def resample_labels(
    labels: npt.NDArray[np.uint8], ratio: Triple, shape: IntTriple, *, classes: int
) -> npt.NDArray[np.uint8]:
    """Bring class indices to another grid: each class's membership linearly, then the largest.

    On a coarser grid this keeps the volume of lesions a few voxels wide, which nearest neighbour drops or doubles by
    chance.

    Args:
        labels: uint8 class indices 0…`classes`, 3D.
        ratio: New spacing over old per axis.
        shape: Voxels wanted.
        classes: Number of foreground classes.

    Returns:
        uint8 class indices of shape `shape`. On a tie the higher index wins: at a ratio of 2, where a tie is common,
        background would take a fifth to a half of a small lesion.
    """
    if all(r == 1.0 for r in ratio):
        return np.ascontiguousarray(labels)
    out = np.zeros(shape, dtype=np.uint8)
    best = interpolate(labels == 0, ratio, shape)
    for index in range(1, classes + 1):
        share = interpolate(labels == index, ratio, shape)
        larger = (share >= best - _TIE) & (share > _TIE)
        out[larger] = index
        np.maximum(best, share, out=best)
    return out


def _slabs(shape: IntTriple) -> Iterator[tuple[int, int]]:
    thickness = max(1, _SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for low in range(0, shape[0], thickness):
        yield low, min(low + thickness, shape[0])


def label_on_grid(probabilities: Float32Array, grid: Grid) -> npt.NDArray[np.uint8]:
    """Take class probabilities from the training grid to the scan's own grid, and only there choose the class.

    Choosing first and resampling the choice loses small lesions: a sphere of radius 2.5 mm came back with DSC 0.75
    instead of 0.92.

    Args:
        probabilities: float32 (1 + classes, *grid.shape), background first.
        grid: The scan's grid.

    Returns:
        uint8 class indices, stored axis order, shape ``grid.stored_shape``.
    """
    shape = grid.canonical_shape
    first, second, third = (1.0 / r for r in grid.ratio)
    out = np.empty(shape, dtype=np.uint8)
    for low, high in _slabs(shape):
        size = (high - low, shape[1], shape[2])
        best = np.full(size, -np.inf, dtype=np.float32)
        slab = out[low:high]
        for index, channel in enumerate(probabilities):
            share = interpolate(channel, (first, second, third), size, start=(low, 0, 0))
            slab[share > best] = index
            np.maximum(best, share, out=best)
    return np.ascontiguousarray(grid.stored(out))
