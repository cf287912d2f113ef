"""Checks and converts arguments of the window functions."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import DataError, WindowError
from patchcore.types import Int64Array, IntTriple, Triple

__all__ = [
    "corner_rows",
    "counter",
    "float_triple",
    "needed_part",
    "positions_column",
    "size_triple",
    "thread_count",
]


def size_triple(name: str, value: Sequence[int]) -> IntTriple:
    """Return `value` as three positive integers, in array-axis order.

    Raises:
        WindowError: `value` is not three positive integers.
    """
    try:
        i, j, k = (operator.index(edge) for edge in value)
    except (TypeError, ValueError):
        raise WindowError(f"{name} is {value!r}", found=value, expected="three integers (i, j, k)") from None
    if min(i, j, k) < 1:
        raise WindowError(f"{name} is {(i, j, k)}", found=(i, j, k), expected="at least 1 voxel along each axis")
    return i, j, k


def float_triple(name: str, value: float | Sequence[float]) -> Triple:
    """Return `value` as three floats. One number is used for all axes.

    Raises:
        WindowError: `value` is not one number or three numbers.
    """
    try:
        i, j, k = np.broadcast_to(np.asarray(value, dtype=np.float64), (3,)).tolist()
    except (TypeError, ValueError):
        raise WindowError(
            f"{name} is {value!r}", found=value, expected="one number, or three numbers (i, j, k)"
        ) from None
    return i, j, k


def corner_rows(corners: npt.ArrayLike) -> Int64Array:
    """Return corners as a contiguous int64 array (windows, 3). A single corner (3,) becomes one row.

    Raises:
        WindowError: The corners are not integers, or have another shape.
    """
    rows: npt.NDArray[Any] = np.asarray(corners)
    if rows.size == 0 and rows.ndim <= 2:
        return np.empty((0, 3), dtype=np.int64)
    if rows.dtype.kind not in "iu" or rows.ndim not in (1, 2) or rows.shape[-1] != 3:
        raise WindowError(
            f"corners are {rows.dtype} of shape {rows.shape}",
            found=(str(rows.dtype), rows.shape),
            expected="integers of shape (windows, 3) or (3,)",
            remedy="pass the first voxel (i, j, k) of each window",
        )
    return np.ascontiguousarray(rows.reshape(-1, 3), dtype=np.int64)


def needed_part(corner: Int64Array, size: IntTriple, shape: Sequence[int]) -> tuple[IntTriple, IntTriple, Int64Array]:
    """Return the part of a volume that a window needs, and the corner of the window within that part.

    Args:
        corner: First voxel of the window, integers (3,). It may lie anywhere, even far outside the volume.
        size: Size of the window, voxels.
        shape: Shape of the volume.

    Returns:
        First voxel of the part, the voxel after its last voxel, and the corner relative to that first voxel. If the
        window lies outside a non-empty volume, the part is the nearest voxel.

    Example:
        >>> needed_part(np.array([-2, 3, 9]), (4, 4, 4), (8, 8, 8))
        ((0, 3, 7), (2, 7, 8), array([-2,  0,  2]))
    """
    # Python integers, so that a corner near the limits of int64 does not overflow.
    axes = list(zip((int(at) for at in corner), size, shape, strict=True))
    a, b, c = (max(0, min(at, length - 1)) for at, _, length in axes)
    i, j, k = (min(max(at + edge, a + 1), length) for (at, edge, length), a in zip(axes, (a, b, c), strict=True))
    return (a, b, c), (i, j, k), np.asarray(corner, dtype=np.int64) - (a, b, c)


def counter(name: str, value: int, bits: int) -> int:
    """Return `value` as an integer from 0 to below 2**bits.

    Raises:
        DataError: `value` is not such an integer.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << bits:
        raise DataError(f"{name} is {value!r}", found=value, expected=f"an integer from 0 to below 2**{bits}")
    return number


def positions_column(positions: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Return positions in the global batch as uint32 (positions,). A single number becomes one entry.

    Raises:
        DataError: The positions are not integers from 0 to below 2**32 on one axis.
    """
    column: npt.NDArray[Any] = np.atleast_1d(np.asarray(positions))
    if column.size == 0:
        return np.empty(0, dtype=np.uint32)
    if column.ndim != 1 or column.dtype.kind not in "iu" or column.min() < 0 or column.max() >= 1 << 32:
        raise DataError(
            f"positions are {column.dtype} of shape {column.shape}",
            found=positions,
            expected="integers from 0 to below 2**32 on one axis",
        )
    return np.ascontiguousarray(column, dtype=np.uint32)


def thread_count(threads: int | None) -> int | None:
    """Return `threads` after a check; None means all cores.

    Raises:
        DataError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise DataError(f"threads is {threads}", found=threads, expected="at least 1, or None for all cores")
    return threads
