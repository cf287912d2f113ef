"""Intervals over patients: Student's t where values are tame, wider where they are not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from patchcore.metrics import compare_pairs, estimate_mean, intervals, mean_over_classes
from patchcore.metrics.intervals import patient_interval


def test_one_case_each_without_heavy_tails_gives_students_t() -> None:
    values = np.linspace(0.4, 0.8, 12)
    expected = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    found = estimate_mean(values)
    assert (found.patient_low, found.patient_high) == pytest.approx(expected)
    assert found.interval == (found.patient_low, found.patient_high)


def test_cases_of_one_patient_count_together() -> None:
    values, patients = [0.1, 0.2, 0.3, 0.9, 0.5, 0.6], list("aaabcc")
    found = estimate_mean(values, patients)
    mean, counts = 2.6 / 6, np.array([3, 1, 2])
    parts = (np.array([0.6, 0.9, 1.1]) - mean * counts) / counts.mean()
    half = stats.t.ppf(0.975, 2) * math.sqrt((parts**2).sum() / (3 * 2))
    assert found.interval == pytest.approx((mean - half, mean + half))
    same = estimate_mean(np.repeat([0.1, 0.5, 0.6], 50), np.repeat(["a", "b", "c"], 50))
    assert same.interval == pytest.approx(estimate_mean([0.1, 0.5, 0.6]).interval)


def test_heavy_tails_take_degrees_of_freedom() -> None:
    values = np.r_[np.linspace(-0.1, 0.1, 19), 0.3]
    tails = stats.kurtosis(values, bias=False)
    freedom = 2 * 20 / (tails + 2 * 20 / 19)
    assert 2.5 < freedom < 19
    half = stats.t.ppf(0.975, freedom) * stats.sem(values)
    assert estimate_mean(values).interval == pytest.approx((values.mean() - half, values.mean() + half))
    # Never fewer than 2.5, and never more than patients - 1.
    lonely = np.r_[np.zeros(7), 1.0]
    half = stats.t.ppf(0.975, 2.5) * stats.sem(lonely)
    assert estimate_mean(lonely).interval == pytest.approx((0.125 - half, 0.125 + half))


def test_several_classes_are_averaged_per_patient() -> None:
    tables = {"1": [0.2, 0.4, 0.9, math.nan], "2": [0.5, 0.6, 0.4, 0.8]}
    found = mean_over_classes(tables)
    sums = np.array([[0.2, 0.4, 0.9, 0.0], [0.5, 0.6, 0.4, 0.8]])
    counts = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert found.interval == pytest.approx(patient_interval(sums, counts))
    parts = np.array([(s - m * c) / c.mean() for s, m, c in zip(sums, (0.5, 0.575), counts, strict=True)]).mean(axis=0)
    error = math.sqrt((parts**2).sum() / 12)
    low, high = patient_interval(sums, counts)
    assert (low + high) / 2 == pytest.approx(found.mean)
    assert high - low >= 2 * stats.t.ppf(0.975, 3) * error * (1 - 1e-12)
    # A class that no case has is not a class.
    assert patient_interval(np.vstack([sums, np.zeros(4)]), np.vstack([counts, np.zeros(4)])) == (low, high)


def test_an_interval_stays_within_what_is_possible() -> None:
    found = estimate_mean([0.99, 0.98, 0.6], within=(0, 1))
    assert found.patient_high == 1.0
    assert 0 <= found.patient_low < 0.6
    assert estimate_mean([0.99, 0.98, 0.6]).patient_high > 1


def test_fewer_than_two_patients_have_no_interval() -> None:
    found = estimate_mean([0.4, 0.5], ["a", "a"])
    assert found.interval is None
    assert found.brackets() == ""
    assert estimate_mean([0.4, 0.5], ["a", "b"]).brackets(".1f").startswith(" [")
    assert not estimate_mean(np.ones(9)).is_reliable
    assert estimate_mean(np.ones(10)).is_reliable


def test_the_interval_covers_what_it_promises_where_the_bootstrap_does_not() -> None:
    """Differences of two equal methods that each miss a few cases; the truth is 0."""
    generator = np.random.default_rng(5)
    covered = np.zeros(2)
    for _ in range(400):
        base = generator.beta(9, 2.2, 20)
        first, second = (
            np.where(generator.random(20) < 0.06, 0.0, base + generator.normal(0, 0.04, 20)) for _ in range(2)
        )
        found = compare_pairs(first, second, resamples=300).difference
        covered += [found.patient_low <= 0 <= found.patient_high, found.low <= 0 <= found.high]
    assert covered[0] / 400 >= 0.93
    assert covered[1] / 400 < 0.93


def test_values_that_differ_by_rounding_show_no_tails() -> None:
    for parts in (np.array([1.0, 1.0, 1.0, 1.0, 1.0 + 2e-16]), np.array([0.0, 0.0, 0.0, 0.0, 1e-200])):
        assert np.ptp(parts) > 0
        assert intervals.t_of_tails(parts) == pytest.approx(float(stats.t.ppf(0.975, 4)))


def test_four_values_show_their_tails() -> None:
    parts = np.array([0.0, 0.01, -0.01, 5.0])
    tails = float(stats.kurtosis(parts, bias=False))
    freedom = max(min(3.0, intervals._LEAST_FREEDOM), 8 / (tails + 8 / 3))
    assert intervals.t_of_tails(parts) == pytest.approx(float(stats.t.ppf(0.975, freedom)))
    assert freedom < 3
    assert intervals.t_of_tails(parts[1:]) == pytest.approx(float(stats.t.ppf(0.975, 2)))
