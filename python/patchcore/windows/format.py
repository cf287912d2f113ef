"""Format of windows: the HU range that is scaled to [0, 1], the dtype, and the value outside the volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from patchcore.errors import WindowError
from patchcore.types import AnyArray, WindowDtype

__all__ = ["WindowFormat", "as_bits", "checked_range"]

_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int16": np.int16}


@dataclass(frozen=True)
class WindowFormat:
    """Format of windows.

    Attributes:
        hu_range: HU are clipped to this range and scaled to [0, 1]; voxels outside the volume are 0. None: HU are not
            scaled.
        dtype: ``float32``, ``float16``, ``bfloat16`` (its bits, as uint16) or ``int16`` (only if `hu_range` is None).
        padding: Value outside the volume, HU, if `hu_range` is None.

    Raises:
        WindowError: The dtype does not exist or cannot hold the values, or the range is not two finite numbers.

    Example:
        >>> WindowFormat((-100, 300), "bfloat16").stored
        dtype('uint16')
    """

    hu_range: tuple[float, float] | None = None
    dtype: WindowDtype = "float32"
    padding: float = 0.0

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise WindowError(
                f"dtype is {self.dtype!r}", expected=list(_DTYPES), remedy=f"use one of {', '.join(_DTYPES)}"
            )
        object.__setattr__(self, "hu_range", checked_range(self.hu_range))
        if self.dtype == "int16" and self.hu_range is not None:
            raise WindowError(
                "int16 cannot hold values that are scaled to [0, 1]",
                remedy="do not pass hu_range: int16 windows hold HU that are not scaled",
            )

    @property
    def stored(self) -> np.dtype[Any]:
        """NumPy dtype of the windows in memory."""
        return np.dtype(_DTYPES[self.dtype])


def checked_range(hu_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return an HU range as two floats.

    Raises:
        WindowError: The range is not two finite numbers, the lower first.
    """
    if hu_range is None:
        return None
    try:
        low, high = (float(bound) for bound in hu_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise WindowError(
            f"hu_range is {hu_range!r}",
            found=hu_range,
            expected="two finite numbers in HU, the lower first",
            remedy="give two finite numbers in HU, the lower first",
        )
    return low, high


def as_bits(array: AnyArray) -> AnyArray:
    """Return windows in a dtype that the core knows: float16 as its bits, because the core has no float16."""
    return array.view(np.uint16) if array.dtype == np.float16 else array
