"""Axis ranges, ticks and tick labels with round numbers."""

from __future__ import annotations

import math

__all__ = ["axis_range", "tick_labels", "ticks"]


_LEAST_SPAN = 1e-300
# Floats have 16 digits: a step has to be larger than the last few.
_LEAST_SHARE = 1e-12


def _round_step(span: float, intervals: int) -> float:
    raw = span / max(1, intervals)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    for factor in (1.0, 2.0, 5.0):
        if raw <= factor * magnitude * (1 + 1e-9):
            return factor * magnitude
    return 10.0 * magnitude


def axis_range(low: float, high: float, intervals: int) -> tuple[float, float, float]:
    """Extend [low, high] to multiples of a round step.

    Args:
        low: Smallest value; finite.
        high: Largest value; finite. Equal to `low` for constant data.
        intervals: Approximate number of steps that fit on the axis.

    Returns:
        Bottom, top and step, with bottom < top.

    Example:
        >>> axis_range(0.13, 0.87, 4)
        (0.0, 1.0, 0.2)
        >>> axis_range(2.0, 2.0, 4)
        (1.0, 3.0, 0.5)
    """
    # Values too close together to be divided as floats count as constant data.
    least = max(_LEAST_SPAN, _LEAST_SHARE * max(abs(low), abs(high)))
    if not high - low > least or not math.isfinite(high - low):
        pad = abs(low) / 2 if abs(low) > _LEAST_SPAN else 0.5
        low, high = low - pad, low + pad
    step = _round_step(high - low, intervals)
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if not top > bottom:
        top = bottom + step
    return bottom, top, step


def ticks(bottom: float, top: float, step: float) -> list[float]:
    """Return the multiples of `step` within [bottom, top], at most 100.

    Example:
        >>> ticks(0.0, 1.0, 0.5)
        [0.0, 0.5, 1.0]
    """
    first = math.ceil(bottom / step - 1e-9)
    last = math.floor(top / step + 1e-9)
    return [k * step for k in range(first, min(last, first + 99) + 1)]


def tick_labels(values: list[float], step: float) -> list[str]:
    """Return labels with only as many decimals as `step` needs.

    Example:
        >>> tick_labels([0.0, 0.25], 0.25), tick_labels([0.0, 20000.0], 20000.0)
        (['0.00', '0.25'], ['0', '2e+04'])
    """
    if any(abs(value) >= 10_000 for value in values) or step < 1e-4:
        return [f"{value:.3g}" for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step * 10**decimals, 6) % 1:
        decimals += 1
    return [f"{value:.{decimals}f}" for value in values]
