"""Whole volumes by sliding window, and the validation of a fold: DSC on the training grid.

DSC here compares label maps on the training grid, where training happens; reports compare on each scan's own grid, see
:mod:`patchcore.engine.evaluation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from patchcore.config.plan import TargetPlan
from patchcore.data.prepare import PreparedCase
from patchcore.engine.device import Placement
from patchcore.events import VAL_DSC_GLOBAL, VAL_DSC_MEAN, val_dsc_bin, val_dsc_class
from patchcore.metrics import DscCounts, mean_dsc
from patchcore.study.fingerprint import SIZE_BIN_EDGES_MM
from patchcore.types import AnyArray, Float32Array
from patchcore.windows import WindowBlender, extract_windows, window_grid

__all__ = ["ValidationResult", "class_map", "predict_volume", "size_bin", "validate_cases", "windows_a_batch"]


def windows_a_batch(placement: Placement) -> int:
    """Return how many windows are predicted at a time."""
    return 4 if placement.device.type == "cpu" else 16


@torch.inference_mode()
def predict_volume(
    network: nn.Module,
    image: AnyArray,
    target: TargetPlan,
    placement: Placement,
    *,
    overlap: float = 0.5,
    look: Callable[[], None] | None = None,
) -> Float32Array:
    """Predict the class probabilities of a volume by sliding window, blended with a Gaussian of σ 0.125 window edges.

    A volume smaller than the window is padded with the lower end of ``hu_range``. The network is left as it is: put it
    into evaluation mode before.

    Args:
        network: Takes (B, 1, *window_size), gives logits (B, 1 + classes, *window_size).
        image: HU on the training grid, (X, Y, Z).
        target: The plan: window, ``hu_range`` and classes.
        placement: Where to compute.
        overlap: Overlap of neighbouring windows.
        look: Called before each batch of windows; what it raises is passed on.

    Returns:
        float32 (1 + classes, X, Y, Z), background first.
    """
    channels = len(target.classes) + 1
    corners = window_grid(image.shape, target.window_size, overlap=overlap)
    blender = WindowBlender(image.shape, channels, target.window_size)
    size = windows_a_batch(placement)
    for start in range(0, len(corners), size):
        if look is not None:
            look()
        part = corners[start : start + size]
        windows = extract_windows(image, part, target.window_size, hu_range=target.hu_range).image
        batch = torch.from_numpy(windows[:, None]).to(placement.device)
        with placement.precision():
            logits = network(batch)
        probabilities = torch.softmax(logits.float(), dim=1).contiguous().cpu().numpy()
        blender.add(part, probabilities)
    return blender.result()


def class_map(probabilities: Float32Array) -> npt.NDArray[np.uint8]:
    """Return the likeliest class of each voxel; on a tie the lower index."""
    if len(probabilities) == 2:
        # The same, without argmax's strided pass.
        larger: npt.NDArray[np.uint8] = (probabilities[1] > probabilities[0]).view(np.uint8)
        return larger
    chosen: npt.NDArray[np.uint8] = probabilities.argmax(axis=0).astype(np.uint8)
    return chosen


def size_bin(volume_mm3: float) -> int:
    """Return the size bin of a lesion by its equivalent diameter: 0 below 5 mm, 1 to 10, 2 to 20, 3 from 20 mm.

    Example:
        >>> [size_bin(v) for v in (60.0, 70.0, 4188.0, 4190.0)]
        [0, 1, 2, 3]
    """
    diameter_mm = (6 * volume_mm3 / math.pi) ** (1 / 3)
    return sum(diameter_mm >= edge for edge in SIZE_BIN_EDGES_MM)


@dataclass
class ValidationResult:
    """DSC of cases on the training grid.

    Attributes:
        classes: The plan's labels.
        counts: Voxel counts by case and class index.
        bins: For each case the size bin of its largest lesion, None where it has none.
    """

    classes: tuple[int, ...]
    counts: DscCounts
    bins: dict[str, int | None] = field(default_factory=dict)

    def mean(self, case_ids: Sequence[str] | None = None) -> float:
        """Return the mean DSC, over some of the cases where named; NaN where none is defined."""
        per_case = self.counts.per_case()
        chosen = per_case if case_ids is None else {case_id: per_case[case_id] for case_id in case_ids}
        return mean_dsc(mean_dsc(dsc[index] for dsc in chosen.values()) for index in self.counts.classes)

    def metrics(self) -> dict[str, float]:
        """Return the values of a validation event."""
        summary = self.counts.summary()
        values = {VAL_DSC_MEAN: summary.mean, VAL_DSC_GLOBAL: summary.global_dsc}
        for index, label in enumerate(self.classes, 1):
            values[val_dsc_class(label)] = summary.classes[index].mean
        per_case = self.counts.per_case()
        for number in range(len(SIZE_BIN_EDGES_MM) + 1):
            members = [per_case[case_id] for case_id, size in self.bins.items() if size == number]
            if members:
                values[val_dsc_bin(number)] = mean_dsc(mean_dsc(dsc.values()) for dsc in members)
        return values


def validate_cases(
    network: nn.Module,
    cases: Sequence[PreparedCase],
    target: TargetPlan,
    placement: Placement,
    *,
    indices: Sequence[int] | None = None,
    overlap: float = 0.5,
    look: Callable[[], None] | None = None,
    on_case: Callable[[dict[str, Any]], None] | None = None,
) -> ValidationResult:
    """Predict whole cases and compare them with their label on the training grid.

    Args:
        network: The network; its mode is restored.
        cases: The cases; each is read whole, one after the other.
        target: The plan's target.
        placement: Where to compute.
        indices: Which of the cases; default: all.
        overlap: Overlap of neighbouring windows.
        look: Called before each batch of windows; what it raises is passed on.
        on_case: Called with the record of each case.

    Returns:
        The counts of all cases.
    """
    result = ValidationResult(target.classes, DscCounts(range(1, len(target.classes) + 1)))
    lesion_class = target.classes.index(target.lesion_label) + 1
    training = network.training
    network.eval()
    try:
        for index in range(len(cases)) if indices is None else indices:
            case = cases[index]
            probabilities = predict_volume(network, case.image(), target, placement, overlap=overlap, look=look)
            prediction = class_map(probabilities)
            result.counts.add(case.case_id, prediction, case.label())
            largest = max(case.lesion_voxels, default=0) * case.voxel_mm3
            result.bins[case.case_id] = size_bin(largest) if largest else None
            if on_case is not None:
                on_case(_record(case, prediction == lesion_class, result))
    finally:
        network.train(training)
    return result


def _record(case: PreparedCase, predicted: AnyArray, result: ValidationResult) -> dict[str, Any]:
    counts = result.counts.counts(case.case_id)
    by_class = {str(label): counts[index].dsc for index, label in enumerate(result.classes, 1)}
    totals = [counts[index] for index in counts]
    return {
        "case_id": case.case_id,
        "patient": case.patient,
        "grid": "training",
        "dsc": mean_dsc(by_class.values()),
        "volume_mm3": sum(item.label for item in totals) * case.voxel_mm3,
        "predicted_mm3": sum(item.prediction for item in totals) * case.voxel_mm3,
        "size_bin": result.bins[case.case_id],
        "dsc_by_class": by_class,
        "lesions": list(_lesions(case, predicted)),
    }


def _lesions(case: PreparedCase, predicted: AnyArray) -> Iterator[dict[str, Any]]:
    """Tell of each lesion how much of it was predicted; found: at least one voxel."""
    spans = case.spans()
    lengths = spans.length.astype(np.int64)
    voxels = np.repeat(spans.origin.astype(np.int64), lengths, axis=0)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    voxels[:, spans.axis] += np.arange(len(voxels)) - starts
    hit = predicted[voxels[:, 0], voxels[:, 1], voxels[:, 2]]
    hits = np.bincount(np.repeat(spans.lesion, lengths), weights=hit, minlength=spans.lesion_count)
    for count, found in zip(case.lesion_voxels, hits, strict=True):
        yield {
            "volume_mm3": count * case.voxel_mm3,
            "share_predicted": round(float(found) / count, 4),
            "found": bool(found),
        }
