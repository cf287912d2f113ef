"""Lesion-size bins by equivalent diameter: < 5, 5–10, 10–20 and ≥ 20 mm."""

from __future__ import annotations

import math

import numpy as np

from patchcore.types import Float64Array

__all__ = ["SIZE_BIN_EDGES_MM", "SIZE_BIN_NAMES", "count_by_size", "size_bin"]

SIZE_BIN_EDGES_MM = (5.0, 10.0, 20.0)
"""Lower edge of each bin except the first, equivalent diameter in mm."""

SIZE_BIN_NAMES = ("< 5 mm", "5–10 mm", "10–20 mm", "≥ 20 mm")
"""Name of each bin, for tables and figures."""


def size_bin(volume_mm3: float) -> int:
    """Return the size bin of a lesion, an index into :data:`SIZE_BIN_NAMES`.

    Example:
        >>> [size_bin(v) for v in (60.0, 70.0, 4188.0, 4190.0)]
        [0, 1, 2, 3]
    """
    diameter_mm = (6 * volume_mm3 / math.pi) ** (1 / 3)
    return sum(diameter_mm >= edge for edge in SIZE_BIN_EDGES_MM)


def count_by_size(diameters_mm: Float64Array) -> tuple[int, int, int, int]:
    """Count lesions per size bin.

    Args:
        diameters_mm: Equivalent diameters, shape (lesions,), mm.

    Example:
        >>> count_by_size(np.array([4.9, 5.0, 19.0, 20.0]))
        (1, 1, 1, 1)
    """
    counts = np.bincount(np.digitize(diameters_mm, SIZE_BIN_EDGES_MM), minlength=len(SIZE_BIN_NAMES))
    first, second, third, fourth = counts.tolist()
    return first, second, third, fourth
