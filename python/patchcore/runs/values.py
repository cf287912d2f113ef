"""Reads single values from JSON that another program may have written or damaged: a wrong type becomes None."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["as_count", "as_number", "as_text"]

# JSON has no limits: an integer may have thousands of digits, and 1e400 is read as infinity. Values beyond these limits
# overflow when they are converted, drawn or added.
_LARGEST_COUNT: Final = 2**53
_LARGEST_NUMBER: Final = 1e300


def as_count(value: Any) -> int | None:
    """Return a non-negative integer below 2⁵³, else None.

    Example:
        >>> as_count(3), as_count(True), as_count(-1), as_count("3"), as_count(10**400)
        (3, None, None, None, None)
    """
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_COUNT
    return value if usable else None


def as_number(value: Any) -> float | None:
    """Return a finite number of at most 1e300 in size as float, else None.

    Example:
        >>> as_number(2), as_number(float("inf")), as_number("2"), as_number(10**400), as_number(-1e308)
        (2.0, None, None, None, None)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER else None


def as_text(value: Any) -> str | None:
    """Return a text, else None."""
    return value if isinstance(value, str) else None
