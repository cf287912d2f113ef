"""Intervals over patients that hold for scores with zeros and outliers."""

from __future__ import annotations

import math

import numpy as np

from patchcore.types import Float64Array

__all__ = ["patient_error", "patient_interval", "student", "t_of_tails"]

_LEAST_FREEDOM = 2.5


def patient_interval(
    sums: Float64Array,
    counts: Float64Array,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """Return the 95 % interval of a mean over classes of means over cases, with patients as the unit.

    The interval is m ± t·s, with s from the patients' linearised contributions to the mean m (the usual variance of a
    ratio: Cochran, Sampling Techniques, 1977, section 6.3), and t from :func:`t_of_tails`. For values without heavy
    tails this is Student's t. DSC has zeros and outliers; the percentile bootstrap is then too narrow, see
    ``docs/intervals.md``.

    Args:
        sums: Sum of the values per class and patient, (classes, patients).
        counts: Number of values, of the same shape.
        within: Smallest and largest possible value.

    Returns:
        Lower and upper end; NaN for fewer than two patients.

    Example:
        >>> low, high = patient_interval(np.array([[0.5, 0.7, 0.9]]), np.ones((1, 3)))
        >>> round(low, 3), round(high, 3)
        (0.203, 1.197)
    """
    defined = counts.sum(axis=1) > 0
    sums, counts = sums[defined], counts[defined]
    if sums.shape[1] < 2 or not len(sums):
        return math.nan, math.nan
    mean = float((sums.sum(axis=1) / counts.sum(axis=1)).mean())
    parts = _parts(sums, counts)
    half = t_of_tails(parts) * _error(parts)
    return max(within[0], mean - half), min(within[1], mean + half)


def patient_error(sums: Float64Array, counts: Float64Array) -> float:
    """Return the standard error that :func:`patient_interval` uses; NaN for fewer than two patients.

    Args:
        sums: Sum of the values per class and patient, (classes, patients).
        counts: Number of values, of the same shape; no class is without a value.

    Example:
        >>> round(patient_error(np.array([[0.5, 0.7, 0.9]]), np.ones((1, 3))), 3)
        0.115
    """
    return math.nan if sums.shape[1] < 2 else _error(_parts(sums, counts))


def _parts(sums: Float64Array, counts: Float64Array) -> Float64Array:
    """Return the linearised contribution of each patient to the mean over classes of the means over cases."""
    means = sums.sum(axis=1) / counts.sum(axis=1)
    parts: Float64Array = ((sums - means[:, None] * counts) / counts.mean(axis=1)[:, None]).mean(axis=0)
    return parts


def _error(parts: Float64Array) -> float:
    return math.sqrt(float((parts**2).sum()) / (len(parts) * (len(parts) - 1)))


def t_of_tails(parts: Float64Array) -> float:
    """Return the 97.5th percentile of Student's t for a standard error that was estimated from some values.

    Its degrees of freedom are those of a variance of heavy-tailed values, 2n / (k + 2n / (n − 1)), k the excess
    kurtosis (O'Neill, The American Statistician 68, 2014), at most n − 1 and at least 2.5.

    Args:
        parts: The values, at least two.

    Example:
        >>> round(t_of_tails(np.linspace(-1, 1, 11)), 3), round(t_of_tails(np.r_[np.linspace(-1, 1, 10), 9.0]), 3)
        (2.228, 3.575)
    """
    count = len(parts)
    freedom = float(count - 1)
    if count >= 4 and np.ptp(parts) > 0:
        tails = max(0.0, _excess_kurtosis(parts))
        freedom = max(min(freedom, _LEAST_FREEDOM), 2 * count / (tails + 2 * count / (count - 1)))
    return student(0.975, freedom)


def _excess_kurtosis(values: Float64Array) -> float:
    """Return scipy.stats.kurtosis(values, bias=False), without the import of scipy.stats, which takes a second.

    It is 0 if the values differ by no more than rounding.
    """
    count, mean = len(values), values.mean()
    squares = (values - mean) ** 2
    variance = squares.mean()
    if variance <= (np.finfo(np.float64).eps * mean) ** 2:
        return 0.0
    plain = float(((squares / variance) ** 2).mean()) - 3
    return (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * plain + 6)


def student(share: float, freedom: float) -> float:
    """Return a quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
