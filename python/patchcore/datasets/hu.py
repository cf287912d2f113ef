"""HU in and around lesions, as integer histograms: their sums are exact, whatever the order of the cases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.study.fingerprint import HuSummary
from patchcore.types import BoolArray, Int64Array, Triple

__all__ = ["DILATION_MM", "HuHistogram", "add_histograms", "dilate_mm", "hu_histogram", "summarise_hu"]

DILATION_MM = 10.0
"""How far around a lesion HU are looked at."""

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)

# Beyond these no scanner writes HU; they bound the histogram's memory.
_LOWEST, _HIGHEST = -32768, 65535


@dataclass(frozen=True)
class HuHistogram:
    """Voxel counts (int64) of consecutive integer HU from `start` on; empty where there is no voxel."""

    start: int
    counts: Int64Array

    @property
    def voxel_count(self) -> int:
        """Voxels counted."""
        return int(self.counts.sum())


def hu_histogram(values: npt.NDArray[Any]) -> HuHistogram:
    """Count voxels by HU, rounded to the nearest integer.

    Example:
        >>> histogram = hu_histogram(np.array([-1.2, 0.4, 2.0, 2.4]))
        >>> histogram.start, histogram.counts.tolist()
        (-1, [1, 1, 0, 2])
    """
    if values.size == 0:
        return HuHistogram(0, np.zeros(0, dtype=np.int64))
    rounded = values if values.dtype.kind in "iu" else np.rint(values)
    whole = np.clip(rounded, _LOWEST, _HIGHEST).astype(np.int64).ravel()
    start = int(whole.min())
    return HuHistogram(start, np.bincount(whole - start).astype(np.int64))


def add_histograms(histograms: Iterable[HuHistogram]) -> HuHistogram:
    """Return the sum of histograms."""
    filled = [histogram for histogram in histograms if histogram.counts.size]
    if not filled:
        return HuHistogram(0, np.zeros(0, dtype=np.int64))
    start = min(histogram.start for histogram in filled)
    stop = max(histogram.start + histogram.counts.size for histogram in filled)
    total = np.zeros(stop - start, dtype=np.int64)
    for histogram in filled:
        begin = histogram.start - start
        total[begin : begin + histogram.counts.size] += histogram.counts
    return HuHistogram(start, total)


def summarise_hu(histogram: HuHistogram) -> HuSummary:
    """Summarise a histogram that holds at least one voxel.

    Percentiles interpolate linearly between voxels, as ``numpy.percentile`` does over the voxels themselves.
    """
    count = histogram.voxel_count
    hu = np.arange(histogram.counts.size) + histogram.start
    upto = np.cumsum(histogram.counts)
    # Python's integers: squares of a whole cohort would overflow or round.
    pairs = [(int(h), int(n)) for h, n in zip(hu, histogram.counts, strict=True) if n]
    total = sum(h * n for h, n in pairs)
    squares = sum(h * h * n for h, n in pairs)
    percentiles = {}
    for percentile in PERCENTILES:
        rank = percentile / 100 * (count - 1)
        below = int(np.searchsorted(upto, math.floor(rank), side="right"))
        above = int(np.searchsorted(upto, math.ceil(rank), side="right"))
        share = rank - math.floor(rank)
        percentiles[f"{percentile:g}"] = float(hu[below] + (hu[above] - hu[below]) * share)
    return HuSummary(
        voxel_count=count,
        mean=total / count,
        std=math.sqrt(max(0, squares * count - total * total)) / count,
        min=float(pairs[0][0]),
        max=float(pairs[-1][0]),
        percentiles=percentiles,
    )


def dilate_mm(mask: BoolArray, boxes: Iterable[tuple[slice, ...]], spacing: Triple, radius_mm: float) -> BoolArray:
    """Dilate a mask by a ball of `radius_mm`.

    Args:
        mask: Shape (i, j, k).
        boxes: Boxes that together hold all of the mask's voxels, e.g. one a lesion: only their surroundings
            are looked at, so that a small lesion in a large volume costs little.
        spacing: Mm per voxel, array order.
        radius_mm: Voxels whose centre lies within this of a mask voxel's centre are included.

    Returns:
        The dilated mask, same shape.
    """
    from scipy.ndimage import distance_transform_edt

    margin = [math.floor(radius_mm / step) + 1 for step in spacing]
    # A voxel at exactly the radius is in, whatever the last bit of its distance.
    reach = radius_mm * (1 + 1e-9)
    dilated = np.zeros(mask.shape, dtype=np.bool_)
    for box in boxes:
        around = tuple(
            slice(max(0, part.start - pad), min(size, part.stop + pad))
            for part, pad, size in zip(box, margin, mask.shape, strict=True)
        )
        inner = mask[around]
        if inner.any():
            dilated[around] |= distance_transform_edt(~inner, sampling=spacing) <= reach
    return dilated
