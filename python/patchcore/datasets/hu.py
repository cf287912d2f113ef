"""Sum and summarise HU histograms of lesions; counts are integers, so sums are exact in any order of cases."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from patchcore.study.fingerprint import HuSummary
from patchcore.volumes.types import HuHistogram

__all__ = ["add_histograms", "summarise_hu"]

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)


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

    Percentiles interpolate linearly between voxels, as ``numpy.percentile`` does for the voxel values.
    """
    count = histogram.voxel_count
    hu = np.arange(histogram.counts.size) + histogram.start
    upto = np.cumsum(histogram.counts)
    # Python integers: sums of squares over a whole cohort would overflow int64 or be rounded in float64.
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
