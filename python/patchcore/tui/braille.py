"""Draws curves as braille dots in a terminal.

The points of a curve are reduced to a few numbers per column, then drawn in O(width × height). A terminal cell holds
2 × 4 braille dots. Rows count from the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from patchcore.types import BoolArray, Float64Array

__all__ = ["Trace", "decimate", "dots", "encode"]

# Bit of each dot in a braille cell, indexed by (row, column).
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)


@dataclass(frozen=True)
class Trace:
    """A curve reduced to columns. All arrays are float64 of shape (columns,), NaN in columns without a curve.

    Attributes:
        low: Lower end of the curve in each column, including the lines to the neighbouring points.
        high: Upper end of the curve in each column.
        mean_low: Like `low`, for a curve through the column means. Equal to `low` if the curve is not dense.
        mean_high: Like `high`, for a curve through the column means.
        points: Mean of the points in each column; NaN in columns without a point.
        dense: Whether there are more points than the columns can show. `low` and `high` are then drawn as a band.
    """

    low: Float64Array
    high: Float64Array
    mean_low: Float64Array
    mean_high: Float64Array
    points: Float64Array
    dense: bool


def decimate(steps: Float64Array, values: Float64Array, *, start: float, stop: float, columns: int) -> Trace:
    """Reduce a curve to the smallest, largest and mean value per column.

    Straight lines connect the points. A non-finite value breaks the line.

    Args:
        steps: float64, shape (N,), positions along x, in any order.
        values: float64, shape (N,).
        start: Step at the middle of the first column.
        stop: Step at the middle of the last column; greater than `start`.
        columns: Number of columns, at least 1.

    Returns:
        The reduced curve.

    Example:
        >>> trace = decimate(np.arange(4.0), np.array([1.0, 3.0, np.nan, 2.0]), start=0, stop=3, columns=4)
        >>> trace.points.tolist()
        [1.0, 3.0, nan, 2.0]
    """
    if len(steps) > 1 and (np.diff(steps) < 0).any():
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
    inside = (steps >= start) & (steps <= stop)
    steps, values = steps[inside], values[inside]
    finite = np.isfinite(values)
    good = values[finite]
    empty = np.full(columns, np.nan)
    if not len(good):
        return Trace(empty, empty, empty, empty, empty, dense=False)
    breaks = np.cumsum(~finite)[finite]
    column = np.rint((steps[finite] - start) / (stop - start) * (columns - 1)).astype(np.int64)
    firsts = np.concatenate(([0], np.flatnonzero(np.diff(column)) + 1))
    lasts = np.concatenate((firsts[1:], [len(good)])) - 1
    used = column[firsts]
    joined = breaks[lasts[:-1]] == breaks[firsts[1:]]
    mean = np.add.reduceat(good, firsts) / (lasts - firsts + 1)
    low, high = _join(
        used,
        joined,
        enter=good[firsts],
        leave=good[lasts],
        low=np.minimum.reduceat(good, firsts),
        high=np.maximum.reduceat(good, firsts),
        columns=columns,
    )
    dense = len(good) > 2 * len(used)
    mean_low, mean_high = (
        _join(used, joined, enter=mean, leave=mean, low=mean, high=mean, columns=columns) if dense else (low, high)
    )
    points = empty.copy()
    points[used] = mean
    return Trace(low, high, mean_low, mean_high, points, dense)


def _join(
    used: np.ndarray[tuple[int], np.dtype[np.int64]],
    joined: BoolArray,
    *,
    enter: Float64Array,
    leave: Float64Array,
    low: Float64Array,
    high: Float64Array,
    columns: int,
) -> tuple[Float64Array, Float64Array]:
    """Extend the range of each column to where the lines to the neighbouring points cross its left and right side."""
    crossing = np.full(columns + 1, np.nan)  # value of the curve at the left side of column k
    if len(used) > 1:
        sides = np.arange(used[0] + 1, used[-1] + 1)
        left = np.searchsorted(used, sides, side="left") - 1
        along = (sides - 0.5 - used[left]) / (used[left + 1] - used[left])
        value = leave[left] + (enter[left + 1] - leave[left]) * along
        crossing[sides] = np.where(joined[left], value, np.nan)
    lows, highs = np.full(columns, np.nan), np.full(columns, np.nan)
    lows[used], highs[used] = low, high
    sides_low = np.fmin(crossing[:-1], crossing[1:])
    sides_high = np.fmax(crossing[:-1], crossing[1:])
    # Columns inside a broken line stay NaN.
    return np.fmin(lows, sides_low), np.fmax(highs, sides_high)


def dots(low: Float64Array, high: Float64Array, *, bottom: float, top: float, rows: int) -> BoolArray:
    """Draw one vertical range of dots per column.

    Args:
        low: Lower end of the ranges, float64, shape (columns,).
        high: Upper end of the ranges, float64, shape (columns,).
        bottom: Value of the lowest row.
        top: Value of the highest row.
        rows: Number of dot rows.

    Returns:
        bool, shape (rows, columns), True for a dot. Values beyond the axis are drawn at its end.
    """
    scale = (rows - 1) / (top - bottom)
    first = np.clip((top - high) * scale, 0, rows - 1)
    last = np.clip((top - low) * scale, 0, rows - 1)
    upper, lower = np.ceil(first), np.floor(last)
    thin = upper > lower  # the range contains no dot centre: use the nearest dot
    middle = np.rint((first + last) / 2)
    upper, lower = np.where(thin, middle, upper), np.where(thin, middle, lower)
    row = np.arange(rows)[:, None]
    return (row >= upper) & (row <= lower)


def encode(canvas: BoolArray) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Pack dots into braille codes.

    Args:
        canvas: bool, shape (4 × lines, 2 × cells).

    Returns:
        uint8, shape (lines, cells): offset to add to the character code U+2800.

    Example:
        >>> encode(np.ones((4, 2), dtype=bool)).tolist()
        [[255]]
    """
    lines, cells = canvas.shape[0] // 4, canvas.shape[1] // 2
    blocks = canvas.reshape(lines, 4, cells, 2)
    codes: np.ndarray[tuple[int, int], np.dtype[np.uint8]] = np.zeros((lines, cells), dtype=np.uint8)
    for row, column in np.ndindex(_BITS.shape):
        codes |= blocks[:, row, :, column] * _BITS[row, column]
    return codes
