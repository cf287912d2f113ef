"""Lesion-wise scores of the BraTS challenges, in the forms of 2023 and of 2024.

Lesions whose dilations touch are one lesion. A lesion is scored against all predicted lesions that its own dilation
reaches, each taken as a whole. Lesions of at most a minimum volume are excluded, and every predicted lesion that
reaches no lesion counts as one with the worst score.

Source: the public evaluation scripts of the challenges (rachitsaluja/BraTS-2023-Metrics and BraTS-2024-Metrics on
GitHub).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from patchcore.errors import ConfigError
from patchcore.metrics.brats_tissues import LABELS, Tissue, joined_groups, partners
from patchcore.metrics.pair import MaskPair
from patchcore.types import AnyArray, Int64Array

__all__ = ["BratsRules", "Joined", "brats_joined", "brats_lesions", "brats_rules"]

_TOLERANCES_MM = (0.5, 1.0)


@dataclass(frozen=True)
class BratsRules:
    """Rules of one challenge.

    Attributes:
        dilations: Number of dilations that decide which lesions are one, and which predictions belong to a lesion. Each
            adds the voxels that share a face or an edge.
        min_mm3: Lesions of at most this volume are excluded [mm³].
        penalty_mm: HD95 of a lesion that was missed or is false [mm]; None: the diagonal of the image in voxels.
        merge_predictions: Whether predicted lesions are merged like true ones, and those of at most `min_mm3` voxels
            dropped.
        false_count: Whether false lesions lower the mean.
        surface_dice: Whether the normalised surface distance is computed.
    """

    dilations: int
    min_mm3: float
    penalty_mm: float | None = 374.0
    merge_predictions: bool = False
    false_count: bool = True
    surface_dice: bool = False


_OF_2024 = BratsRules(3, 50.0, merge_predictions=True, surface_dice=True)
_RULES = {
    "GLI-2023": BratsRules(3, 50.0),
    "SSA-2023": BratsRules(3, 50.0),
    "PED-2023": BratsRules(3, 50.0),
    "MEN-2023": BratsRules(1, 50.0),
    "MET-2023": BratsRules(1, 2.0),
    "GLI-2024": replace(_OF_2024, min_mm3=20.0, penalty_mm=337.0),
    "MEN-2024": replace(_OF_2024, dilations=1, merge_predictions=False),
    "MEN-RT-2024": replace(_OF_2024, dilations=1, penalty_mm=None, false_count=False),
    "MET-2024": replace(_OF_2024, dilations=1, min_mm3=2.0, penalty_mm=None),
    "PED-2024": replace(_OF_2024, dilations=5, min_mm3=10.0),
    "SSA-2024": _OF_2024,
}
"""Rules of each challenge for the region WT, and for the others unless they follow below."""

_REGIONS = {
    "GLI-2024": {"NETC": {"dilations": 5}, "RC": {"dilations": 5}, "ET": {"min_mm3": 10.0}},
}


Joined: TypeAlias = tuple[Int64Array, Int64Array]
"""Of the truth and of the prediction: group of dilated components → number of its joined group."""


def brats_rules(name: str) -> BratsRules:
    """Return the rules of a challenge: ``GLI-2023``, ``MET-2024`` …, or of a region of it: ``GLI-2024/ET``.

    Raises:
        ConfigError: There is no such challenge.
    """
    challenge, _, region = name.partition("/")
    if challenge not in _RULES:
        raise ConfigError(
            f"BraTS challenge {challenge!r}",
            found=challenge,
            expected=", ".join(f"brats:{known}" for known in _RULES),
        )
    return replace(_RULES[challenge], **_REGIONS.get(challenge, {}).get(region, {}))  # type: ignore[arg-type]


def brats_joined(
    name: str, truth: AnyArray, prediction: AnyArray, affine: npt.ArrayLike, labels: Sequence[int]
) -> Joined | None:
    """Join the lesions of a tissue that touch the same lesion of another tissue, on each side.

    Args:
        name: Challenge and region, as for :func:`brats_rules`.
        truth: Label map with the labels of the challenge, integers (i, j, k).
        prediction: Label map of the same shape.
        affine: Voxel index → world mm, float64 (4, 4).
        labels: Label values of the region that is scored.

    Returns:
        The joined groups; None if the challenge has no such rule for the region, or if `labels` are not those that the
        challenge gives to this tissue.
    """
    challenge, _, region = name.partition("/")
    others = partners(challenge, region)
    if not others or tuple(labels) != (LABELS[region],):
        return None

    def tissue(region: str) -> Tissue:
        rules = brats_rules(f"{challenge}/{region}")
        return Tissue(region, rules.dilations, rules.min_mm3)

    sides = ((truth, False), (prediction, True))
    of_truth, of_prediction = (
        joined_groups(side, affine, tissue(region), map(tissue, others), predicted=predicted)
        for side, predicted in sides
    )
    return of_truth, of_prediction


def brats_lesions(pair: MaskPair, rules: BratsRules, joined: Joined | None = None) -> dict[str, Any]:
    """Score the lesions of one region of one case.

    Args:
        pair: Components of the region, connectivity 26.
        rules: Rules of the challenge.
        joined: Lesions that touch the same lesion of another tissue, from :func:`brats_joined`; None: each region is
            scored on its own.

    Returns:
        ``tp``, ``fp``, ``fn``: numbers of lesions; ``dice`` and ``hd95_mm``: lesion-wise means; with
        `rules.surface_dice`, also ``nsd_0.5`` and ``nsd_1``.
    """
    groups, reached = pair.dilated(rules.dilations)
    own = np.arange(len(pair.prediction))
    if rules.merge_predictions:
        own = pair.swapped().dilated(rules.dilations)[0]
    kept = np.ones(len(own), bool)
    if rules.merge_predictions and len(own):
        sizes = np.bincount(own, weights=pair.prediction.voxel_count)
        kept = sizes[own] > _least_size(rules, pair)
    if joined is not None:
        groups, own = joined[0][groups], joined[1][own]
        reached = reached.copy()
        reached[:, 0] = joined[0][reached[:, 0]]
        # Numbered without gaps.
        numbers, groups = np.unique(groups, return_inverse=True)
        reached[:, 0] = np.searchsorted(numbers, reached[:, 0])
    lesions = [np.flatnonzero(groups == group) for group in range(int(groups.max(initial=-1)) + 1)]
    matched: list[set[int]] = [set() for _ in lesions]
    for group, prediction, _ in reached.tolist():
        if kept[prediction]:
            matched[group].add(int(own[prediction]))
    false = set(own[kept].tolist()).difference(*matched)
    counted = [
        (members, np.flatnonzero(np.isin(own, list(names)) & kept))
        for members, names in zip(lesions, matched, strict=True)
        if pair.truth.voxel_count[members].sum() * pair.voxel_mm3 > rules.min_mm3
    ]
    penalty_mm = math.dist((0, 0, 0), pair.truth.shape) if rules.penalty_mm is None else rules.penalty_mm
    conventions = ("surfel", "voxel") if rules.surface_dice else ("surfel",)
    groups_of = [(members.tolist(), parts.tolist()) for members, parts in counted]
    surfaces = pair.surfaces(groups_of, conventions=conventions, tolerances_mm=_TOLERANCES_MM)
    shared = pair.overlap_matrix() if counted else np.zeros((0, 0), np.int64)
    dice, hd95_mm = [], []
    nsd: dict[float, list[float]] = {mm: [] for mm in _TOLERANCES_MM}
    for (members, parts), surface in zip(counted, surfaces, strict=True):
        both = int(pair.truth.voxel_count[members].sum() + pair.prediction.voxel_count[parts].sum())
        dice.append(2 * int(shared[np.ix_(members, parts)].sum()) / both)
        distance = surface["surfel"].hd95_mm
        hd95_mm.append(distance if math.isfinite(distance) else penalty_mm)
        for mm in _TOLERANCES_MM if rules.surface_dice else ():
            nsd[mm].append(sum(surface["voxel"].nsd_directed[mm]) / (2 + 1e-8))
    fp = len(false)
    tp = sum(len(parts) > 0 for _, parts in counted)
    total = len(counted) + (fp if rules.false_count else 0)

    def mean(values: list[float], of_false: float, of_nothing: float) -> float:
        return (math.fsum(values) + (fp * of_false if rules.false_count else 0)) / total if total else of_nothing

    found = {"tp": tp, "fp": fp, "fn": len(counted) - tp}
    found |= {"dice": mean(dice, 0.0, 1.0), "hd95_mm": mean(hd95_mm, penalty_mm, 0.0)}  # type: ignore[dict-item]
    if rules.surface_dice:
        found |= {f"nsd_{mm:g}": mean(values, 0.0, 1.0) for mm, values in nsd.items()}  # type: ignore[misc]
    return found


def _least_size(rules: BratsRules, pair: MaskPair) -> float:
    """Return the number of voxels that a merged prediction must exceed: only MEN-RT takes the spacing into account."""
    return rules.min_mm3 if rules.false_count else rules.min_mm3 / pair.voxel_mm3
