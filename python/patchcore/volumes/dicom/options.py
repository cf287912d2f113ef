"""How segments are read: the choices that a user can make about readers, fractional segments and missing contours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from patchcore.errors import DataError

__all__ = ["READERS", "Readers", "SegmentOptions"]

Readers = Literal["majority", "union", "each"]
"""What counts of a lesion that several readers drew: voxels of at least half of them, of any, or each reader's own."""
READERS: Final[tuple[str, ...]] = get_args(Readers)


@dataclass(frozen=True)
class SegmentOptions:
    """Choices about the segments of a data set.

    Attributes:
        readers: What counts of a lesion that several readers drew.
        fractional_threshold: Voxels of a fractional SEG count if their fraction is at least this, in (0, 1].
        interpolate_contours: Whether slices between drawn ones are filled by interpolation.

    Raises:
        DataError: A value is not valid.
    """

    readers: Readers = "majority"
    fractional_threshold: float = 0.5
    interpolate_contours: bool = False

    def __post_init__(self) -> None:
        if self.readers not in READERS:
            raise DataError(f"unknown --readers {self.readers!r}", remedy=f"use {', '.join(READERS)}")
        if not (math.isfinite(self.fractional_threshold) and 0 < self.fractional_threshold <= 1):
            raise DataError(
                f"--fractional-threshold {self.fractional_threshold:g} is not a fraction",
                remedy="use a number above 0 and up to 1, for example 0.5",
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SegmentOptions:
        """Read options from JSON; those that are missing or None have their defaults.

        Raises:
            DataError: A value is not valid.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        try:
            return cls(**{name: given for name, given in value.items() if name in known and given is not None})
        except TypeError:
            raise DataError("the options for segments are not valid", remedy="run patchcore analyze again") from None

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON."""
        return dataclasses.asdict(self)
