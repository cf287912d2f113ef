"""Interpolates class probabilities from the training grid to a scan's own grid, linearly.

Linear interpolation of probabilities does not overshoot and keeps their sum. The training grid is defined in
:mod:`patchcore.resampling.grid`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.resampling.grid import Grid
from patchcore.types import Float32Array

__all__ = ["class_map", "label_on_grid"]


def class_map(probabilities: Float32Array, regions: Mapping[int, Sequence[int]] | None = None) -> npt.NDArray[np.uint8]:
    """Return the most likely class of each voxel; a tie gives the lower index.

    Args:
        probabilities: float32 (1 + classes, X, Y, Z), background first.
        regions: The plan's ``region_indices``. In their order, each region is painted where the probabilities of its
            classes sum to more than 0.5.
    """
    if regions is not None:
        painted = np.zeros(probabilities.shape[1:], dtype=np.uint8)
        for own, members in regions.items():
            painted[probabilities[list(members)].sum(0) > 0.5] = own
        return painted
    if len(probabilities) == 2:
        # Same result as argmax, without its slow strided pass.
        larger: npt.NDArray[np.uint8] = (probabilities[1] > probabilities[0]).view(np.uint8)
        return larger
    chosen: npt.NDArray[np.uint8] = probabilities.argmax(axis=0).astype(np.uint8)
    return chosen


def label_on_grid(
    probabilities: Float32Array, grid: Grid, regions: Mapping[int, Sequence[int]] | None = None
) -> npt.NDArray[np.uint8]:
    """Interpolate class probabilities from the training grid to the scan's own grid, then choose the class there.

    Choosing the class first and resampling the labels loses small lesions: a sphere of radius 2.5 mm had DSC 0.75
    instead of 0.92.

    Args:
        probabilities: float32 (1 + classes, *grid.shape), background first.
        grid: The scan's grid.
        regions: As in :func:`class_map`.

    Returns:
        uint8 class indices, stored axis order, shape ``grid.stored_shape``.
    """
    channels = len(probabilities)
    flat = _core.choose_classes(
        np.ascontiguousarray(probabilities, dtype=np.float32).reshape(-1),
        shape=(channels, *grid.shape),
        out_shape=grid.canonical_shape,
        ratio=grid.inverse_ratio,
        rule=(None if regions is None else [(own, list(members)) for own, members in regions.items()], None, []),
        threads=None,
    )
    return np.ascontiguousarray(grid.stored(flat.reshape(grid.canonical_shape)))
