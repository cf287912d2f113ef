"""Free-response ROC: which share of the lesions is found at how many false candidates per scan.

A candidate is a connected component of the voxels whose lesion probability exceeds a low limit. Its score is its
highest probability. It finds a lesion if their IoU is at least 0.1: a touch is not enough, or one candidate as large as
the scan would find everything. As the least score rises, false candidates disappear first if the network is good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from patchcore.errors import ShapeMismatchError
from patchcore.lesions.measure import LesionSpans, lesion_spans
from patchcore.lesions.spans import highest, lesion_at, span_places
from patchcore.types import BoolArray, Float64Array, Int64Array

__all__ = [
    "CANDIDATE_PROBABILITY",
    "FROC_RATES",
    "LEAST_IOU",
    "Candidates",
    "Froc",
    "find_candidates",
    "froc",
    "name_lesions",
    "shared_voxels",
]

CANDIDATE_PROBABILITY = 0.1
"""Voxels above this probability form candidates."""

LEAST_IOU = 0.1
"""IoU of a candidate and a lesion from which on the lesion is found, as in PI-CAI (Saha et al., 2024)."""

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False candidates per scan at which the sensitivity is reported, as in LUNA16 (Setio et al., 2017)."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of one case.

    Attributes:
        lesions: Number of true lesions.
        scores: Score of each candidate.
        hits: True lesions that each candidate finds; None for one that touches nothing but lesions below the least
            volume, which is neither true nor false.
    """

    lesions: int
    scores: tuple[float, ...]
    hits: tuple[tuple[int, ...] | None, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Candidates:
        """Return the candidates whose :func:`dataclasses.asdict` was written as JSON."""
        hits = tuple(None if one is None else tuple(one) for one in value["hits"])
        return cls(int(value["lesions"]), tuple(value["scores"]), hits)


@dataclass(frozen=True)
class Froc:
    """The curve over all cases.

    Attributes:
        cases: Number of cases.
        lesions: Number of true lesions.
        false_per_case: False candidates per case at each point of the curve, ascending.
        sensitivity: Share of the lesions that is found at each point.
        at: Sensitivity at each of :data:`FROC_RATES`: the highest with at most so many false candidates per case.
        mean: Mean of these sensitivities; NaN without lesions.
    """

    cases: int
    lesions: int
    false_per_case: tuple[float, ...]
    sensitivity: tuple[float, ...]
    at: dict[str, float]
    mean: float


def name_lesions(
    spans: LesionSpans, shape: tuple[int, ...], *, voxel_mm3: float, min_volume_mm3: float
) -> tuple[npt.NDArray[np.int32], Float64Array, BoolArray]:
    """Number the true lesions in a map.

    Returns:
        The map: 0 where there is no lesion, 1 in lesions below the least volume, n + 2 in lesion n; the volume of every
        lesion of `spans` [mm³]; and which of them are large enough. Lesion n is the n-th of these, from 0.
    """
    volumes = np.asarray(spans.voxel_count * voxel_mm3, dtype=np.float64)
    large: BoolArray = volumes >= min_volume_mm3
    number = np.cumsum(large) - 1
    names = np.zeros(shape, dtype=np.int32)
    for lesion, place in span_places(spans):
        names[place] = number[lesion] + 2 if large[lesion] else 1
    return names, volumes, large


def shared_voxels(spans: LesionSpans, mask: BoolArray, names: npt.NDArray[np.int32]) -> Int64Array:
    """Return rows (component, true lesion, common voxels); the lesion is −1 if it is below the least volume.

    Args:
        spans: The components of `mask`.
        mask: The predicted mask.
        names: The map of :func:`name_lesions`.
    """
    index = np.argwhere((names > 0) & mask)
    if not len(index):
        return np.zeros((0, 3), dtype=np.int64)
    pairs = np.stack([lesion_at(spans, index, mask.shape), names[tuple(index.T)]])
    unique, counts = np.unique(pairs, axis=1, return_counts=True)
    return np.column_stack([unique[0], np.maximum(unique[1] - 2, -1), counts]).astype(np.int64)


def find_candidates(
    probability: npt.NDArray[Any],
    truth: BoolArray,
    *,
    voxel_mm3: float,
    connectivity: int = 26,
    min_volume_mm3: float = 0.0,
    least: float = CANDIDATE_PROBABILITY,
    scale: float = 1.0,
) -> Candidates:
    """Return the candidates of a case.

    Args:
        probability: Probability of a lesion, (X, Y, Z), any real dtype.
        truth: Which voxels are lesion.
        voxel_mm3: Volume of a voxel [mm³].
        connectivity: 6, 18 or 26.
        min_volume_mm3: Smaller true lesions do not exist.
        least: Voxels above this probability form candidates.
        scale: Value that stands for probability 1, e.g. 65535 for uint16.

    Raises:
        ShapeMismatchError: The shapes differ.

    Example:
        >>> truth = np.array([1, 1, 0, 0, 0, 0], bool).reshape(6, 1, 1)
        >>> chance = np.array([0.9, 0.3, 0, 0.4, 0, 0.2]).reshape(6, 1, 1)
        >>> find_candidates(chance, truth, voxel_mm3=1.0)
        Candidates(lesions=1, scores=(0.9, 0.4, 0.2), hits=((0,), (), ()))
    """
    if probability.shape != truth.shape:
        raise ShapeMismatchError(
            f"probability shape {probability.shape} does not match label shape {truth.shape}",
            found=probability.shape,
            expected=truth.shape,
        )
    true = lesion_spans(truth, connectivity=connectivity)
    names, _, large = name_lesions(true, truth.shape, voxel_mm3=voxel_mm3, min_volume_mm3=min_volume_mm3)
    mask = probability > least * scale
    spans = lesion_spans(mask, connectivity=connectivity)
    sizes = true.voxel_count[large]
    hits: list[list[int]] = [[] for _ in range(spans.lesion_count)]
    on_specks = np.zeros(spans.lesion_count, dtype=np.bool_)
    on_lesions = np.zeros(spans.lesion_count, dtype=np.bool_)
    for component, lesion, both in shared_voxels(spans, mask, names).tolist():
        if lesion < 0:
            on_specks[component] = True
            continue
        on_lesions[component] = True
        if both >= LEAST_IOU * (int(spans.voxel_count[component]) + int(sizes[lesion]) - both):
            hits[component].append(lesion)
    scores = (highest(spans, probability).astype(np.float64) / scale).tolist()
    neither = on_specks & ~on_lesions
    found = tuple(None if skip else tuple(one) for one, skip in zip(hits, neither.tolist(), strict=True))
    return Candidates(int(large.sum()), tuple(scores), found)


def froc(cases: Sequence[Candidates]) -> Froc:
    """Return the FROC of several cases.

    Example:
        >>> one = Candidates(2, (0.9, 0.8, 0.3), ((0,), (), (1,)))
        >>> curve = froc([one, Candidates(0, (0.5,), ((),))])
        >>> curve.false_per_case, curve.sensitivity
        ((0.0, 0.0, 0.5, 1.0, 1.0), (0.0, 0.5, 0.5, 0.5, 1.0))
        >>> curve.at["0.5"], curve.at["1"]
        (0.5, 1.0)
    """
    lesions = sum(case.lesions for case in cases)
    rows = sorted(
        (-score, number, hit)
        for number, case in enumerate(cases)
        for score, hit in zip(case.scores, case.hits, strict=True)
        if hit is not None
    )
    false_at, found_at = [0], [0]
    false, found = 0, set[tuple[int, int]]()
    for at, (score, number, hit) in enumerate(rows):
        false += not hit
        found |= {(number, lesion) for lesion in hit}
        # Candidates of one score appear together.
        if at + 1 == len(rows) or rows[at + 1][0] != score:
            false_at.append(false)
            found_at.append(len(found))
    count = max(1, len(cases))
    rates = [value / count for value in false_at]
    shares = [value / lesions if lesions else math.nan for value in found_at]
    at_rate = {f"{rate:g}": max(s for r, s in zip(rates, shares, strict=True) if r <= rate) for rate in FROC_RATES}
    mean = math.fsum(at_rate.values()) / len(at_rate) if lesions else math.nan
    return Froc(len(cases), lesions, tuple(rates), tuple(shares), at_rate, mean)
