"""Intervals of means, and comparisons of two sets of paired scores. Uses NumPy and SciPy only.

Cases of one patient are similar, so the bootstrap draws patients, each with all its cases.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchcore.errors import ConfigError
from patchcore.metrics.intervals import patient_error, patient_interval, student
from patchcore.types import Float64Array

__all__ = [
    "RELIABLE_PATIENTS",
    "MeanEstimate",
    "MedianEstimate",
    "PairedComparison",
    "compare_pairs",
    "estimate_mean",
    "estimate_median",
    "holm",
    "mean_over_classes",
]

RESAMPLES = 10_000
"""Number of bootstrap samples."""
RELIABLE_PATIENTS = 10
"""With fewer patients no interval of a mean DSC is reliable: see the simulations in ``docs/intervals.md``."""
_CELLS = 4_000_000  # resamples × patients in one block: 32 MB


@dataclass(frozen=True)
class MeanEstimate:
    """A mean and how well the cases determine it.

    Attributes:
        mean: The mean over the cases; NaN without a case.
        n: Number of cases in the mean.
        patients: Number of patients of these cases.
        excluded: Number of cases without a value.
        low: Lower end of the 95 % bootstrap interval; NaN for fewer than two patients.
        high: Upper end.
        t_low: Lower end of the 95 % interval by Student's t over cases; NaN for fewer than two cases.
        t_high: Upper end.
        deviation: Standard deviation over the cases; NaN for fewer than two cases.
        patient_low: Lower end of the 95 % interval that is printed first: Student's t over patients, wider where few
            patients differ much from the others; NaN for fewer than two patients: see
            :func:`patchcore.metrics.intervals.patient_interval`.
        patient_high: Upper end.
    """

    mean: float
    n: int
    patients: int
    excluded: int
    low: float
    high: float
    t_low: float
    t_high: float
    deviation: float
    patient_low: float = math.nan
    patient_high: float = math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that is printed first; None if there is none."""
        return None if math.isnan(self.patient_low) else (self.patient_low, self.patient_high)

    def brackets(self, form: str = ".3f") -> str:
        """Return the interval that is printed first, as `` [low, high]``; empty if there is none."""
        return "" if self.interval is None else f" [{self.patient_low:{form}}, {self.patient_high:{form}}]"

    @property
    def is_reliable(self) -> bool:
        """Whether there are enough patients for the interval: see :data:`RELIABLE_PATIENTS`."""
        return self.patients >= RELIABLE_PATIENTS

    def __str__(self) -> str:
        if not self.n:
            return "not defined (n = 0)"
        return f"{self.mean:.3f}{self.brackets()} (n = {self.n})"


@dataclass(frozen=True)
class MedianEstimate:
    """A median with its distribution-free interval.

    Attributes:
        median: The median; NaN without a value.
        n: Number of values.
        low: Lower end of the interval: an order statistic; NaN if n is too small for 95 %.
        high: Upper end.
        coverage: Probability with which such an interval contains the true median, at least 0.95.
    """

    median: float
    n: int
    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class PairedComparison:
    """The difference between two sets of scores of the same cases.

    Attributes:
        difference: Mean of first minus second, with its interval.
        wilcoxon_p: p value of Wilcoxon's signed-rank test of the patients' mean differences, two-sided; NaN for fewer
            than 6 patients or equal scores.
        false_order: Probability that the order of the means is false, given the data; 0.5: nothing is known. NaN for
            fewer than two patients.
    """

    difference: MeanEstimate
    wilcoxon_p: float
    false_order: float


def estimate_mean(
    values: npt.ArrayLike,
    patients: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> MeanEstimate:
    """Return a mean with its 95 % intervals.

    The bootstrap interval has the 2.5th and the 97.5th percentile of the means of samples in which patients are drawn
    with replacement, each with all its cases (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
    13). Beside it stand the interval of Student's t over cases, and that of :func:`patient_interval`.

    Args:
        values: One value per case; NaN: not defined, excluded and counted.
        patients: Patient of each case [default: every case is a patient].
        seed: The same seed gives the same interval.
        resamples: Number of samples.
        within: Smallest and largest possible value of a mean, (0, 1) for DSC: no patient interval goes beyond.

    Raises:
        ConfigError: `patients` has another length than `values`.

    Example:
        >>> found = estimate_mean([0.5, 0.7, float("nan"), 0.9])
        >>> round(found.mean, 3), found.n, found.excluded, found.low < found.mean < found.high
        (0.7, 3, 1, True)
    """
    scores = np.asarray(values, dtype=np.float64).ravel()
    names = list(range(len(scores))) if patients is None else list(patients)
    if len(names) != len(scores):
        raise ConfigError(f"{len(names)} patients for {len(scores)} values")
    known = np.isfinite(scores)
    kept = scores[known]
    by_patient = _per_patient(scores, names)
    low, high = _bootstrap(*by_patient, seed, resamples)
    deviation = float(kept.std(ddof=1)) if len(kept) > 1 else math.nan
    mean = math.fsum(kept) / len(kept) if len(kept) else math.nan
    half = student(0.975, len(kept) - 1) * deviation / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
    sums, counts = by_patient
    patient_low, patient_high = patient_interval(sums[None], counts[None], within=within)
    return MeanEstimate(
        mean=mean,
        n=len(kept),
        patients=len(sums),
        excluded=int((~known).sum()),
        low=low,
        high=high,
        t_low=mean - half,
        t_high=mean + half,
        deviation=deviation,
        patient_low=patient_low,
        patient_high=patient_high,
    )


def _per_patient(values: Float64Array, names: Iterable[Hashable]) -> tuple[Float64Array, Float64Array]:
    """Return the sum and the number of the values of each patient, in the order of their first value; NaN is none."""
    numbers: dict[Hashable, int] = {}
    known = np.isfinite(values)
    of = np.asarray(
        [numbers.setdefault(name, len(numbers)) for name, is_known in zip(names, known, strict=True) if is_known],
        dtype=np.int64,
    )
    sums = np.bincount(of, weights=values[known], minlength=len(numbers))
    return sums.astype(np.float64), np.bincount(of, minlength=len(numbers)).astype(np.float64)


def _bootstrap(sums: Float64Array, counts: Float64Array, seed: int, resamples: int) -> tuple[float, float]:
    patients = len(sums)
    if patients < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, max(1, _CELLS // patients)):
        rows = min(resamples - start, max(1, _CELLS // patients))
        drawn = generator.integers(0, patients, size=(rows, patients))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def mean_over_classes(
    by_class: Mapping[str, Sequence[float] | Float64Array],
    patients: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> MeanEstimate:
    """Return the mean over classes of the mean over cases, with its intervals over patients; t over cases has no sense.

    Args:
        by_class: Class → one value per case, NaN where it is not defined; the cases are the same for every class.
        patients: Patient of each case [default: every case is a patient].
        seed: The same seed gives the same interval.
        resamples: Number of samples.
        within: Smallest and largest possible value of a mean, as for :func:`estimate_mean`.
    """
    table = np.asarray([np.asarray(values, dtype=np.float64) for values in by_class.values()])
    if not table.size:
        return MeanEstimate(math.nan, 0, 0, 0, *(math.nan,) * 5)
    names = list(range(table.shape[1])) if patients is None else list(patients)
    known = np.isfinite(table)
    used = known.any(axis=0)
    numbers: dict[Hashable, int] = {}
    of = np.asarray(
        [numbers.setdefault(name, len(numbers)) for name, is_used in zip(names, used, strict=True) if is_used]
    )
    sums = np.zeros((len(table), len(numbers)))
    counts = np.zeros_like(sums)
    for row, (values, defined) in enumerate(zip(table[:, used], known[:, used], strict=True)):
        sums[row] = np.bincount(of[defined], weights=values[defined], minlength=len(numbers))
        counts[row] = np.bincount(of[defined], minlength=len(numbers))
    mean = _mean_of_means(sums.sum(axis=1), counts.sum(axis=1))
    low = high = math.nan
    if len(numbers) > 1:
        generator = np.random.default_rng(seed)
        means = []
        for start in range(0, resamples, max(1, _CELLS // len(numbers))):
            rows = min(resamples - start, max(1, _CELLS // len(numbers)))
            drawn = generator.integers(0, len(numbers), size=(rows, len(numbers)))
            means.append(_mean_of_means(sums[:, drawn].sum(axis=2).T, counts[:, drawn].sum(axis=2).T))
        # A sample may contain no case of any class.
        low, high = map(float, np.nanpercentile(np.concatenate(means), [2.5, 97.5]))
    patient_low, patient_high = patient_interval(sums, counts, within=within)
    return MeanEstimate(
        mean=float(mean),
        n=int(used.sum()),
        patients=len(numbers),
        excluded=int((~used).sum()),
        low=low,
        high=high,
        t_low=math.nan,
        t_high=math.nan,
        deviation=math.nan,
        patient_low=patient_low,
        patient_high=patient_high,
    )


def _mean_of_means(sums: Float64Array, counts: Float64Array) -> Float64Array:
    """Return the mean over the last axis of sums / counts, without classes that have no case."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
        defined = counts > 0
        mean: Float64Array = np.where(defined, means, 0).sum(axis=-1) / defined.sum(axis=-1)
    return mean


def estimate_median(values: npt.ArrayLike) -> MedianEstimate:
    """Return a median with an interval of order statistics, which holds for every distribution.

    The interval from the k-th smallest to the k-th largest value contains the median of the population with
    probability 1 − 2·P(B < k), B binomial with n and ½ (Hahn and Meeker, Statistical Intervals, 1991, section 5.2).
    The largest k is used for which this is at least 0.95.

    Example:
        >>> found = estimate_median(range(1, 12))
        >>> found.median, found.low, found.high, round(found.coverage, 3)
        (6.0, 2.0, 10.0, 0.988)
    """
    from scipy.special import bdtr

    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    ordered = ordered[~np.isnan(ordered)]
    n = len(ordered)
    if not n:
        return MedianEstimate(math.nan, 0, math.nan, math.nan, math.nan)
    median = float(np.median(ordered))
    rank, coverage = 0, math.nan
    while rank + 1 <= n // 2:
        next_coverage = 1 - 2 * float(bdtr(rank, n, 0.5))
        if next_coverage < 0.95:
            break
        rank, coverage = rank + 1, next_coverage
    if not rank:
        return MedianEstimate(median, n, math.nan, math.nan, math.nan)
    return MedianEstimate(median, n, float(ordered[rank - 1]), float(ordered[n - rank]), coverage)


def compare_pairs(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedComparison:
    """Compare two sets of scores of the same cases. Cases of one patient are similar, so patients are the unit.

    The probability that the order is false follows Christodoulou et al., "False Promises in Medical Imaging AI?"
    (arXiv 2505.04720): with a flat prior, the true mean difference, given n paired differences with mean d̄ and
    standard deviation s, has Student's t distribution with n − 1 degrees of freedom, centre d̄ and scale s / √n. The
    claimed order is that of d̄, so it is false with probability F(−|d̄|·√n / s), F the distribution function of t with
    n − 1 degrees of freedom. The paper estimates s from published means because it has no paired scores; here they are
    known. For patients with several cases, n is the number of patients, and the scale is the standard error of the
    interval over patients. Wilcoxon's test has one value per patient: the mean of its differences.

    Args:
        first: One score per case; pairs with a NaN are excluded and counted.
        second: Scores of the same cases in the same order.
        patients: Patient of each case [default: every case is a patient].
        seed: The same seed gives the same interval.
        resamples: Number of bootstrap samples.

    Raises:
        ConfigError: The numbers of scores differ.

    Example:
        >>> found = compare_pairs([0.8, 0.7, 0.9, 0.6, 0.75, 0.85], [0.7, 0.65, 0.85, 0.5, 0.74, 0.8])
        >>> round(found.difference.mean, 3), round(found.wilcoxon_p, 3), found.false_order < 0.01
        (0.06, 0.031, True)
    """
    from scipy.special import stdtr

    a, b = (np.asarray(scores, dtype=np.float64).ravel() for scores in (first, second))
    if a.shape != b.shape:
        raise ConfigError(f"{len(a)} scores cannot be paired with {len(b)}")
    differences = a - b
    estimate = estimate_mean(differences, patients, seed=seed, resamples=resamples)
    sums, counts = _per_patient(differences, range(len(differences)) if patients is None else patients)
    p = false_order = math.nan
    if len(sums) >= 6 and np.any(sums):
        from scipy.stats import wilcoxon

        p = float(wilcoxon(sums / counts).pvalue)
    if len(sums) > 1:
        false_order = 0.5
        error = patient_error(sums[None], counts[None])
        if error > 0:
            false_order = float(stdtr(len(sums) - 1, -abs(estimate.mean) / error))
        elif estimate.mean:
            false_order = 0.0
    return PairedComparison(estimate, p, false_order)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979); NaN stays NaN.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = sorted((p, number) for number, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, number) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[number] = largest
    return adjusted
