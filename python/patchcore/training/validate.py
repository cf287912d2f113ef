"""Validates cases by sliding-window prediction of whole volumes: DSC and lesion scores on the training grid.

The DSC here compares label maps on the training grid. Reports compare them on each scan's own grid, see
:mod:`patchcore.evaluation.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import numpy as np
from torch import nn

from patchcore.config.plan import TargetPlan
from patchcore.inference.geometry import class_map
from patchcore.inference.sliding_window import predict_volume
from patchcore.lesions.size_bins import size_bin
from patchcore.metrics import DscCounts, LesionMatch, VoxelCounts, lesion_score, match_lesions, mean_dsc
from patchcore.models.device import Placement
from patchcore.runs.events import (
    VAL_DSC_GLOBAL,
    VAL_DSC_MEAN,
    VAL_LESION_PRECISION,
    VAL_LESION_RECALL,
    val_dsc_bin,
    val_dsc_class,
    val_precision_bin,
    val_recall_bin,
)
from patchcore.store.prepare import PreparedCase
from patchcore.training.preview import Previews

__all__ = ["ValidationResult", "validate_cases"]


@dataclass
class ValidationResult:
    """DSC and lesion scores of cases on the training grid.

    Attributes:
        classes: The plan's classes, as label values.
        lesion_label: The lesion label; DSC per size bin is computed for this label.
        counts: Voxel counts per case and class index.
        bins: Per case, the size bin of its largest lesion; None if it has no lesion.
        lesions: Per case, the match of its lesions with the predicted lesions.
    """

    classes: tuple[int, ...]
    lesion_label: int
    counts: DscCounts
    bins: dict[str, int | None] = field(default_factory=dict)
    lesions: dict[str, LesionMatch] = field(default_factory=dict)

    @classmethod
    def empty(cls, target: TargetPlan) -> ValidationResult:
        """Return a result without cases."""
        return cls(
            target.classes, target.lesion_label, DscCounts(range(1, len(target.classes) + 1), target.evaluated_indices)
        )

    def mean(self) -> float:
        """Return the mean DSC; NaN if no DSC is defined."""
        per_case = self.counts.per_case().values()
        return mean_dsc(mean_dsc(dsc[index] for dsc in per_case) for index in self.counts.classes)

    def metrics(self) -> dict[str, float]:
        """Return the values of a validation event."""
        summary = self.counts.summary()
        values = {VAL_DSC_MEAN: summary.mean, VAL_DSC_GLOBAL: summary.global_dsc}
        for index, label in enumerate(self.classes, 1):
            values[val_dsc_class(label)] = summary.classes[index].mean
        score, by_bin = lesion_score(self.lesions.values())
        values |= {VAL_LESION_RECALL: score.recall, VAL_LESION_PRECISION: score.precision}
        per_case, lesion_class = self.counts.per_case(), self.classes.index(self.lesion_label) + 1
        for number, its_score in enumerate(by_bin):
            members = [per_case[case_id] for case_id, size in self.bins.items() if size == number]
            if members:
                values[val_dsc_bin(number)] = mean_dsc(dsc[lesion_class] for dsc in members)
            if its_score.lesions:
                values[val_recall_bin(number)] = its_score.recall
            if its_score.predicted:
                values[val_precision_bin(number)] = its_score.precision
        return values

    def to_json(self) -> dict[str, Any]:
        """Return the input of :meth:`merge`, by case id."""
        return {
            case_id: {
                "counts": [astuple(self.counts.counts(case_id)[index]) for index in self.counts.classes],
                "bin": self.bins[case_id],
                "lesions": asdict(self.lesions[case_id]),
            }
            for case_id in self.counts.per_case()
        }

    def merge(self, cases: Mapping[str, Any]) -> None:
        """Add cases that another rank has validated."""
        for case_id, found in cases.items():
            counts = zip(self.counts.classes, found["counts"], strict=True)
            self.counts.add_counts(case_id, {index: VoxelCounts(*numbers) for index, numbers in counts})
            self.bins[case_id] = found["bin"]
            self.lesions[case_id] = LesionMatch.from_json(found["lesions"])


def validate_cases(
    network: nn.Module,
    cases: Sequence[PreparedCase],
    target: TargetPlan,
    placement: Placement,
    *,
    indices: Sequence[int] | None = None,
    overlap: float = 0.5,
    mirror: bool = False,
    look: Callable[[], None] | None = None,
    on_case: Callable[[dict[str, Any]], None] | None = None,
    previews: Previews | None = None,
) -> ValidationResult:
    """Predict whole cases and compare the predictions with the label maps on the training grid.

    Args:
        network: The network; its training or evaluation mode is restored at the end.
        cases: The cases; they are read whole, one after the other.
        target: The plan's target.
        placement: Where to compute.
        indices: Indices of the cases to validate; default: all.
        overlap: Overlap of neighbouring windows.
        mirror: As in :func:`predict_volume`.
        look: Called before each batch of windows; its exceptions are passed on.
        on_case: Called with the record of each case.
        previews: Writes previews of the cases; None: no previews.

    Returns:
        The result of all validated cases.
    """
    result = ValidationResult.empty(target)
    lesion_class = target.classes.index(target.lesion_label) + 1
    training = network.training
    network.eval()
    try:
        for index in range(len(cases)) if indices is None else indices:
            case = cases[index]
            image, label = case.image(), case.label()
            probabilities = predict_volume(network, image, target, placement, overlap=overlap, mirror=mirror, look=look)
            prediction = class_map(probabilities, target.region_indices)
            del probabilities
            if target.ignored_index is not None:
                # Voxels that are ignored count neither as labelled nor as predicted.
                prediction[label == target.ignored_index] = 0
                label = np.where(label == target.ignored_index, 0, label)
            result.counts.add(case.case_id, prediction, label)
            largest = max(case.lesion_voxels, default=0) * case.voxel_mm3
            result.bins[case.case_id] = size_bin(largest) if largest else None
            predicted, labelled = prediction == lesion_class, label == lesion_class
            result.lesions[case.case_id] = match_lesions(
                predicted,
                labelled,
                voxel_mm3=case.voxel_mm3,
                connectivity=target.connectivity,
                min_volume_mm3=target.min_volume_mm3,
                true_spans=case.spans(),
            )
            record = _record(case, result, (int(np.count_nonzero(labelled)), int(np.count_nonzero(predicted))))
            if on_case is not None:
                on_case(record)
            if previews is not None:
                facts = {"hu_range": target.hu_range, "lesion_class": lesion_class, "dsc": record["dsc"]}
                previews.offer(case, image, label, prediction, **facts)
    finally:
        network.train(training)
    return result


def _record(case: PreparedCase, result: ValidationResult, voxels: tuple[int, int]) -> dict[str, Any]:
    """Return the record of a case; `voxels` are the numbers of labelled and predicted lesion voxels."""
    counts, match = result.counts.counts(case.case_id), result.lesions[case.case_id]
    lesion_voxels, predicted_voxels = voxels
    by_class = {str(label): counts[index].dsc for index, label in enumerate(result.classes, 1)}
    return {
        "case_id": case.case_id,
        "patient": case.patient,
        "grid": "training",
        "dsc": mean_dsc(by_class.values()),
        "volume_mm3": lesion_voxels * case.voxel_mm3,
        "predicted_mm3": predicted_voxels * case.voxel_mm3,
        "size_bin": result.bins[case.case_id],
        "lesion_count": len(match.true_mm3),
        "lesions_found": match.found,
        "false_positives": match.false_positives,
        "dsc_by_class": by_class,
        "lesions": [
            {"volume_mm3": volume, "share_predicted": round(share, 4), "found": share > 0}
            for volume, share in zip(match.true_mm3, match.covered_share, strict=True)
        ],
        "predicted": [
            {"volume_mm3": volume, "share_lesion": round(share, 4)}
            for volume, share in zip(match.predicted_mm3, match.overlap_share, strict=True)
        ],
    }
