"""Brings a prediction to the grid of a label map: flips and axis order exactly, anything else only on request."""

from __future__ import annotations

import numpy as np

from patchcore.errors import DataError
from patchcore.types import AnyArray
from patchcore.volumes.types import LabelMap

__all__ = ["on_grid_of"]

_TOLERANCE_VOXELS = 0.05
"""How far corners of two grids may be apart. Headers store float32, and tools round spacings to a few digits."""


def on_grid_of(truth: LabelMap, prediction: LabelMap, *, resample: bool = False) -> AnyArray:
    """Return the voxels of a prediction in the axis order and direction of a label map.

    Args:
        truth: The label map that decides the grid.
        prediction: The label map to bring there.
        resample: If the grids differ by more than flips and axis order: take the nearest voxel, and 0 outside.

    Returns:
        A view of the prediction's voxels, or a new array after resampling; the shape is that of `truth`.

    Raises:
        DataError: The grids differ by more than flips and axis order, and `resample` is False.

    Example:
        >>> affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        >>> affine[0, 3] = 3.0
        >>> voxels = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
        >>> mirrored = LabelMap(voxels, affine, (1.0, 1.0, 2.0))
        >>> truth = LabelMap(np.zeros((4, 3, 2), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]), (1.0, 1.0, 2.0))
        >>> bool((on_grid_of(truth, mirrored) == voxels[::-1]).all())
        True
    """
    # Index of a voxel of the prediction from that of the same place in the truth.
    index = np.linalg.solve(prediction.affine, truth.affine)
    axes = np.abs(index[:3, :3]).argmax(axis=0)  # the prediction's axis that runs along each axis of the truth
    if sorted(axes.tolist()) == [0, 1, 2]:
        turned = prediction.array.transpose(axes)
        signs = np.sign(index[axes, range(3)])
        turned = turned[tuple(slice(None, None, -1 if sign < 0 else None) for sign in signs)]
        if turned.shape == truth.array.shape and _agree(index, axes, signs, prediction.array.shape):
            return turned
    if not resample:
        raise DataError(
            f"the prediction has {_grid(prediction)}; the label map has {_grid(truth)}. Grids that differ only by "
            "flips or axis order are matched; these differ by more",
            found=prediction.array.shape,
            expected=truth.array.shape,
            remedy="export the prediction on the grid of the label map; or use --resample, which takes the nearest "
            "voxel of the prediction and changes the scores of small lesions",
        )
    from scipy import ndimage

    found: AnyArray = ndimage.affine_transform(
        prediction.array,
        index[:3, :3],
        offset=index[:3, 3],
        output_shape=truth.array.shape,
        order=0,
        mode="grid-constant",
        prefilter=False,
    )
    return found


def _agree(index: AnyArray, axes: AnyArray, signs: AnyArray, shape: tuple[int, ...]) -> bool:
    """Whether an index map is the permutation `axes` with flips, to a small part of a voxel at every corner."""
    ends = np.array(np.meshgrid(*[(0, shape[axis] - 1) for axis in axes])).reshape(3, -1)
    mapped = index[:3, :3] @ ends + index[:3, 3:]
    expected = np.empty_like(mapped)
    for own, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        expected[axis] = ends[own] if sign > 0 else shape[axis] - 1 - ends[own]
    return bool(np.abs(mapped - expected).max() < _TOLERANCE_VOXELS)


def _grid(labels: LabelMap) -> str:
    spacing, first = _words(labels.spacing), _words(labels.affine[:3, 3])
    return f"shape {labels.array.shape}, spacing {spacing} mm and its first voxel at {first} mm"


def _words(values: object) -> str:
    return " × ".join(f"{value:.4g}" for value in np.asarray(values, dtype=float))
