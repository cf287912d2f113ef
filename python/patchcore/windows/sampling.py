"""Which windows are trained on, as a pure function of seed, step and position in the global batch.

A generator without state (Philox4x32-10; Salmon et al., SC 2011) gives each (seed, step, position, purpose)
its own numbers. So any number of workers or ranks — rank r of W takes positions r, r + W, … — and a resume at
any step see the same windows, and nothing is replayed.
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
_CaseColumns: TypeAlias = tuple[IntTriple, _SpanColumns, _SpanColumns | None]


class Purpose(IntEnum):
    """What numbers are drawn for; purposes never share any. A seed means these values: they stay."""

    WINDOW = 0
    AUGMENT = 1


class DrawKind(IntEnum):
    """What a window was drawn for."""

    ANYWHERE = 0
    LESION = 1
    ORGAN = 2
    HARD = 3
    LESION_FREE = 4


class LesionSpansLike(Protocol):
    """Lesions as spans, one row a span: what :func:`patchcore.lesions.measure.lesion_spans` returns."""

    @property
    def lesion(self) -> npt.NDArray[Any]:
        """Integers (spans,): each span's lesion, from 0."""

    @property
    def origin(self) -> npt.NDArray[Any]:
        """Integers (spans, 3): each span's first voxel, array order."""

    @property
    def length(self) -> npt.NDArray[Any]:
        """Integers (spans,): voxels of each span."""

    @property
    def axis(self) -> int:
        """The array axis that spans lie along."""

    @property
    def lesion_count(self) -> int:
        """Number of lesions; each has a span."""


@dataclass(frozen=True, eq=False)
class SamplerCase:
    """A case as the sampler sees it.

    Attributes:
        shape: Voxels along each axis, array order.
        spans: Its lesions; their axis order is the shape's.
        organ: An organ's voxels, all of one number 0; None where the case does not show it.
    """

    shape: IntTriple
    spans: LesionSpansLike
    organ: LesionSpansLike | None = None


@dataclass(frozen=True, eq=False)
class HardPoints:
    """Places to look at more often, as where a network found lesions that are none.

    Attributes:
        case: Integers (points,), index into the sampler's cases.
        voxel: Integers (points, 3), the place on the case's grid.
        weight: Numbers (points,), from 0: how often relative to each other.
    """

    case: npt.NDArray[Any]
    voxel: npt.NDArray[Any]
    weight: npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class WindowDraws:
    """Drawn windows, one row each.

    Attributes:
        case: int64 (n,), index into the sampler's cases.
        corner: int64 (n, 3), the window's first voxel; negative where the case is smaller than the window.
        kind: uint8 (n,), what the window was drawn for: a :class:`DrawKind`.
        lesion: int64 (n,), the lesion that the window was drawn for; −1 where it was drawn for something else.
        voxel: int64 (n, 3), the voxel that the window was drawn to contain; −1 where for none.
    """

    case: Int64Array
    corner: Int64Array
    kind: npt.NDArray[np.uint8]
    lesion: Int64Array
    voxel: Int64Array

    def __len__(self) -> int:
        return len(self.case)


class WindowSampler:
    """Draws windows so that lesions of every size, and cases of every lesion count, get their share.

    `lesion_share` of the windows are drawn for a lesion: a case with probability ∝ lesions**alpha, one of its
    lesions, one of that lesion's voxels, all uniformly, then a window uniformly among those that contain the
    voxel and lie in the case. `organ_share` are drawn likewise for a voxel of the organ, in a
    case that shows it; `hard_share` for one of the hard points, by their weights; `lesion_free_share` anywhere in a
    case without lesions. The others are drawn uniformly: a case, then a corner. Where no case has a lesion, the
    lesions' share is, too. A window larger than its case holds all of it. Drawing reads no voxel: it searches spans.

    Args:
        cases: The cases to draw from.
        window_size: Voxels along each axis.
        seed: From 0 to below 2**64.
        lesion_share: Share of windows drawn for a lesion, from 0 to 1; all shares are at most 1 together.
        alpha: From 0 (every case with lesions alike) to 1 (every lesion alike) and beyond.
        organ_share: Share drawn for a voxel of the organ.
        hard_share: Share drawn for a hard point.
        lesion_free_share: Share drawn in cases without lesions.
        hard_points: Where those are.

    Raises:
        DataError: There are no cases, a span leaves its case, a lesion has no span, a number is out of range, or a
            share is for what no case has.
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
        """Draw the windows of some positions of a step's global batch.

        Args:
            step: From 0 to below 2**56.
            positions: Integers (n,) from 0 to below 2**32, in any order; each row depends on its own alone.

        Raises:
            DataError: `step` or a position is out of range.
        """
        case, corner, kind, lesion, voxel = self._core.draw(
            counter("step", step, STEP_BITS), positions_column(positions)
        )
        return WindowDraws(case=case, corner=corner, kind=kind, lesion=lesion, voxel=voxel)

    def lesions_in(self, draws: WindowDraws) -> set[tuple[int, int]]:
        """Return the lesions, as (case, lesion), that have a voxel in one of the windows."""
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
        purpose: What they are for.
        count: How many for each position. The first ones stay the same when more are asked for.

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
    """The columns of a case as the core takes them."""
    try:
        shape = size_triple("shape", case.shape)
    except WindowError as error:
        raise DataError(f"case {index}: {error.message}", found=error.found, expected=error.expected) from None
    organ = None if case.organ is None or not len(case.organ.length) else _span_columns(index, case.organ)
    return shape, _span_columns(index, case.spans), organ


def _span_columns(index: int, spans: LesionSpansLike) -> _SpanColumns:
    """The columns of spans, sorted by lesion."""
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
