"""Regret of a choice: how much DSC is lost by believing it. Cross-fitted, because the best of noisy means is biased.

The size with the highest mean on some cases looks better there than it is, so its mean on the same cases must not be
compared with anything. Here the best size is found on one half of the patients and scored on the other half, averaged
over many divisions; or found with one seed and scored with the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchcore.errors import ConfigError
from patchcore.metrics.intervals import t_of_tails
from patchcore.types import Float64Array

__all__ = ["Regret", "cross_fitted_regret", "seed_fitted_regret"]

_Choice = int | Callable[[Float64Array], npt.NDArray[np.int64]]
_CELLS = 2_000_000  # samples × divisions × patients in one block


@dataclass(frozen=True)
class Regret:
    """Mean score of the best option minus that of the chosen one, on cases that did not decide which is best.

    Attributes:
        mean: The regret; NaN if it is not defined. Above 0: the choice loses. It can be below 0: then the option that
            looked best on the other cases is worse than the choice.
        low: Lower end of the 95 % interval. Its standard error is that of the whole procedure, repeated on samples of
            the patients; with it stands the t of :func:`patchcore.metrics.intervals.t_of_tails`.
        high: Upper end.
        n: Number of cases with a score of every option.
        patients: Number of their patients.
        best_shares: For each option, the share of the divisions in which it was the best.
    """

    mean: float
    low: float
    high: float
    n: int
    patients: int
    best_shares: tuple[float, ...]


def cross_fitted_regret(
    scores: npt.ArrayLike,
    patients: Sequence[Hashable],
    chosen: _Choice,
    *,
    divisions: int = 20,
    resamples: int = 1000,
    seed: int = 0,
) -> Regret:
    """Return the regret of a choice; the best option is found on half of the patients and scored on the other half.

    Each division is used in both directions. The bootstrap over patients repeats everything: a patient that is drawn
    twice is in one half only.

    Args:
        scores: Score per option and case, (options, cases); a case with a NaN is excluded.
        patients: Patient of each case.
        chosen: Index of the chosen option; or the choice of a rule that learns from scores: a function from the means
            on the half that decides, (…, options), to indices, (…).
        divisions: Number of divisions into halves.
        resamples: Number of bootstrap samples; 0: no interval.
        seed: The same seed gives the same divisions and samples.

    Raises:
        ConfigError: Numbers of cases differ, or `chosen` is not an option.

    Example:
        >>> scores = [[0.7, 0.6, 0.8, 0.7, 0.6, 0.7], [0.5, 0.4, 0.7, 0.6, 0.4, 0.5]]
        >>> found = cross_fitted_regret(scores, "abcdef", 1, resamples=0)
        >>> round(found.mean, 3), found.best_shares
        (0.167, (1.0, 0.0))
    """
    table, names = _checked(scores, patients, chosen)
    options, count = len(table), len(names)
    if count < 2:
        return _undefined(options, table.shape[1], count)
    sums, counts = _per_patient(table, names)
    generator = np.random.default_rng(seed)
    ones = np.ones((1, count))
    mean, best = _regret(sums, counts, ones, chosen, divisions, generator)
    drawn = []
    per_block = max(1, _CELLS // (divisions * count))
    for start in range(0, resamples, per_block):
        weights = _drawn(generator, min(per_block, resamples - start), count)
        drawn.append(_regret(sums, counts, weights, chosen, divisions, generator)[0])
    low, high = _interval(float(mean[0]), np.concatenate(drawn or [np.empty(0)]), sums, counts, chosen)
    shares = np.bincount(best.ravel(), minlength=options) / best.size
    return Regret(float(mean[0]), low, high, table.shape[1], count, tuple(shares.tolist()))


def seed_fitted_regret(
    scores: npt.ArrayLike, patients: Sequence[Hashable], chosen: int, *, resamples: int = 1000, seed: int = 0
) -> Regret:
    """Return the regret of a choice; the best option is found with one seed and scored with the mean of the others.

    This takes out the noise of training, not that of the patients: for these patients, not for others.

    Args:
        scores: Score per seed, option and case, (seeds, options, cases), at least two seeds; a case with a NaN is
            excluded.
        patients: Patient of each case.
        chosen: Index of the chosen option.
        resamples: Number of bootstrap samples; 0: no interval.
        seed: The same seed gives the same samples.

    Raises:
        ConfigError: There are fewer than two seeds, numbers of cases differ, or `chosen` is not an option.
    """
    cube = np.asarray(scores, dtype=np.float64)
    if cube.ndim != 3 or len(cube) < 2:
        raise ConfigError("the regret between seeds needs scores of at least two seeds")
    flat, names = _checked(cube.reshape(-1, cube.shape[2]), patients, chosen)
    seeds, options = cube.shape[:2]
    count = len(names)
    if not 0 <= chosen < options:
        raise ConfigError(f"option {chosen} does not exist", expected=f"0 to {options - 1}")
    if not count:
        return _undefined(options, 0, 0)
    sums, counts = _per_patient(flat, names)

    def regret(weights: Float64Array) -> tuple[Float64Array, npt.NDArray[np.int64]]:
        means = (weights @ sums.T / (weights @ counts)[:, None]).reshape(-1, seeds, options)
        best = means.argmax(axis=2)
        others = (means.sum(axis=1, keepdims=True) - means) / (seeds - 1)
        of_best = np.take_along_axis(others, best[..., None], axis=2)[..., 0]
        lost: Float64Array = (of_best - others[:, :, chosen]).mean(axis=1)
        return lost, best

    mean, best = regret(np.ones((1, count)))
    low = high = math.nan
    if resamples and count > 1:
        samples = regret(_drawn(np.random.default_rng(seed), resamples, count))[0]
        low, high = _interval(float(mean[0]), samples, sums.reshape(seeds, options, -1).mean(axis=0), counts, chosen)
    shares = np.bincount(best.ravel(), minlength=options) / best.size
    return Regret(float(mean[0]), low, high, flat.shape[1], count, tuple(shares.tolist()))


def _interval(
    mean: float, samples: Float64Array, sums: Float64Array, counts: Float64Array, chosen: _Choice
) -> tuple[float, float]:
    """Return the interval around a regret, from its values in samples of the patients.

    The percentiles of the samples themselves are too narrow for few patients: a patient in which one option has found
    the lesion and another has not decides much, and may not be among them. Two patients have no interval: every sample
    with both of them is the same.
    """
    if not len(samples) or sums.shape[1] < 3:
        return math.nan, math.nan
    means = sums.sum(axis=1) / counts.sum()
    own = int(means.argmax()) if callable(chosen) else chosen
    rival = int(np.where(np.arange(len(means)) == own, -math.inf, means).argmax())
    parts = sums[rival] - sums[own] - (means[rival] - means[own]) * counts
    half = t_of_tails(parts) * float(samples.std())
    return mean - half, mean + half


def _checked(
    scores: npt.ArrayLike, patients: Sequence[Hashable], chosen: _Choice
) -> tuple[Float64Array, dict[Hashable, list[int]]]:
    """Return the scores of the cases that have all of them, and the cases of each patient."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(patients):
        raise ConfigError(f"scores of shape {table.shape} for {len(patients)} patients", expected="(options, cases)")
    if not callable(chosen) and not 0 <= chosen < len(table):
        raise ConfigError(f"option {chosen} does not exist", expected=f"0 to {len(table) - 1}")
    known = np.isfinite(table).all(axis=0)
    names: dict[Hashable, list[int]] = {}
    for number, place in enumerate(np.flatnonzero(known)):
        names.setdefault(patients[int(place)], []).append(number)
    return table[:, known], names


def _undefined(options: int, cases: int, patients: int) -> Regret:
    return Regret(math.nan, math.nan, math.nan, cases, patients, (math.nan,) * options)


def _per_patient(table: Float64Array, names: dict[Hashable, list[int]]) -> tuple[Float64Array, Float64Array]:
    sums = np.stack([table[:, cases].sum(axis=1) for cases in names.values()], axis=1)
    return sums, np.asarray([len(cases) for cases in names.values()], dtype=np.float64)


def _drawn(generator: np.random.Generator, samples: int, patients: int) -> Float64Array:
    """Return how often each patient is in each sample, (samples, patients); at least two patients are in each."""
    weights = generator.multinomial(patients, np.full(patients, 1 / patients), size=samples).astype(np.float64)
    while (alone := (weights > 0).sum(axis=1) < 2).any():
        weights[alone] = generator.multinomial(patients, np.full(patients, 1 / patients), size=int(alone.sum()))
    return weights


def _regret(
    sums: Float64Array,
    counts: Float64Array,
    weights: Float64Array,
    chosen: _Choice,
    divisions: int,
    generator: np.random.Generator,
) -> tuple[Float64Array, npt.NDArray[np.int64]]:
    """Return the regret of each sample, and the best option of each sample, division and direction.

    Args:
        sums: (options, patients).
        counts: (patients,).
        weights: How often each patient is in each sample, (samples, patients).
        chosen: As for :func:`cross_fitted_regret`.
        divisions: Number of divisions.
        generator: Draws the divisions.
    """
    samples, patients = weights.shape
    keys = generator.random((samples, divisions, patients))
    keys[np.broadcast_to((weights == 0)[:, None], keys.shape)] = 2.0  # patients that were not drawn come last
    ranks = keys.argsort(axis=2).argsort(axis=2)
    in_first = ranks < ((weights > 0).sum(axis=1) // 2)[:, None, None]
    means = []
    for half in (in_first, ~in_first):
        part = weights[:, None] * half
        means.append(part @ sums.T / (part @ counts)[..., None])
    both = np.stack(means)  # (half, sample, division, option)
    best = both.argmax(axis=3)
    pick = chosen(both) if callable(chosen) else np.full(best.shape, chosen)
    other = both[::-1]
    lost = np.take_along_axis(other, best[..., None], 3) - np.take_along_axis(other, pick[..., None], 3)
    regret: Float64Array = lost[..., 0].mean(axis=(0, 2))
    return regret, best
