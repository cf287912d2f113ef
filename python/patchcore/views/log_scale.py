"""Bins and ticks of a logarithmic axis, for all drawings of lesion volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchcore.types import Float64Array

__all__ = ["log_bins", "log_ticks", "plain_number"]


def log_bins(values: Float64Array, marks: Sequence[float] = ()) -> Float64Array:
    """Return bin edges that are evenly spaced on a log scale and reach slightly beyond all values and marks.

    The bin width follows the Freedman–Diaconis rule on the logarithms, limited to between a third of an octave and
    one octave. So a few values do not look like a distribution, and many values keep their detail.

    Args:
        values: Shape (N,), N ≥ 1, positive.
        marks: Other positions that must be visible, in the same unit.

    Returns:
        Ascending edges, shape (B + 1,), B ≥ 1.

    Example:
        >>> log_bins(np.array([3.0, 5.0])).round(2).tolist()
        [2.25, 3.37, 5.06, 7.59]
    """
    logs = np.log10(values)
    spread = float(np.subtract(*np.percentile(logs, [75, 25])))
    width = min(max(2 * spread / len(logs) ** (1 / 3), math.log10(2) / 3), math.log10(2))
    shown = [float(logs.min()), float(logs.max()), *(math.log10(mark) for mark in marks)]
    # Edges lie on a fixed grid, so that one more value does not shift all bars.
    first, last = math.floor((min(shown) - 0.12) / width), math.ceil((max(shown) + 0.12) / width)
    return np.asarray(10.0 ** (np.arange(first, last + 1) * width), dtype=np.float64)


def log_ticks(low: float, high: float) -> tuple[list[float], list[float]]:
    """Return labelled and unlabelled ticks between two positive numbers.

    Labels are at 1, 2, 5 if the range covers few decades, otherwise at whole decades. There is at least one label if
    `high` is at least 1.5 times `low`.

    Example:
        >>> log_ticks(0.8, 60)[0]
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
    """
    decades = math.log10(high / low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits: Sequence[float] = (1, 2, 5) if decades < 2.5 else (1,)
    if decades < 0.7:
        digits = [n / 2 for n in range(2, 20)] if decades < 0.35 else range(1, 10)
    step = 1 if decades < 9 else 2
    major = [float(f"{n}e{p}") for p in powers if p % step == 0 for n in digits if low <= float(f"{n}e{p}") <= high]
    minor = [float(f"{n}e{p}") for p in powers for n in range(1, 10)] if decades < 9 else []
    return major, [value for value in minor if low <= value <= high and value not in major]


def plain_number(value: float) -> str:
    """Return the label of a tick.

    Example:
        >>> plain_number(0.001), plain_number(20.0), plain_number(10000.0), plain_number(1e-6)
        ('0.001', '20', '10,000', '1e-06')
    """
    return f"{value:,.0f}" if 1 <= value < 1e7 and value == round(value) else f"{value:g}"
