"""Types shared by all packages. Axis order is always array order (i, j, k); lengths are in mm."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore.errors import ExitCode

__all__ = [
    "Affine",
    "BoolArray",
    "ExitCode",
    "Float32Array",
    "Float64Array",
    "Int64Array",
    "IntTriple",
    "PathLike",
    "Rule",
    "Triple",
    "WindowDtype",
]

PathLike: TypeAlias = str | os.PathLike[str]
Triple: TypeAlias = tuple[float, float, float]
IntTriple: TypeAlias = tuple[int, int, int]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Int64Array: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Affine: TypeAlias = npt.NDArray[np.float64]
AnyArray: TypeAlias = npt.NDArray[Any]
WindowDtype: TypeAlias = Literal["float32", "float16", "bfloat16", "int16"]


class Rule(StrEnum):
    """How one size is computed from all lesions; see :mod:`patchcore.planning`."""

    MEAN_VOLUME = "mean-volume"
    MEDIAN = "median"
    GEOMETRIC_MEAN = "geometric-mean"
    EXTENT = "extent"
    MEAN_VOLUME_MM = "mean-volume-mm"
    LEARNED = "learned"

    @property
    def is_per_axis(self) -> bool:
        """Whether the rule gives an edge for each axis; the others give a cube of voxels."""
        return self in (Rule.EXTENT, Rule.MEAN_VOLUME_MM, Rule.LEARNED)
