"""Scores of lesions under the matching rules of other tools: each mode gives the numbers of its own scorer.

All modes start from the components of a :class:`~patchcore.metrics.pair.MaskPair` and the voxels that they share. The
modes differ in connectivity (:data:`MODE_CONNECTIVITY`), in what counts as a match, and in what is averaged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from patchcore.errors import ConfigError
from patchcore.metrics.dice import VoxelCounts
from patchcore.metrics.pair import MaskPair
from patchcore.types import Float64Array, Int64Array

__all__ = [
    "MODE_CONNECTIVITY",
    "autopet",
    "cc_dsc",
    "cc_metrics",
    "lits_detection",
    "lits_lesions",
    "merged_counts",
    "overlap_matching",
    "panoptica",
]

MODE_CONNECTIVITY = {
    "overlap": 26, "panoptica": 26, "panoptica-many": 26, "lits": 6, "cc": 26, "autopet": 18, "brats": 26,
}  # fmt: skip
"""Connectivity of the components in each mode, if the user gives none."""


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _ious(pair: MaskPair) -> Float64Array:
    """Return the IoU of every row of `pair.overlaps`."""
    truth, prediction, shared = pair.overlaps.T
    union = pair.truth.voxel_count[truth] + pair.prediction.voxel_count[prediction] - shared
    return np.asarray(shared / union, dtype=np.float64)


def merged_counts(pair: MaskPair) -> tuple[Int64Array, Int64Array]:
    """Return, per true component, the voxels of all predicted components that overlap it, and the shared voxels."""
    truth, prediction, shared = pair.overlaps.T
    size, found = (np.zeros(len(pair.truth), np.int64) for _ in range(2))
    np.add.at(size, truth, pair.prediction.voxel_count[prediction])
    np.add.at(found, truth, shared)
    return size, found


def overlap_matching(pair: MaskPair) -> dict[str, Any]:
    """Score lesions by overlap: a lesion is found if at least one of its voxels is predicted.

    A predicted component is true if at least one of its voxels is lesion, also of a lesion below the minimum volume;
    many components may match one lesion, and one component many lesions. Recall is found lesions / lesions, precision
    is true components / predicted components, and RQ = F1 is their harmonic mean. SQ is the mean IoU of the found
    lesions, each against the union of the predicted components that overlap it; PQ = SQ · RQ.

    Returns:
        ``lesions``, ``found``, ``predicted``, ``true``: numbers of components; ``recall``, ``precision``, ``f1``,
        ``sq``, ``rq``, ``pq`` in [0, 1], NaN where not defined; ``false_positive_mm3``, ``false_negative_mm3``: volume
        of predicted components without a lesion voxel, and of lesions without a predicted voxel [mm³].
    """
    hit = np.zeros(len(pair.truth), bool)
    true = np.zeros(len(pair.prediction), bool)
    hit[pair.overlaps[:, 0]] = true[pair.overlaps[:, 1]] = True
    true |= pair.on_specks > 0
    size, shared = merged_counts(pair)
    union = pair.truth.voxel_count + size - shared
    recall, precision = _ratio(int(hit.sum()), len(hit)), _ratio(int(true.sum()), len(true))
    # Without any component nothing is defined; with components on one side only, nothing matches.
    total = len(hit) + len(true)
    f1 = math.nan if not total else _harmonic(recall, precision)
    sq = float((shared[hit] / union[hit]).mean()) if hit.any() else (math.nan if not total else 0.0)
    return {
        "lesions": len(hit),
        "found": int(hit.sum()),
        "predicted": len(true),
        "true": int(true.sum()),
        "recall": recall,
        "precision": precision,
        "f1": f1,
        "sq": sq,
        "rq": f1,
        "pq": sq * f1,
        "false_positive_mm3": float(pair.prediction.volume_mm3[~true].sum()),
        "false_negative_mm3": float(pair.truth.volume_mm3[~hit].sum()),
    }


def _harmonic(recall: float, precision: float) -> float:
    if math.isnan(recall) or math.isnan(precision) or not recall + precision:
        return 0.0
    return 2 * recall * precision / (recall + precision)


def panoptica(pair: MaskPair, *, threshold: float = 0.5, many_to_one: bool = False) -> dict[str, Any]:
    """Score lesions as panoptica does with its naive threshold matching by IoU.

    Pairs of components are matched in the order of their IoU, as long as it is at least `threshold`. A predicted
    component is matched once; with `many_to_one`, several may match one lesion and are then merged. SQ is the mean IoU
    of the matches, RQ = TP / (TP + (FP + FN) / 2), PQ = SQ · RQ.

    Source: Kofler et al., "Panoptica – instance-wise evaluation of 3D semantic and instance segmentation maps", arXiv
    2312.02608; version 2.1.7.

    Raises:
        ConfigError: The threshold is not within (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"IoU threshold {threshold}", found=threshold, expected="above 0 and at most 1")
    ious = _ious(pair)
    owner: dict[int, int] = {}
    taken: set[int] = set()
    for row in np.argsort(-ious, kind="stable").tolist():
        truth, prediction, _ = pair.overlaps[row].tolist()
        if prediction in owner or (truth in taken and not many_to_one) or ious[row] < threshold:
            continue
        owner[prediction] = truth
        taken.add(truth)
    size, shared = dict.fromkeys(taken, 0), dict.fromkeys(taken, 0)
    for prediction, truth in owner.items():
        size[truth] += int(pair.prediction.voxel_count[prediction])
    for truth, prediction, voxels in pair.overlaps.tolist():
        if owner.get(prediction) == truth:
            shared[truth] += voxels
    tp, n_ref = len(taken), len(pair.truth)
    n_pred = len(pair.prediction) - len(owner) + tp
    fp, fn = n_pred - tp, n_ref - tp
    true_size = {truth: int(pair.truth.voxel_count[truth]) for truth in taken}
    iou = [shared[truth] / (true_size[truth] + size[truth] - shared[truth]) for truth in taken]
    dsc = [2 * shared[truth] / (true_size[truth] + size[truth]) for truth in taken]
    nothing = math.nan if not n_ref and not n_pred else 0.0
    rq = tp / (tp + (fp + fn) / 2) if tp else nothing
    sq = math.fsum(iou) / tp if tp else nothing
    return {
        "n_ref_instances": n_ref,
        "n_pred_instances": n_pred,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "rq": rq,
        "sq": sq,
        "pq": sq * rq,
        "sq_dsc": math.fsum(dsc) / tp if tp else nothing,
    }


def cc_metrics(pair: MaskPair) -> dict[str, Any]:
    """Score lesions as CC-Metrics does: DSC per lesion within its Voronoi region.

    Every voxel belongs to the lesion that is nearest to it, measured in voxels. The DSC of a lesion is that of the
    lesion and the predicted voxels of its region; the score is the mean over the lesions. Without a lesion it is 0 if
    something was predicted, and NaN if not.

    Source: Jaus et al., "Every Component Counts: Rethinking the Measure of Success for Medical Semantic Segmentation",
    arXiv 2410.18684; ccmetrics 0.0.3, and ``DiceMetric(per_component=True)`` of MONAI.

    Returns:
        ``dsc``: the mean; ``lesions``: the number of lesions.
    """
    scores = cc_dsc(pair)
    if not len(scores):
        return {"lesions": 0, "dsc": math.nan if not len(pair.prediction) else 0.0}
    return {"lesions": len(scores), "dsc": float(scores.mean())}


def cc_dsc(pair: MaskPair) -> Float64Array:
    """Return the DSC of each lesion within its Voronoi region, float64 (true components,)."""
    _, shared = merged_counts(pair)
    return np.asarray(2 * shared / np.maximum(1, pair.truth.voxel_count + pair.nearest_voxels((1.0, 1.0, 1.0))))


def autopet(pair: MaskPair) -> dict[str, Any]:
    """Score lesions as autoPET does: volume of false positive and of false negative components.

    A predicted component (18 neighbours) is false if it shares no voxel with a lesion; a lesion is missed if it shares
    no voxel with the prediction.

    Source: the evaluation script of the autoPET challenge.

    Returns:
        ``false_positive_ml`` and ``false_negative_ml`` [mL].
    """
    found = overlap_matching(pair)
    return {
        "false_positive_ml": found["false_positive_mm3"] / 1000,
        "false_negative_ml": found["false_negative_mm3"] / 1000,
    }


def _lits_groups(pair: MaskPair) -> list[tuple[list[int], list[int]]]:
    """Return merged lesions with the merged predicted components that belong to them."""
    table = pair.overlap_matrix()
    # Lesions that one predicted component joins are one: each lesion goes to the component that overlaps it most.
    merged: dict[int, list[int]] = {}
    for truth in np.flatnonzero(table.any(axis=1)).tolist():
        merged.setdefault(int(table[truth].argmax()), []).append(truth)
    lesions = list(merged.values())
    # Predicted components that lie on one merged lesion are one: each goes to the merged lesion it overlaps most.
    shared = np.array([table[members].sum(axis=0) for members in lesions]).reshape(len(lesions), table.shape[1])
    parts: list[list[int]] = [[] for _ in lesions]
    for prediction in np.flatnonzero(shared.any(axis=0)).tolist():
        parts[int(shared[:, prediction].argmax())].append(prediction)
    return list(zip(lesions, parts, strict=True))


def _group_counts(pair: MaskPair, table: Int64Array, lesions: list[int], parts: list[int]) -> VoxelCounts:
    """Return the voxels of merged lesions and of the predicted components that belong to them."""
    return VoxelCounts(
        intersection=int(table[np.ix_(lesions, parts)].sum()),
        prediction=int(pair.prediction.voxel_count[parts].sum()),
        label=int(pair.truth.voxel_count[lesions].sum()),
    )


def lits_detection(pair: MaskPair, *, min_overlap: float) -> tuple[dict[str, int], list[tuple[list[int], list[int]]]]:
    """Count detected lesions as the LiTS challenge does.

    Lesions that a predicted component joins are merged, then predicted components on one merged lesion. A merged lesion
    is detected if its IoU is above `min_overlap`; all lesions in it then count. The counts of all cases are added
    before precision = TP / (TP + FP) and recall = TP / (TP + FN) are computed.

    Source: the scoring program of the Liver Tumor Segmentation challenge (Bilic et al., arXiv 1901.04056).

    Returns:
        ``tp``, ``fp`` and ``fn``, and the detected groups: numbers of true and of predicted components.
    """
    table = pair.overlap_matrix()
    detected = []
    for lesions, parts in _lits_groups(pair):
        if parts and _group_counts(pair, table, lesions, parts).jaccard > min_overlap:
            detected.append((lesions, parts))
    tp = sum(len(lesions) for lesions, _ in detected)
    return {"tp": tp, "fp": len(pair.prediction) - tp, "fn": len(pair.truth) - tp}, detected


def lits_lesions(pair: MaskPair) -> dict[str, Any]:
    """Score lesions as the LiTS challenge does, for one case.

    Returns:
        ``tp``, ``fp``, ``fn`` at an overlap above 0.5, the same names ending in ``_any`` at an overlap above 0, and
        means over the lesions detected at 0.5: ``dice``, ``jaccard``, ``voe``, ``rvd``, ``assd_mm``, ``rmsd_mm``,
        ``msd_mm`` (largest distance). Without a detected lesion these are the challenge's penalties: 0, 1 and 9001.
    """
    counts, detected = lits_detection(pair, min_overlap=0.5)
    loose, _ = lits_detection(pair, min_overlap=0.0)
    found: dict[str, Any] = counts | {f"{name}_any": value for name, value in loose.items()}
    if not detected:
        penalty = {"voe": 1.0, "rvd": 9001.0, "assd_mm": 9001.0, "rmsd_mm": 9001.0, "msd_mm": 9001.0}
        return found | {"dice": 0.0, "jaccard": 0.0} | penalty
    table = pair.overlap_matrix()
    surfaces = pair.surfaces(detected, conventions=("voxel",))
    rows = []
    for (lesions, parts), surface in zip(detected, surfaces, strict=True):
        counts_of_group = _group_counts(pair, table, lesions, parts)
        jaccard, score = counts_of_group.jaccard, surface["voxel"]
        rows.append(
            (counts_of_group.dsc, jaccard, 1 - jaccard, counts_of_group.relative_volume_difference,
             score.assd_mm, score.rmsd_mm, score.hd_mm)
        )  # fmt: skip
    means = np.asarray(rows).mean(axis=0).tolist()
    return found | dict(zip(("dice", "jaccard", "voe", "rvd", "assd_mm", "rmsd_mm", "msd_mm"), means, strict=True))
