"""What explains the best patch size of a lesion: rank correlations, and models that choose a size for each lesion.

Both need the DSC of each lesion at every patch size, as a flexible network or a sweep gives it. The model is scored by
what counts: the DSC that the lesions of *other* patients have at the size that it chooses for them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from patchcore.errors import ConfigError
from patchcore.metrics.statistics import compare_pairs
from patchcore.types import Float64Array, Int64Array

__all__ = ["Choice", "RankCorrelation", "best_sizes", "choices", "rank_correlation"]

_RIDGE = 10.0
"""Penalty on the weights of the standardised features."""
_FOLDS = 10


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of a feature with the best patch size.

    Attributes:
        rho: The correlation; NaN if one of the two is the same for all lesions.
        low: Lower end of its 95 % interval: percentiles of a bootstrap over patients.
        high: Upper end.
        n: Number of lesions.
        patients: Number of their patients.
    """

    rho: float
    low: float
    high: float
    n: int
    patients: int


@dataclass(frozen=True)
class Choice:
    """A way to choose a patch size for each lesion, scored on lesions of patients that it has not learned from.

    Attributes:
        name: What the choice is made from.
        dsc: Mean DSC of the lesions at the chosen sizes.
        gain: Mean difference to the reference.
        low: Lower end of the 95 % interval of the gain, over patients.
        high: Upper end.
        n: Number of lesions.
        patients: Number of their patients.
    """

    name: str
    dsc: float
    gain: float
    low: float
    high: float
    n: int
    patients: int


def best_sizes(dsc: npt.ArrayLike, edges: Sequence[float]) -> Float64Array:
    """Return log₂ of the patch edge with the highest DSC of each lesion; NaN if no size has found the lesion.

    Sizes that are equally good count as their mean on the log scale.

    Args:
        dsc: DSC per size and lesion, (sizes, lesions).
        edges: Patch edge of each size [voxels].

    Example:
        >>> best_sizes([[0.5, 0.0, 0.7], [0.6, 0.0, 0.7]], [8, 32]).tolist()
        [5.0, nan, 4.0]
    """
    table = np.asarray(dsc, dtype=np.float64)
    is_best = table == table.max(axis=0)
    logs = np.log2(np.asarray(edges, dtype=np.float64))[:, None]
    mean = (logs * is_best).sum(axis=0) / is_best.sum(axis=0)
    return np.asarray(np.where(table.max(axis=0) > 0, mean, math.nan), dtype=np.float64)


def rank_correlation(
    feature: npt.ArrayLike,
    best: npt.ArrayLike,
    patients: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> RankCorrelation:
    """Return Spearman's ρ of a feature and the best size, with an interval over patients.

    Args:
        feature: One value per lesion; NaN: not known.
        best: From :func:`best_sizes`.
        patients: Patient of each lesion.
        resamples: Number of bootstrap samples of the patients.
        seed: The same seed gives the same samples.

    Example:
        >>> found = rank_correlation([1, 2, 3, 4], [3, 3.5, 4, 4.5], "abcd")
        >>> round(found.rho, 6), found.n
        (1.0, 4)
    """
    x, y = np.asarray(feature, dtype=np.float64), np.asarray(best, dtype=np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    lesions_of: dict[Hashable, list[int]] = {}
    for number, place in enumerate(np.flatnonzero(known)):
        lesions_of.setdefault(patients[int(place)], []).append(number)
    members = [np.asarray(places) for places in lesions_of.values()]
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(resamples if len(members) > 1 else 0):
        chosen = np.concatenate([members[number] for number in generator.integers(len(members), size=len(members))])
        drawn.append(_spearman(x[chosen], y[chosen]))
    known_draws = [value for value in drawn if math.isfinite(value)]
    low, high = np.percentile(known_draws, (2.5, 97.5)).tolist() if known_draws else (math.nan, math.nan)
    return RankCorrelation(_spearman(x, y), low, high, len(x), len(members))


def _spearman(x: Float64Array, y: Float64Array) -> float:
    from scipy.stats import rankdata

    if len(x) < 2:
        return math.nan
    a, b = rankdata(x), rankdata(y)
    spread = float(a.std() * b.std())
    return float(np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else math.nan


def choices(
    dsc: npt.ArrayLike,
    groups: Mapping[str, Sequence[npt.ArrayLike]],
    patients: Sequence[Hashable],
    *,
    reference: str,
    repeats: int = 5,
    seed: int = 0,
) -> list[Choice]:
    """Choose a size for each lesion from its features, and score the choices on other patients.

    A ridge regression per size predicts the DSC of a lesion; the size with the highest prediction is chosen. It learns
    from nine tenths of the patients and chooses for the rest (each patient by itself if there are fewer than ten). A
    group without features chooses one size for all: that with the highest mean.

    Args:
        dsc: DSC per size and lesion, (sizes, lesions).
        groups: Name → features, each one value per lesion; NaN: not known, the mean is used.
        patients: Patient of each lesion.
        reference: Name of the group that all others are compared with.
        repeats: Number of divisions of the patients.
        seed: The same seed gives the same divisions.

    Raises:
        ConfigError: Shapes do not fit, the reference is no group, or there are fewer than two patients.
    """
    table = np.asarray(dsc, dtype=np.float64)
    names = list(dict.fromkeys(patients))
    if table.ndim != 2 or table.shape[1] != len(patients) or reference not in groups or len(names) < 2:
        raise ConfigError(
            f"scores of shape {table.shape}, {len(patients)} lesions, {len(names)} patients, reference {reference}",
            expected="(sizes, lesions), at least two patients, and one of the groups as reference",
        )
    number_of = {name: number for number, name in enumerate(names)}
    owner = np.asarray([number_of[name] for name in patients])
    generator = np.random.default_rng(seed)
    reached = {name: np.zeros(table.shape[1]) for name in groups}
    for _ in range(repeats):
        fold_of = generator.permutation(len(names)) % min(_FOLDS, len(names))
        for fold in range(int(fold_of.max()) + 1):
            held = fold_of[owner] == fold
            for name, features in groups.items():
                columns = [np.asarray(feature, dtype=np.float64) for feature in features]
                picked = _picked(table[:, ~held], columns, held)
                reached[name][held] += table[picked, np.flatnonzero(held)]
    found = []
    for name, total in reached.items():
        pair = compare_pairs(total / repeats, reached[reference] / repeats, patients).difference
        mean = float(total.mean() / repeats)
        ends = (0.0, 0.0) if name == reference else (pair.patient_low, pair.patient_high)
        found.append(Choice(name, mean, pair.mean, *ends, table.shape[1], len(names)))
    return found


def _picked(known: Float64Array, columns: Sequence[Float64Array], held: npt.NDArray[np.bool_]) -> Int64Array:
    """Return the size chosen for each held lesion; `known` is the DSC of the others, (sizes, lesions)."""
    count = int(held.sum())
    means = known.mean(axis=1)
    if not columns:
        return np.full(count, int(means.argmax()))
    everything = np.stack(columns, axis=1)
    known_values = np.isfinite(everything)
    used = known_values[~held]
    sums = np.where(known_values, everything, 0.0)[~held].sum(axis=0)
    filled = np.where(known_values, everything, sums / np.maximum(used.sum(axis=0), 1))
    spread = filled[~held].std(axis=0)
    scaled = (filled - filled[~held].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    a = scaled[~held]
    weights = np.linalg.solve(a.T @ a + _RIDGE * np.eye(a.shape[1]), a.T @ (known - means[:, None]).T)
    predicted = means + scaled[held] @ weights
    return np.asarray(predicted.argmax(axis=1), dtype=np.int64)
