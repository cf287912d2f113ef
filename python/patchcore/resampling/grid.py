"""Computes the training grid of a scan, and resamples images to it.

The axes of the training grid are closest-canonical (RAS+), its spacing is exactly the plan's, and its low edges are the
scan's low edges. Along one axis, the centre of training voxel j lies at this index of the stored grid:

    stored centre = (j + 0.5) · training spacing / stored spacing − 0.5        (indices in canonical order)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchcore.affines import rescaled_affine, spacing_of
from patchcore.resampling.image import resample_image
from patchcore.types import Affine, IntTriple, Triple

__all__ = ["SAME_SPACING", "Grid"]

SAME_SPACING = 1e-3
"""If the ratio of two spacings differs from 1 by less than this, they are treated as equal: no interpolation."""


@dataclass(frozen=True)
class Grid:
    """Relation between the stored grid of a scan and its training grid.

    Attributes:
        axes: For each canonical axis, the stored axis along it.
        flipped: For each canonical axis, whether the stored axis has the opposite direction.
        stored_shape: Number of voxels of the stored grid, stored axis order.
        canonical_shape: Number of voxels of the stored grid, canonical axis order.
        canonical_spacing: mm per voxel of the stored grid, canonical axis order.
        shape: Number of voxels of the training grid.
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
        """Compute the training grid of a scan.

        Args:
            shape: Number of voxels of the scan, stored axis order.
            affine: Voxel index of the scan → world mm, (4, 4).
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
        stored_spacing = np.asarray(spacing_of(canonical))
        ratio = np.asarray(spacing) / stored_spacing
        ratio[np.abs(ratio - 1) < SAME_SPACING] = 1.0
        stored = np.asarray([shape[axis] for axis in axes])
        # Half voxels round up, so that no axis loses its last half voxel.
        wanted = np.maximum(1, np.floor(stored / ratio + 0.5)).astype(int)
        return cls(
            axes=axes,
            flipped=(flipped[0], flipped[1], flipped[2]),
            stored_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            canonical_shape=_triple(stored),
            canonical_spacing=(float(stored_spacing[0]), float(stored_spacing[1]), float(stored_spacing[2])),
            shape=_triple(wanted),
            spacing=spacing,
            affine=rescaled_affine(canonical, ratio),
        )

    @property
    def ratio(self) -> Triple:
        """Training spacing divided by stored spacing per axis; exactly 1 if the axis is not interpolated."""
        first, second, third = (
            1.0 if abs(new / old - 1) < SAME_SPACING else new / old
            for new, old in zip(self.spacing, self.canonical_spacing, strict=True)
        )
        return (first, second, third)

    @property
    def inverse_ratio(self) -> Triple:
        """Stored spacing divided by training spacing per axis: the ratio of the way back."""
        first, second, third = (1.0 / edge for edge in self.ratio)
        return (first, second, third)

    def box(self, start: Sequence[int], stop: Sequence[int], margin_mm: float) -> tuple[IntTriple, IntTriple]:
        """Return the part of the training grid that covers a box of stored voxels and a margin around it.

        Args:
            start: First stored voxel, stored axis order.
            stop: One past the last stored voxel.
            margin_mm: Margin around the box, mm.

        Returns:
            First training voxel and one past the last, canonical order, clipped to the grid; at least one voxel.
        """
        low, high = [], []
        for axis, (stored, flip) in enumerate(zip(self.axes, self.flipped, strict=True)):
            first, last = int(start[stored]), int(stop[stored])
            if flip:
                first, last = self.stored_shape[stored] - last, self.stored_shape[stored] - first
            margin = margin_mm / self.canonical_spacing[axis]
            begin = math.floor((first - margin) / self.ratio[axis])
            low.append(min(max(begin, 0), self.shape[axis] - 1))
            high.append(max(min(math.ceil((last + margin) / self.ratio[axis]), self.shape[axis]), low[-1] + 1))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def canonical(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a stored-order array, shape `stored_shape`, in canonical order."""
        view = np.transpose(array, self.axes)
        return view[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]

    def stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a canonical-order array, shape `canonical_shape`, in stored order."""
        view = array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]
        return np.transpose(view, np.argsort(self.axes))

    def resample(
        self,
        array: npt.NDArray[Any],
        *,
        kernel: Literal["cubic", "linear"] = "cubic",
        antialias: bool = True,
        threads: int | None = None,
    ) -> npt.NDArray[np.int16]:
        """Resample an image in stored order to the training grid: int16 HU of shape `shape`.

        See :func:`patchcore.resampling.image.resample_image`; NaN becomes air (−1024 HU).
        """
        return resample_image(
            self.canonical(array),
            self.canonical_spacing,
            self._new_spacing(),
            kernel=kernel,
            antialias=antialias,
            shape=self.shape,
            threads=threads,
        )

    def _new_spacing(self) -> Triple:
        """Return the training spacing, or exactly the stored spacing if both are treated as equal."""
        (a, b, c), (x, y, z) = self.canonical_spacing, self.ratio
        return (a * x, b * y, c * z)


def _triple(values: npt.NDArray[Any]) -> IntTriple:
    return (int(values[0]), int(values[1]), int(values[2]))
