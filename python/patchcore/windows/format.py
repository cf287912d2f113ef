"""How windows look: the value range that is scaled to [0, 1], the type of their voxels, and the value outside."""

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
    """How windows look.

    Attributes:
        hu_range: HU are clipped to this range and scaled to [0, 1]; voxels outside the volume are 0. None: HU as they
            are.
        dtype: ``float32``, ``float16``, ``bfloat16`` (its bits, as uint16) or ``int16`` (only HU as they are).
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
            raise WindowError(f"dtype {self.dtype!r}", expected=list(_DTYPES), remedy="use float32")
        object.__setattr__(self, "hu_range", checked_range(self.hu_range))
        if self.dtype == "int16" and self.hu_range is not None:
            raise WindowError(
                "int16 cannot hold values that are scaled to [0, 1]",
                remedy="leave out hu_range: int16 windows hold HU as they are",
            )

    @property
    def stored(self) -> np.dtype[Any]:
        """NumPy dtype of the windows in memory."""
        return np.dtype(_DTYPES[self.dtype])


def checked_range(hu_range: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return a range of HU as two floats.

    Raises:
        WindowError: It is not two finite numbers, the lower first.
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
    """Return windows as the core takes them: float16 as its bits, which the core has no type for."""
    return array.view(np.uint16) if array.dtype == np.float16 else array
