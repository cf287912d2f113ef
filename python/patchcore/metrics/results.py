"""Defines the results of an evaluation: scores per case, per size bin and of the cohort."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchcore.metrics.baselines import BallBaseline, ThresholdBaseline
from patchcore.metrics.lesions import LesionScore

__all__ = ["CaseEvaluation", "Evaluation", "SizeBin"]


@dataclass(frozen=True)
class CaseEvaluation:
    """Scores of one case.

    Attributes:
        case_id: Id of the case.
        patient: The patient of the case.
        dsc: Mean DSC over the classes, on the case's own grid; NaN if neither map contains any of the classes.
        lesion_dsc: DSC of the lesion class only; size bins and baselines use this value.
        dsc_by_class: Label → DSC; for a region, the label that identifies the region.
        volume_mm3: Labelled lesion volume.
        predicted_mm3: Predicted lesion volume.
        lesion_count: Number of lesions in the label map.
        lesions_found: Number of these lesions with at least one predicted voxel.
        false_positives: Number of predicted components without a lesion voxel, formed with the plan's connectivity.
        largest_lesion_mm3: Volume of the largest lesion; 0 without a lesion.
        size_bin: Index of the largest lesion's size bin in :data:`SIZE_BIN_NAMES`; None without a lesion.
        ball_dsc: DSC of the centre-ball baseline.
        threshold_dsc: DSC of the best HU threshold; None if it was not requested.
    """

    case_id: str
    patient: str
    dsc: float
    lesion_dsc: float
    dsc_by_class: dict[int, float]
    volume_mm3: float
    predicted_mm3: float
    lesion_count: int
    lesions_found: int
    false_positives: int
    largest_lesion_mm3: float
    size_bin: int | None
    ball_dsc: float
    threshold_dsc: float | None = None


@dataclass(frozen=True)
class SizeBin:
    """Mean lesion DSC over the `n` cases with a DSC and with a largest lesion in this size bin."""

    name: str
    mean_dsc: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate`.

    Attributes:
        run_id: Id of the run.
        checkpoint_step: Step of the evaluated checkpoint.
        role: Role of the cases in the run: ``used for selection``, ``used for training``, ``new to the run`` or
            ``held out``; ``some used for …`` if their roles differ; ``named cases, …`` if the user named the cases.
        cases: Scores per case, in case_id order.
        mean_dsc: Mean DSC over the cases with a DSC.
        n: Number of cases in the mean.
        undefined: Number of cases excluded from the mean, because nothing was predicted and nothing is labelled.
        global_dsc: DSC of the voxels of all cases together, averaged over the classes.
        dsc_by_class: Label → mean DSC.
        bins: Mean DSC by size of the largest lesion.
        lesions: Recall and precision over all lesions.
        lesion_bins: Recall by size of the true lesion, and precision by size of the predicted component.
        ball: The centre-ball baseline.
        threshold: The best fixed HU threshold within the organ; None if it was not requested.
        mirrored: Whether predictions were averaged over mirrored windows.
        folder: Folder of the report.
        failed: Cases that could not be used, each with the reason.
        figure: The contour figure; None if it could not be drawn.
    """

    run_id: str
    checkpoint_step: int
    role: str
    cases: tuple[CaseEvaluation, ...]
    mean_dsc: float
    n: int
    undefined: int
    global_dsc: float
    dsc_by_class: dict[int, float]
    bins: tuple[SizeBin, ...]
    lesions: LesionScore
    lesion_bins: tuple[LesionScore, ...]
    ball: BallBaseline
    threshold: ThresholdBaseline | None
    mirrored: bool
    folder: Path
    failed: tuple[tuple[str, str], ...]
    figure: Path | None
