"""Regret of a choice: its value on known halves, no bias where options are equal, and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from patchcore.errors import ConfigError
from patchcore.metrics import regret as module
from patchcore.metrics.intervals import t_of_tails
from patchcore.metrics.regret import cross_fitted_regret, seed_fitted_regret


class Keys:
    """Gives chosen random numbers: patients with the lower half of them decide."""

    def __init__(self, keys: Any) -> None:
        self.keys = np.asarray(keys, dtype=np.float64)

    def random(self, shape: tuple[int, ...]) -> Any:
        assert shape == self.keys.shape
        return self.keys.copy()


def test_the_best_option_of_one_half_is_scored_on_the_other_half() -> None:
    generator = np.random.default_rng(3)
    scores, counts = generator.random((3, 6)), np.array([1.0, 2, 1, 1, 3, 1])
    keys = generator.random((1, 4, 6))
    found, best = module._regret(scores * counts, counts, np.ones((1, 6)), 1, 4, Keys(keys))  # type: ignore[arg-type]
    lost, winners = [], []
    for key in keys[0]:
        first = set(np.argsort(key)[:3].tolist())
        for half in (first, set(range(6)) - first):
            other = sorted(set(range(6)) - half)
            means = [np.average(row[sorted(half)], weights=counts[sorted(half)]) for row in scores]
            there = [np.average(row[other], weights=counts[other]) for row in scores]
            winners.append(int(np.argmax(means)))
            lost.append(there[winners[-1]] - there[1])
    assert found[0] == pytest.approx(np.mean(lost))
    assert sorted(best.ravel().tolist()) == sorted(winners)


def test_a_patient_that_is_drawn_twice_is_in_one_half_only_and_one_that_is_not_drawn_in_none() -> None:
    sums = np.array([[1.0, 0.0, 0.0, 7.0], [0.0, 0.5, 0.0, 9.0]])
    weights = np.array([[2.0, 1.0, 1.0, 0.0]])
    keys = np.array([[[0.1, 0.2, 0.3, 0.0]]])  # patient 0 alone decides: 3 were drawn, the first half has 1
    found, best = module._regret(sums, np.ones(4), weights, 0, 1, Keys(keys))  # type: ignore[arg-type]
    assert best.ravel().tolist() == [0, 1]
    # Option 0 is best in the first half: no regret. Option 1 is best in the other: there 0, but the choice has 1.
    assert found[0] == pytest.approx(np.mean([0.0, 0.0 - 1.0]))


def test_equal_options_have_no_regret_on_average() -> None:
    generator = np.random.default_rng(11)
    estimates, naive = [], []
    for _ in range(400):
        scores = generator.normal(0.6, 0.2, (1, 12)) + generator.normal(0, 0.05, (4, 12))
        estimates.append(cross_fitted_regret(scores, range(12), 0, resamples=0, divisions=6).mean)
        naive.append(scores.mean(axis=1).max() - scores[0].mean())
    error = np.std(estimates) / math.sqrt(400)
    assert abs(np.mean(estimates)) < 3 * error
    assert np.mean(naive) > 10 * error  # what the best of noisy means would claim


def test_a_clear_loss_is_found_with_its_interval() -> None:
    generator = np.random.default_rng(0)
    scores = np.stack([generator.normal(mean, 0.03, 40) for mean in (0.5, 0.7, 0.6)])
    found = cross_fitted_regret(scores, range(40), 0)
    assert found.mean == pytest.approx(0.2, abs=0.02)
    assert found.low > 0.15
    assert found.best_shares == (0.0, 1.0, 0.0)
    assert (found.n, found.patients) == (40, 40)
    assert cross_fitted_regret(scores, range(40), 1).mean == 0.0
    assert cross_fitted_regret(scores, range(40), 0) == found  # seeded


def test_a_rule_that_learns_chooses_on_the_half_that_decides() -> None:
    scores = np.random.default_rng(2).random((3, 10))
    same = cross_fitted_regret(scores, range(10), lambda means: means.argmax(axis=-1), resamples=50)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    worst = cross_fitted_regret(scores, range(10), lambda means: means.argmin(axis=-1), resamples=0)
    assert worst.mean != 0.0


def test_between_seeds_the_others_score_the_best() -> None:
    cube = np.array([[[0.5, 0.7], [0.9, 0.5]], [[0.6, 0.6], [0.4, 0.4]]])  # (seeds, options, cases)
    # Seed 0 prefers option 1 (0.7 to 0.6), which seed 1 scores 0.4; seed 1 prefers option 0, which seed 0 scores 0.6.
    found = seed_fitted_regret(cube, "ab", 0)
    assert found.mean == pytest.approx(((0.4 - 0.6) + (0.6 - 0.6)) / 2)
    assert found.best_shares == (0.5, 0.5)
    again = seed_fitted_regret(np.concatenate([cube, cube, cube], axis=2), "abcdef", 0)
    assert again.mean == pytest.approx(found.mean)
    assert again.low < again.mean < again.high


def test_cases_without_a_score_are_excluded() -> None:
    scores = [[0.5, math.nan, 0.6, 0.4], [0.7, 0.9, 0.8, 0.6]]
    found = cross_fitted_regret(scores, "aabc", 0, resamples=0)
    assert (found.n, found.patients) == (3, 3)
    assert math.isnan(cross_fitted_regret([[0.5], [0.6]], "a", 0).mean)
    nothing = seed_fitted_regret(np.full((2, 2, 1), math.nan), "a", 0)
    assert math.isnan(nothing.mean)


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 patients"):
        cross_fitted_regret([[0.1, 0.2]], "abc", 0)
    with pytest.raises(ConfigError, match="option 2 does not exist"):
        cross_fitted_regret([[0.1], [0.2]], "a", 2)
    with pytest.raises(ConfigError, match="two seeds"):
        seed_fitted_regret([[[0.1]]], "a", 0)
    with pytest.raises(ConfigError, match="option 1 does not exist"):
        seed_fitted_regret([[[0.1]], [[0.1]]], "a", 1)


def test_two_patients_have_a_regret_without_an_interval_and_are_in_every_sample() -> None:
    found = cross_fitted_regret([[0.5, 0.7], [0.6, 0.9]], "ab", 0, resamples=50)
    assert math.isfinite(found.mean)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    between = seed_fitted_regret([[[0.5, 0.7], [0.6, 0.9]]] * 2, "ab", 0, resamples=50)
    assert math.isfinite(between.mean)
    assert math.isnan(between.low)
    drawn = module._drawn(np.random.default_rng(0), 500, 2)
    assert (drawn > 0).sum(axis=1).min() == 2
    assert set(drawn.sum(axis=1)) == {2.0}


def test_the_interval_is_of_the_difference_to_the_rival_of_each_patient() -> None:
    sums = np.array([[0.9, 0.2, 0.4, 0.5, 0.3], [0.6, 0.7, 0.8, 0.1, 0.9], [0.1, 0.1, 0.1, 0.1, 0.1]])
    counts = np.ones(5)
    samples = np.array([0.1, 0.2, 0.4])
    low, high = module._interval(0.25, samples, sums, counts, 0)
    parts = sums[1] - sums[0]
    half = t_of_tails(parts - parts.mean()) * samples.std()
    assert (low, high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    # Its tails are those of the differences around their mean: any other shift of them has others.
    counts = np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    low, high = module._interval(0.25, samples, sums, counts, 0)
    parts = sums[1] - sums[0] - (sums[1].sum() - sums[0].sum()) / 10 * counts
    assert high - low == pytest.approx(2 * t_of_tails(parts) * samples.std())
