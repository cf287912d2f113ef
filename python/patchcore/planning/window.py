"""Chooses what is fixed before patch sizes are compared: the window and the HU range; computes the padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchcore.config.patches import SHORT_AXIS, fitting_edge
from patchcore.errors import PlanError
from patchcore.planning.samples import Cohort
from patchcore.types import IntTriple, Triple

__all__ = [
    "HU_PRESETS",
    "WIDE_HU_RANGE",
    "choose_window",
    "divisible_candidates",
    "fit_short_axes",
    "hu_range_of",
    "median_extent",
    "padding_share",
]

HU_PRESETS: dict[str, tuple[float, float]] = {
    "abdomen": (-200.0, 300.0),
    "bone": (-500.0, 1500.0),
    "brain": (-50.0, 150.0),
    "liver": (-150.0, 250.0),
    "lung": (-1000.0, 400.0),
    "soft-tissue": (-250.0, 300.0),
    "wide": (-1000.0, 1000.0),
}
"""Named intensity ranges, HU."""

_SMALL, _LARGE, _LIMIT = SHORT_AXIS, 96, 72
_LARGEST_WINDOW = 192
_HU_STEP = 50.0


def choose_window(cohort: Cohort, spacing: Triple, candidates: Sequence[int]) -> IntTriple:
    """Choose the window that all candidates share.

    The edge per canonical axis is 96, or 48 if the median extent of the cases at `spacing` is below 72 voxels. Both are
    multiples of 48, so 8, 12, 16 and 24 all divide them. If a candidate does not divide 48, the edge is rounded up to
    the next multiple that all candidates divide.

    Args:
        cohort: The cohort; it has at least one case.
        spacing: Training spacing, mm per voxel.
        candidates: Patch edges; each must divide the window.

    Raises:
        PlanError: No window of at most 192 voxels is divisible by all candidates.
    """
    extents = np.median(cohort.case_extents(spacing), axis=0)
    unit = math.lcm(_SMALL, *candidates)
    if unit > _LARGEST_WINDOW:
        raise PlanError(
            f"no window of at most {_LARGEST_WINDOW} voxels is divisible by all candidates {_listed(candidates)}",
            found=tuple(candidates),
            remedy="use candidates that divide 96 (2, 3, 4, 6, 8, 12, 16, 24, 32, 48), or fix the window with --window",
        )
    a, b, c = (math.ceil((_SMALL if e < _LIMIT else _LARGE) / unit) * unit for e in extents)
    return (a, b, c)


def median_extent(cohort: Cohort, spacing: Triple) -> IntTriple:
    """Return the median extent of the cases per canonical axis at a spacing, in voxels, rounded up."""
    a, b, c = (max(1, math.ceil(round(extent, 6))) for extent in np.median(cohort.case_extents(spacing), axis=0))
    return (a, b, c)


def fit_short_axes(window_size: IntTriple, extent: IntTriple, patch_size: IntTriple) -> IntTriple:
    """Return the window of a patch size: a short axis gets the smallest multiple of the patch that covers the extent.

    Args:
        window_size: The window that all candidates divide.
        extent: Median extent of the cases [voxels].
        patch_size: The chosen patch size.

    Example:
        >>> fit_short_axes((96, 48, 48), (200, 60, 10), (8, 8, 8))
        (96, 48, 16)
    """
    a, b, c = (
        min(edge, fitting_edge(length, [patch])) if length < SHORT_AXIS else edge
        for edge, length, patch in zip(window_size, extent, patch_size, strict=True)
    )
    return (a, b, c)


def divisible_candidates(
    window_size: IntTriple, candidates: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return, per axis, the candidates that divide a fixed window.

    Raises:
        PlanError: No candidate divides the window along an axis.

    Example:
        >>> divisible_candidates((64, 64, 48), (8, 12, 16))
        ((8, 16), (8, 16), (8, 12, 16))
    """
    a, b, c = (tuple(p for p in candidates if w % p == 0) for w in window_size)
    for axis, (left, edge) in enumerate(zip((a, b, c), window_size, strict=True)):
        if not left:
            raise PlanError(
                f"none of the candidates {_listed(candidates)} divides window size {edge} along axis {axis}",
                found=window_size,
                remedy="use a window with edges that are multiples of 48, or other --candidates",
            )
    return a, b, c


def padding_share(cohort: Cohort, spacing: Triple, window_size: IntTriple) -> float:
    """Return the share of an average window that lies outside its case, in [0, 1], averaged over the cases.

    A window that would reach beyond its case is shifted back inside if the case is large enough. Only an axis that is
    shorter than the window is padded.
    """
    extents = np.maximum(np.rint(cohort.case_extents(spacing)), 1)
    filled = np.minimum(extents, window_size) / np.asarray(window_size)
    return float(1 - filled.prod(axis=1).mean())


WIDE_HU_RANGE = (-1000.0, 1000.0)
"""Air to bone: the HU range of a plan for label maps without images, which are not used for training."""


def hu_range_of(
    choice: tuple[float, float] | str | None, percentiles: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the intensity range: the requested one, else the percentiles rounded outwards to 50 HU.

    Args:
        choice: A range in HU, the name of a preset (see :data:`HU_PRESETS`), or None for the measured range.
        percentiles: 0.5 and 99.5 percentile of HU in lesions dilated by 10 mm; None without images.

    Raises:
        PlanError: The preset is unknown, the range is not ascending, or there are no percentiles to derive it from.

    Example:
        >>> hu_range_of(None, (-137.0, 212.0))
        (-150.0, 250.0)
    """
    if isinstance(choice, str):
        if choice not in HU_PRESETS:
            raise PlanError(
                f"hu_range {choice!r} is not a preset",
                found=choice,
                remedy=f"choose one of {', '.join(HU_PRESETS)}",
            )
        return HU_PRESETS[choice]
    if choice is not None:
        low, high = float(choice[0]), float(choice[1])
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise PlanError(f"hu_range {low:g}, {high:g} is not ascending", found=choice, remedy="give LOW,HIGH in HU")
        return low, high
    if percentiles is None or not all(math.isfinite(p) for p in percentiles):
        raise PlanError(
            "no HU were measured, so hu_range cannot be derived",
            remedy=f"give --hu-range LOW,HIGH or a preset ({', '.join(HU_PRESETS)})",
        )
    low = math.floor(percentiles[0] / _HU_STEP) * _HU_STEP
    high = math.ceil(percentiles[1] / _HU_STEP) * _HU_STEP
    # Data with a single intensity, such as a phantom, would give an empty range.
    return (low, high) if low < high else (low - _HU_STEP, high + _HU_STEP)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
