"""What explains the best patch size of a lesion: against scipy, and against choices that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from patchcore.errors import ConfigError
from patchcore.metrics.choice import best_sizes, choices, rank_correlation


def test_rank_correlation_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    feature = np.round(generator.normal(size=60), 1)  # with ties
    best = np.round(feature + generator.normal(size=60), 0)
    patients = [f"p{n // 3}" for n in range(60)]
    found = rank_correlation(feature, best, patients)
    assert found.rho == pytest.approx(spearmanr(feature, best).statistic)
    assert found.low < found.rho < found.high
    assert (found.n, found.patients) == (60, 20)
    # Lesions without a value are not used; patients are drawn, not lesions.
    feature[:3] = math.nan
    best[5] = math.nan
    again = rank_correlation(feature, best, patients)
    known = np.isfinite(feature + best)
    assert again.rho == pytest.approx(spearmanr(feature[known], best[known]).statistic)
    assert (again.n, again.patients) == (56, 19)
    one = rank_correlation(feature, best, ["a"] * 60)
    assert math.isnan(one.low)
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3], "abc").rho)
    assert math.isnan(rank_correlation([1], [1], "a").rho)


def test_the_interval_is_that_of_patients() -> None:
    """Copies of a lesion in one patient say nothing new."""
    generator = np.random.default_rng(1)
    feature, best = generator.normal(size=30), generator.normal(size=30)
    patients = [f"p{n}" for n in range(30)]
    once = rank_correlation(feature, best, patients)
    many = rank_correlation(np.repeat(feature, 5), np.repeat(best, 5), list(np.repeat(patients, 5)))
    assert many.rho == pytest.approx(once.rho, abs=0.02)
    assert many.high - many.low == pytest.approx(once.high - once.low, abs=0.05)


def test_best_sizes_are_on_a_log_scale_and_ties_count_as_their_mean() -> None:
    found = best_sizes([[0.5, 0, 0.7, 0.1], [0.6, 0, 0.7, 0.0], [0.1, 0, 0.7, 0.0]], [8, 16, 32])
    assert found.tolist() == pytest.approx([4, math.nan, 4, 3], nan_ok=True)


def lesions(count: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return DSC at two sizes, the feature that decides which one is better, noise, and patients."""
    generator = np.random.default_rng(3)
    feature, noise = generator.normal(size=count), generator.normal(size=count)
    dsc = np.clip(np.stack([0.6 - 0.1 * feature, 0.6 + 0.1 * feature]) + generator.normal(0, 0.02, (2, count)), 0, 1)
    return dsc, feature, noise, [f"p{n // 3}" for n in range(count)]


def test_a_choice_by_what_decides_is_better_and_noise_adds_nothing() -> None:
    dsc, feature, noise, patients = lesions()
    groups = {"one": [], "feature": [feature], "noise": [noise], "both": [feature, noise]}
    found = {one.name: one for one in choices(dsc, groups, patients, reference="feature")}
    best = np.maximum(*dsc).mean()
    assert found["feature"].dsc == pytest.approx(best, abs=0.01)
    assert found["one"].dsc == pytest.approx(dsc.mean(axis=1).max(), abs=0.03)
    assert found["one"].high < 0 < found["one"].dsc
    assert found["noise"].high < 0
    assert found["both"].low <= 0 <= found["both"].high
    assert (found["feature"].gain, found["feature"].low, found["feature"].n, found["feature"].patients) == (
        0,
        0,
        240,
        80,
    )
    # A feature that is not known for some lesions counts as its mean there.
    some = feature.copy()
    some[::2] = math.nan
    half = next(c for c in choices(dsc, {"feature": [feature], "half": [some]}, patients, reference="feature")
                if c.name == "half")  # fmt: skip
    assert found["one"].dsc < half.dsc < found["feature"].dsc


def test_nobody_learns_from_the_patient_it_chooses_for() -> None:
    """A feature that names the patient predicts its lesions only for who has seen them."""
    generator = np.random.default_rng(5)
    patients = [f"p{n // 4}" for n in range(120)]
    better = np.repeat(generator.integers(0, 2, 30), 4)
    dsc = np.stack([0.5 + 0.2 * (better == 0), 0.5 + 0.2 * (better == 1)])
    names = [np.asarray([patient == f"p{n}" for patient in patients], dtype=np.float64) for n in range(30)]
    [_, named] = choices(dsc, {"one": [], "named": names}, patients, reference="one")
    assert named.dsc < 0.65  # knowing the patients gives 0.7


def test_what_cannot_be_scored_is_refused() -> None:
    dsc, feature, _, patients = lesions()
    for groups, owners, reference in (
        ({"a": [feature]}, patients, "b"),
        ({"a": [feature]}, patients[:-1], "a"),
        ({"a": [feature]}, ["one"] * 240, "a"),
    ):
        with pytest.raises(ConfigError, match="scores of shape"):
            choices(dsc, groups, owners, reference=reference)
