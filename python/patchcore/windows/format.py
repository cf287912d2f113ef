"""How windows look: the value range that is scaled to [0, 1], the type of their voxels, and what lies outside."""

from __future__ import annotations

from typing import Any

import numpy as np

from patchcore.errors import WindowError
from patchcore.types import AnyArray

__all__ = ["as_bits", "window_dtype"]

_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int16": np.int16}


def window_dtype(dtype: str, hu_range: object) -> np.dtype[Any]:
    """Return the NumPy dtype that windows of a format have.

    Raises:
        WindowError: There is no such format, or it cannot hold what is wanted.

    Example:
        >>> window_dtype("bfloat16", (-100, 300))
        dtype('uint16')
    """
    found = _DTYPES.get(dtype)
    if found is None:
        raise WindowError(f"dtype {dtype!r}", expected=list(_DTYPES), remedy="use float32")
    if dtype == "int16" and hu_range is not None:
        raise WindowError(
            "int16 cannot hold what is scaled to [0, 1]", remedy="leave hu_range out: int16 windows are HU as they are"
        )
    return np.dtype(found)


def as_bits(array: AnyArray) -> AnyArray:
    """Return windows as the core takes them: of float16, which it has no name for, the bits."""
    return array.view(np.uint16) if array.dtype == np.float16 else array
