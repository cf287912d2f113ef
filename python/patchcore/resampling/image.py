"""Resamples volumes to another spacing, in Rust: separable, in parallel, with little memory beyond the result.

The old and the new grid are edge-aligned: along each axis, the centre of new voxel j lies at index
(j + 0.5) · ratio − 0.5 of the old grid, with ratio = new spacing / old spacing. The new spacing is exact. At the far
edge, the two grids differ by at most half a voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.affines import rescaled_affine
from patchcore.arrays import float_triple, size_triple, thread_count
from patchcore.errors import DataError, UnsupportedDataError
from patchcore.types import Affine, IntTriple, Triple

__all__ = [
    "ANISOTROPY",
    "cubic_axes",
    "resample_class_indices",
    "resample_image",
    "resampled_affine",
    "resampled_shape",
]

ANISOTROPY = 3.0
"""An axis is interpolated linearly if its spacing is more than this many times the spacing of every other axis."""

_KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def resample_image(
    array: npt.NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    kernel: Literal["cubic", "linear"] = "cubic",
    antialias: bool = True,
    shape: Sequence[int] | None = None,
    nan: float = -1024.0,
    threads: int | None = None,
) -> npt.NDArray[np.int16]:
    """Resample a volume of intensities to another spacing.

    The cubic kernel is the B-spline through all voxels (prefiltered, mirrored at the edges). An axis with more than
    three times the spacing of the others is always interpolated linearly: a spline rings across thick slices.

    Args:
        array: HU, shape (i, j, k); an integer of 8, 16 or 32 bits, float32 or float64, with any strides and byte
            order. It must not change during the call.
        spacing: mm per voxel of `array`, array-axis order.
        new_spacing: mm per voxel of the result, array-axis order.
        kernel: ``"cubic"`` or ``"linear"``.
        antialias: Blur an axis that becomes coarser before it is sampled. The width of the Gaussian matches the
            difference in voxel size (Cardoso et al., Scale factor point spread function matching, MICCAI 2015).
        shape: Number of voxels of the result [default: :func:`resampled_shape`].
        nan: HU that replace NaN.
        threads: Number of threads [default: all cores].

    Returns:
        int16 of shape `shape`, in the memory order of `array`; rounded to nearest, clipped to int16.

    Raises:
        UnsupportedDataError: The array is not 3D, or its dtype is not supported.
        DataError: A spacing is not positive and finite, or the kernel is unknown.
        MemoryError: There is not enough memory for the result.

    Example:
        >>> fine = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
        >>> resample_image(fine, (1, 1, 1), (2, 2, 2), kernel="linear", antialias=False)[0, 0].tolist()
        [10, 12]
    """
    old, new = _spacings(spacing, new_spacing)
    if kernel not in ("cubic", "linear"):
        raise DataError(f"kernel is {kernel!r}", expected=("cubic", "linear"), remedy="use cubic or linear")
    source = np.asarray(array)
    if source.ndim != 3 or source.dtype.newbyteorder("=").name not in _KINDS:
        raise UnsupportedDataError(
            f"the array has shape {source.shape} and dtype {source.dtype}",
            expected=f"three axes (i, j, k), one of {', '.join(_KINDS)}",
            remedy="pass one 3D volume of real numbers",
        )
    wanted = resampled_shape(_shape(source), old, new) if shape is None else size_triple("shape", shape)
    flat, order = _core.resample_array(
        source,
        ratio=_ratio(old, new),
        shape=wanted,
        cubic=cubic_axes(kernel, old),
        antialias=antialias,
        nan=nan,
        threads=thread_count(threads),
    )
    return _in_array_order(flat, wanted, order)


def resample_class_indices(
    array: npt.NDArray[Any],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    shape: Sequence[int] | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.uint8]:
    """Resample class indices: interpolate each class's membership linearly, then choose the largest.

    The result contains no class that the input does not contain. On a coarser grid, this keeps the volume of lesions
    that are a few voxels wide; nearest neighbour drops or doubles such lesions by chance. If two memberships are equal,
    the higher index wins: ties are common at a ratio of 2, and otherwise the background would take a fifth to a half of
    a small lesion. A lesion smaller than half a new voxel still vanishes.

    Args:
        array: Shape (i, j, k), uint8 or bool: 0 is background.
        spacing: mm per voxel of `array`, array-axis order.
        new_spacing: mm per voxel of the result, array-axis order.
        shape: Number of voxels of the result [default: :func:`resampled_shape`].
        threads: Number of threads [default: all cores].

    Returns:
        uint8 of shape `shape`, in the memory order of `array`.

    Raises:
        UnsupportedDataError: The array is not 3D, or not uint8 or bool.
        DataError: A spacing is not positive and finite.

    Example:
        >>> mask = np.zeros((4, 4, 4), np.uint8)
        >>> mask[:2] = 1
        >>> resample_class_indices(mask, (1, 1, 1), (2, 2, 2))[:, 0, 0].tolist()
        [1, 0]
    """
    old, new = _spacings(spacing, new_spacing)
    source = np.asarray(array)
    if source.ndim != 3 or source.dtype not in (np.uint8, np.bool_):
        raise UnsupportedDataError(
            f"the class indices have shape {source.shape} and dtype {source.dtype}",
            expected="three axes (i, j, k), uint8",
            remedy="pass one 3D map of uint8 class indices",
        )
    wanted = resampled_shape(_shape(source), old, new) if shape is None else size_triple("shape", shape)
    classes = int(source.max()) if source.size else 0
    flat, order = _core.resample_class_indices(
        source, ratio=_ratio(old, new), shape=wanted, classes=classes, threads=thread_count(threads)
    )
    return _in_array_order(flat, wanted, order)


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]) -> IntTriple:
    """Return the number of voxels of a new spacing that cover a volume; half voxels round up, so that none is lost.

    Example:
        >>> resampled_shape((512, 512, 75), (0.75, 0.75, 5.0), (1.5, 1.5, 2.0))
        (256, 256, 188)
    """
    old, new = _spacings(spacing, new_spacing)
    i, j, k = (max(1, math.floor(n / r + 0.5)) for n, r in zip(shape, _ratio(old, new), strict=True))
    return i, j, k


def resampled_affine(affine: npt.ArrayLike, spacing: Sequence[float], new_spacing: Sequence[float]) -> Affine:
    """Return the affine of a resampled volume, with exactly the new spacing and the origin moved to align edges.

    Args:
        affine: Old voxel index → world mm, (4, 4).
        spacing: mm per voxel of the old grid, array-axis order.
        new_spacing: mm per voxel of the new grid, array-axis order.

    Example:
        >>> resampled_affine(np.diag([1.0, 1.0, 5.0, 1.0]), (1, 1, 5), (2, 2, 2.5))[:3, 3].tolist()
        [0.5, 0.5, -1.25]
    """
    return rescaled_affine(np.asarray(affine, dtype=np.float64), _ratio(*_spacings(spacing, new_spacing)))


def cubic_axes(kernel: Literal["cubic", "linear"], spacing: Triple) -> tuple[bool, bool, bool]:
    """Return for each axis whether the cubic kernel is used; never across thick slices, where a spline rings.

    Args:
        kernel: The requested kernel.
        spacing: mm per voxel of the volume before resampling.

    Example:
        >>> cubic_axes("cubic", (0.7, 0.7, 5.0))
        (True, True, False)
    """
    first, second, third = (
        kernel == "cubic" and spacing[axis] <= ANISOTROPY * max(spacing[axis - 1], spacing[axis - 2])
        for axis in range(3)
    )
    return first, second, third


def _ratio(old: Triple, new: Triple) -> Triple:
    return (new[0] / old[0], new[1] / old[1], new[2] / old[2])


def _spacings(old: Sequence[float], new: Sequence[float]) -> tuple[Triple, Triple]:
    spacings = float_triple("spacing", old), float_triple("new_spacing", new)
    for name, spacing in zip(("spacing", "new_spacing"), spacings, strict=True):
        if not all(math.isfinite(value) and value > 0 for value in spacing):
            raise DataError(f"{name} is {spacing}", found=spacing, remedy="give three positive lengths in mm")
    return spacings


def _shape(array: npt.NDArray[Any]) -> IntTriple:
    return (int(array.shape[0]), int(array.shape[1]), int(array.shape[2]))


def _in_array_order(flat: npt.NDArray[Any], shape: IntTriple, order: Sequence[int]) -> npt.NDArray[Any]:
    """Return a flat result as an array; `order` is the order of the axes in memory, slowest first."""
    walked = flat.reshape([shape[axis] for axis in order])
    return walked.transpose(np.argsort(order))
