"""Short texts for numbers in the dashboard."""

from __future__ import annotations

import math

__all__ = ["clock", "count", "dsc", "number", "share", "triple"]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` decimals; a tiny or huge number with `digits` significant digits; a dash for NaN.

    Example:
        >>> number(0.8123), number(2.5e-5), number(None), number(float("nan"))
        ('0.812', '2.5e-05', '–', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value and (abs(value) < 10 ** (1 - digits) or abs(value) >= 1e6):
        return f"{value:.{digits}g}"
    return f"{value:.{digits}f}"


def dsc(value: float | None) -> str:
    """Return a DSC with three decimals, or a dash for None and NaN.

    Example:
        >>> dsc(0.8123), dsc(0.0004), dsc(float("nan"))
        ('0.812', '0.000', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def count(value: float) -> str:
    """Return a count of steps or tokens, with a unit k, M or G from 10,000 on.

    Example:
        >>> count(1200), count(12_500), count(3_000_000)
        ('1200', '12.5k', '3M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and abs(value) >= 10_000:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def share(value: float) -> str:
    """Return a share in [0, 1] as a percentage.

    Example:
        >>> share(0.256)
        '26 %'
    """
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"


def clock(seconds: float | None) -> str:
    """Return a duration as ``h:mm:ss`` or ``m:ss``, or a dash for None.

    Example:
        >>> clock(75), clock(3 * 3600 + 61), clock(None)
        ('1:15', '3:01:01', '–')
    """
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def triple(values: tuple[float, float, float], digits: int = 4) -> str:
    """Return the values of three axes as ``a × b × c``, or as one number if they are equal.

    Example:
        >>> triple((16, 16, 16)), triple((1, 1, 2.5))
        ('16', '1 × 1 × 2.5')
    """
    parts = [f"{value:.{digits}g}" for value in values]
    return parts[0] if len(set(parts)) == 1 else " × ".join(parts)
