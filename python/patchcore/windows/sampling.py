"""Draws the windows to train on, as a pure function of seed, step and position in the global batch.

A generator without state (Philox4x32-10; Salmon et al., SC 2011) gives each (seed, step, position, purpose) its own
numbers. Therefore any number of workers or ranks draws the same windows (rank r of W takes positions r, r + W, …). A
resume at any step draws the same windows too, without repeating earlier draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore import _core
from patchcore.arrays import counter, positions_column, size_triple
from patchcore.errors import DataError, WindowError
from patchcore.types import Float64Array, Int64Array, IntTriple

__all__ = [
    "DrawKind",
    "HardPoints",
    "LesionSpansLike",
    "Purpose",
    "SamplerCase",
    "WindowDraws",
    "WindowSampler",
    "uniforms",
]

STEP_BITS = 56

_Int32Array: TypeAlias = npt.NDArray[np.int32]
# Lesion, origin and length of each span; their axis; number of lesions.
_SpanColumns: TypeAlias = tuple[_Int32Array, _Int32Array, _Int32Array, int, int]
# Shape; lesions; organ.
_CaseColumns: TypeAlias = tuple[IntTriple, _SpanColumns, _SpanColumns | None, bool]


class Purpose(IntEnum):
    """Purpose of random numbers; two purposes never share numbers. Changing a value changes the draws of every seed."""

    WINDOW = 0
    AUGMENT = 1


class DrawKind(IntEnum):
    """Reason why a window was drawn."""

    ANYWHERE = 0
    LESION = 1
    ORGAN = 2
    HARD = 3
    LESION_FREE = 4


class LesionSpansLike(Protocol):
    """Lesions as spans, one row per span, as returned by :func:`patchcore.lesions.measure.lesion_spans`."""

    @property
    def lesion(self) -> npt.NDArray[Any]:
        """Integers (spans,): each span's lesion, from 0."""

    @property
    def origin(self) -> npt.NDArray[Any]:
        """Integers (spans, 3): each span's first voxel, array order."""

    @property
    def length(self) -> npt.NDArray[Any]:
        """Integers (spans,): number of voxels of each span."""

    @property
    def axis(self) -> int:
        """The array axis along which the spans lie."""

    @property
    def lesion_count(self) -> int:
        """Number of lesions; each lesion has at least one span."""


@dataclass(frozen=True, eq=False)
class SamplerCase:
    """The data of a case that the sampler needs.

    Attributes:
        shape: Number of voxels along each axis, array order.
        spans: The lesions of the case, in the axis order of `shape`.
        organ: The voxels of an organ as spans, all with lesion number 0; None if the case does not show the organ.
        other_lesions: Whether the case has lesions that are not in `spans`: then it is not a case without lesions.
    """

    shape: IntTriple
    spans: LesionSpansLike
    organ: LesionSpansLike | None = None
    other_lesions: bool = False


@dataclass(frozen=True, eq=False)
class HardPoints:
    """Voxels to draw more often, for example false positives of a network.

    Attributes:
        case: Integers (points,), index into the sampler's cases.
        voxel: Integers (points, 3), the voxel index on the case's grid.
        weight: Numbers (points,), at least 0: how often a point is drawn relative to the others.
    """

    case: npt.NDArray[Any]
    voxel: npt.NDArray[Any]
    weight: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class WindowDraws:
    """Drawn windows, one row per window.

    Attributes:
        case: int64 (n,), index into the sampler's cases.
        corner: int64 (n, 3), the window's first voxel; negative if the case is smaller than the window.
        kind: uint8 (n,), the reason why the window was drawn: a :class:`DrawKind`.
        lesion: int64 (n,), the lesion that the window was drawn for; −1 if it was not drawn for a lesion.
        voxel: int64 (n, 3), the voxel that the window was drawn to contain; −1 if there is none.
    """

    case: Int64Array
    corner: Int64Array
    kind: npt.NDArray[np.uint8]
    lesion: Int64Array
    voxel: Int64Array

    def __len__(self) -> int:
        return len(self.case)


class WindowSampler:
    """Draws windows so that lesions of every size, and cases with any number of lesions, are represented.

    There are five ways to draw a window:

    - For a lesion (`lesion_share` of the windows): a case with probability ∝ lesions**alpha; uniformly one of its
      lesions and one voxel of this lesion; uniformly one window that contains the voxel and lies inside the case.
    - For the organ (`organ_share`): in the same way for a voxel of the organ, in a case that shows the organ.
    - For a hard point (`hard_share`): in the same way for one of the hard points, drawn by weight.
    - Without lesions (`lesion_free_share`): anywhere in a case without lesions.
    - All other windows: uniformly a case, then uniformly a corner. If no case has a lesion, the share for lesions is
      drawn like this too.

    A window larger than its case contains the whole case. Drawing reads no voxels; it only searches the spans.

    Args:
        cases: The cases to draw from.
        window_size: Number of voxels along each axis.
        seed: Random seed, from 0 to below 2**64.
        lesion_share: Share of windows drawn for a lesion, from 0 to 1; the sum of all shares is at most 1.
        alpha: Exponent of the case probability, at least 0: with 0, every case with lesions has the same probability;
            with 1, every lesion has the same probability.
        organ_share: Share of windows drawn for a voxel of the organ.
        hard_share: Share of windows drawn for a hard point.
        lesion_free_share: Share of windows drawn in cases without lesions.
        hard_points: The hard points.

    Raises:
        DataError: There are no cases, a span leaves its case, a lesion has no span, a number is out of range, or no
            case has what a share is drawn for.
        WindowError: The window size is not positive.

    Example:
        >>> from types import SimpleNamespace
        >>> spans = SimpleNamespace(
        ...     lesion=np.array([0]), origin=np.array([[10, 20, 30]]), length=np.array([5]), axis=2,
        ...     lesion_count=1,
        ... )
        >>> sampler = WindowSampler([SamplerCase((64, 64, 64), spans)], (16, 16, 16), lesion_share=1.0)
        >>> draws = sampler.draw(step=0, positions=range(4))
        >>> bool(((draws.corner <= draws.voxel) & (draws.voxel < draws.corner + 16)).all())
        True
    """

    def __init__(
        self,
        cases: Sequence[SamplerCase],
        window_size: Sequence[int],
        *,
        seed: int = 0,
        lesion_share: float = 0.5,
        alpha: float = 0.5,
        organ_share: float = 0.0,
        hard_share: float = 0.0,
        lesion_free_share: float = 0.0,
        hard_points: HardPoints | None = None,
    ) -> None:
        self.window_size = size_triple("window_size", window_size)
        self.seed = counter("seed", seed, 64)
        self.lesion_share = float(lesion_share)
        self.alpha = float(alpha)
        hard_case, hard_voxel, hard_weight = _hard_columns(hard_points)
        self._core = _core.WindowSampler(
            [_columns(index, case) for index, case in enumerate(cases)],
            self.window_size,
            seed=self.seed,
            shares=(self.lesion_share, float(organ_share), float(hard_share), float(lesion_free_share)),
            alpha=self.alpha,
            hard_case=hard_case,
            hard_voxel=hard_voxel,
            hard_weight=hard_weight,
        )

    def draw(self, step: int, positions: npt.ArrayLike) -> WindowDraws:
        """Draw the windows at some positions of a step's global batch.

        Args:
            step: From 0 to below 2**56.
            positions: Integers (n,) from 0 to below 2**32, in any order; each row depends only on its own position.

        Raises:
            DataError: `step` or a position is out of range.
        """
        case, corner, kind, lesion, voxel = self._core.draw(
            counter("step", step, STEP_BITS), positions_column(positions)
        )
        return WindowDraws(case=case, corner=corner, kind=kind, lesion=lesion, voxel=voxel)

    def lesions_in(self, draws: WindowDraws) -> set[tuple[int, int]]:
        """Return the lesions that have a voxel in one of the windows, as pairs (case, lesion)."""
        cases: list[int] = draws.case.tolist()
        corners = np.ascontiguousarray(draws.corner, dtype=np.int64)
        return {(cases[window], lesion) for window, lesion in self._core.lesions_in(cases, corners)}


def uniforms(
    seed: int, step: int, positions: npt.ArrayLike, purpose: Purpose = Purpose.AUGMENT, count: int = 1
) -> Float64Array:
    """Draw uniform numbers from [0, 1), for augmentation.

    Args:
        seed: From 0 to below 2**64.
        step: From 0 to below 2**56.
        positions: Integers (n,) from 0 to below 2**32: positions in the global batch.
        purpose: Purpose of the numbers.
        count: Number of values per position. A larger count does not change the first values.

    Returns:
        float64 (n, count), multiples of 2**−53.

    Raises:
        DataError: A number is out of range.

    Example:
        >>> uniforms(0, 0, [7, 8], Purpose.AUGMENT, 3).shape
        (2, 3)
    """
    if count < 0:
        raise DataError(f"count is {count}", found=count, expected="0 or more")
    return _core.uniforms(
        counter("seed", seed, 64),
        counter("step", step, STEP_BITS),
        positions_column(positions),
        counter("purpose", purpose, 8),
        count,
    )


def _columns(index: int, case: SamplerCase) -> _CaseColumns:
    """Return the columns of a case in the form that the core needs."""
    try:
        shape = size_triple("shape", case.shape)
    except WindowError as error:
        raise DataError(f"case {index}: {error.message}", found=error.found, expected=error.expected) from None
    organ = None if case.organ is None or not len(case.organ.length) else _span_columns(index, case.organ)
    return shape, _span_columns(index, case.spans), organ, bool(case.other_lesions)


def _span_columns(index: int, spans: LesionSpansLike) -> _SpanColumns:
    """Return the columns of spans, sorted by lesion."""
    lesion, origin, length = (
        _int32(f"case {index}: {name}", column)
        for name, column in (("lesion", spans.lesion), ("origin", spans.origin), ("length", spans.length))
    )
    if lesion.ndim != 1 or length.shape != lesion.shape or origin.shape != (len(lesion), 3):
        raise DataError(
            f"case {index}: spans of shapes {lesion.shape}, {origin.shape} and {length.shape}",
            expected="lesion (spans,), origin (spans, 3) and length (spans,)",
        )
    if (np.diff(lesion) < 0).any():
        order = np.argsort(lesion, kind="stable")
        lesion, origin, length = lesion[order], origin[order], length[order]
    return lesion, origin, length, int(spans.axis), int(spans.lesion_count)


def _hard_columns(points: HardPoints | None) -> tuple[list[int], Int64Array, Float64Array]:
    if points is None:
        return [], np.empty((0, 3), np.int64), np.empty(0, np.float64)
    case, voxel, weight = np.asarray(points.case), np.asarray(points.voxel), np.asarray(points.weight)
    fits = case.ndim == 1 and voxel.shape == (len(case), 3) and weight.shape == case.shape
    integers = case.dtype.kind in "iu" and voxel.dtype.kind in "iu" and bool((case >= 0).all())
    if len(case) and not (fits and integers):
        raise DataError(
            f"hard points of shapes {case.shape}, {voxel.shape} and {weight.shape}",
            expected="integers (points,), integers (points, 3) and numbers (points,)",
        )
    rows = np.ascontiguousarray(voxel.reshape(-1, 3), dtype=np.int64)
    return case.tolist(), rows, np.ascontiguousarray(weight, dtype=np.float64)


def _int32(name: str, column: npt.NDArray[Any]) -> _Int32Array:
    values: npt.NDArray[Any] = np.asarray(column)
    limits = np.iinfo(np.int32)
    if values.size and (values.dtype.kind not in "iu" or values.min() < limits.min or values.max() > limits.max):
        raise DataError(f"{name} is {values.dtype}", found=str(values.dtype), expected="integers that fit int32")
    return np.ascontiguousarray(values, dtype=np.int32)
