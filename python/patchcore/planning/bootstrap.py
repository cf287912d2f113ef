"""Computes confidence intervals of p* with a percentile bootstrap over patients.

Lesions of one patient are similar, so patients are drawn with replacement, each with all its lesions (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 8.3).
"""

from __future__ import annotations

import numpy as np

from patchcore.planning.samples import Cohort
from patchcore.types import Float64Array, Int64Array, Rule, Triple

__all__ = ["bootstrap_edges", "edge_interval"]

_CELLS = 4_000_000
"""Largest number of resamples × lesions in one block: 32 MB of weights at a time, for any size of cohort."""


def bootstrap_edges(
    rule: Rule, cohort: Cohort, spacing: Triple | None, *, resamples: int = 2000, seed: int = 0
) -> Float64Array:
    """Return p* of `resamples` cohorts in which patients are drawn with replacement.

    Args:
        rule: The rule.
        cohort: The cohort; it has at least one lesion.
        spacing: mm per voxel, canonical axes; None: the spacing of each case.
        resamples: Number of cohorts drawn.
        seed: The same seed gives the same numbers.

    Returns:
        float64 (resamples,), voxels. For rule ``extent``: the geometric mean over the axes.
    """
    patients = cohort.patient_count
    draws = np.random.default_rng(seed).integers(0, patients, size=(resamples, patients))
    # How often each patient was drawn, counted for all resamples at once.
    flat = (draws + patients * np.arange(resamples)[:, None]).ravel()
    times = np.bincount(flat, minlength=resamples * patients).reshape(resamples, patients)
    if rule is Rule.MEDIAN:
        return np.cbrt(_medians(cohort.voxels(spacing), cohort.patient, times))
    if rule is Rule.EXTENT:
        columns = cohort.extents(spacing)
    elif rule is Rule.GEOMETRIC_MEAN:
        columns = np.log(cohort.voxels(spacing))[:, None]
    else:
        columns = cohort.voxels(spacing)[:, None]
    counts = np.bincount(cohort.patient, minlength=patients)
    sums = np.stack([np.bincount(cohort.patient, weights=c, minlength=patients) for c in columns.T], axis=1)
    means = (times @ sums) / (times @ counts)[:, None]
    if rule is Rule.GEOMETRIC_MEAN:
        means = np.exp(means)
    # Both kinds of rule end with the cube root of a product: extents with the geometric mean of three edges, volumes
    # with the edge of a cube.
    return np.asarray(np.cbrt(means.prod(axis=1)), dtype=np.float64)


def _medians(values: Float64Array, patient: Int64Array, times: Int64Array) -> Float64Array:
    """Return one weighted median per row of `times`. For an even count, the two middle values are averaged."""
    order = np.argsort(values, kind="stable")
    values, patient = values[order], patient[order]
    out = np.empty(len(times), dtype=np.float64)
    block = max(1, _CELLS // len(values))
    for start in range(0, len(times), block):
        cumulative = np.cumsum(times[start : start + block][:, patient], axis=1)
        total = cumulative[:, -1:]
        low = np.argmax(cumulative > (total - 1) // 2, axis=1)
        high = np.argmax(cumulative > total // 2, axis=1)
        out[start : start + block] = (values[low] + values[high]) / 2
    return out


def edge_interval(
    rule: Rule, cohort: Cohort, spacing: Triple | None, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 2.5 and 97.5 percentile of p*, or None if there are fewer than two patients to resample.

    Example:
        >>> from patchcore.planning.samples import CaseSample, LesionSample, cohort_of
        >>> cases = [CaseSample(str(i), str(i), (1.0, 1.0, 1.0), (64, 64, 64)) for i in range(4)]
        >>> lesions = [LesionSample(str(i), 1, 1000.0, (10.0, 10.0, 10.0)) for i in range(4)]
        >>> low, high = edge_interval(Rule.MEAN_VOLUME, cohort_of(cases, lesions, label=1), (1.0, 1.0, 1.0))
        >>> round(low, 6), round(high, 6)
        (10.0, 10.0)
    """
    if cohort.patient_count < 2:
        return None
    low, high = np.percentile(bootstrap_edges(rule, cohort, spacing, resamples=resamples, seed=seed), [2.5, 97.5])
    return float(low), float(high)
